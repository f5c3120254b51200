"""A run's cells as a file for other programs: the same cells always give the same bytes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.store.canonical import canonical, sha256
from bathyscope.store.records import FinishedCell, RunInfo

FORMATS = ("json", "csv", "parquet")
SCHEMA_VERSION = 1
_CHUNK = 500

ExportedCell = tuple[str, Mapping[str, Any], Mapping[str, Any], str | None]
"""Key, spec, result and the name of the blob."""


def check_format(format: str) -> str:
    """Refuse a format that there is none of.

    Raises:
        UsageError: it is not in `FORMATS`.
    """
    if format not in FORMATS:
        raise UsageError(f"the format {format!r} was given", f"runs are exported as {', '.join(FORMATS)}", "run.json")
    return format


def gather(keys: Sequence[str], get: Callable[[Sequence[str]], Mapping[str, FinishedCell]]) -> list[ExportedCell]:
    """Read cells a few at a time, so that of their tensors only the names are kept.

    Args:
        keys: the cells.
        get: what reads them; one that it leaves out is left out here.
    """
    cells: list[ExportedCell] = []
    for at in range(0, len(keys), _CHUNK):
        for record in get(keys[at : at + _CHUNK]).values():
            blob = None if record.tensors is None else sha256(record.tensors)
            cells.append((record.key, record.spec, record.result, blob))
    return cells


def render(format: str, run: RunInfo, cells: Sequence[ExportedCell]) -> bytes:
    """Write cells, in the order given.

    JSON keeps everything, a cell a line. A table has the columns key, spec.…, result.… and tensors, nested names
    joined by dots, lists as JSON. In csv text is always in quotes, and what is missing is empty.

    Raises:
        UsageError: parquet, and pyarrow is not installed.

    Example:
        >>> from bathyscope.store import RunInfo
        >>> from bathyscope.store.export import render
        >>> run = RunInfo("0a1b", "demo", "", {}, {}, 1, 1)
        >>> print(render("csv", run, [("ab", {"layer": 3}, {"text": "London"}, None)]).decode())
        "key","spec.layer","result.text","tensors"
        "ab",3,"London",
        <BLANKLINE>
    """
    if format == "json":
        return _json(run, cells)
    columns, rows = _table(cells)
    return _csv(columns, rows) if format == "csv" else _parquet(columns, rows)


def _json(run: RunInfo, cells: Sequence[ExportedCell]) -> bytes:
    head = {
        "kind": run.kind,
        "n_cells": run.n_cells,
        "run": run.id,
        "schema_version": SCHEMA_VERSION,
        "spec": run.spec,
        "status": run.status,
    }
    lines = ",\n".join(
        canonical({"key": key, "result": result, "spec": spec, "tensors": blob}) for key, spec, result, blob in cells
    )
    return f'{canonical(head)[:-1]},"cells":[\n{lines}\n]}}\n'.encode()


def _table(cells: Sequence[ExportedCell]) -> tuple[list[str], list[dict[str, Any]]]:
    rows = [
        {"key": key, **dict(_flat("spec", spec)), **dict(_flat("result", result)), "tensors": blob}
        for key, spec, result, blob in cells
    ]
    names = {name for row in rows for name in row} - {"key", "tensors"}
    middle = [name for part in ("spec", "result") for name in sorted(names) if name.split(".")[0] == part]
    return ["key", *middle, "tensors"], rows


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for inner, one in value.items():
            # A dot in a name is kept apart from the dot between two.
            yield from _flat(f"{name}.{json.dumps(inner) if '.' in inner else inner}", one)
    else:
        yield name, canonical(value) if isinstance(value, (Mapping, list, tuple)) else value


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    # Not the csv module: it cannot keep "" and None apart before Python 3.12.
    lines = [columns, *([row.get(name) for name in columns] for row in rows)]
    return "".join(",".join(map(_field, line)) + "\n" for line in lines).encode()


def _field(value: Any) -> str:
    if value is None:
        return ""
    return '"' + value.replace('"', '""') + '"' if isinstance(value, str) else json.dumps(value)


def _parquet(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("a parquet file needs pyarrow", "it is an extra", 'pip install "bathyscope[frames]"') from None
    table = pyarrow.table({name: _column([row.get(name) for row in rows]) for name in columns})
    file = BytesIO()
    parquet.write_table(table, file)
    return file.getvalue()


def _column(values: list[Any]) -> list[Any]:
    # A column of parquet has one type: of several, or with an integer too large for it, only text holds all.
    kinds = {type(value) for value in values if value is not None}
    huge = any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in values)
    if (len(kinds) <= 1 or kinds == {int, float}) and not huge:
        return [float(value) for value in values] if kinds == {int, float} and None not in values else values
    return [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
