"""Records and runs as rows of the database, each with a checksum; and rows read back, or refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.store.blobs import Blobs
from bathyscope.store.canonical import canonical, checksum, sha256
from bathyscope.store.database import CELL_COLUMNS, RUN_COLUMNS
from bathyscope.store.records import FinishedCell

Row = Sequence[Any]

BLOB = 3
"""The column of a cell's row that names its blob."""


class FaultyError(Exception):
    """A row that is not what was stored, or whose blob is not.

    Args:
        reason: what is wrong.
        blob: the blob, where the row is whole and its blob is not.
    """

    def __init__(self, reason: str, blob: str | None = None) -> None:
        super().__init__(reason)
        self.blob = blob


@dataclass(frozen=True)
class RunRow:
    """A run as it is stored.

    Args:
        id, kind, created, spec, plan: as in `RunInfo`.
        keys: those of its cells.
        checksum: that of the row.
    """

    id: str
    kind: str
    created: str
    spec: Mapping[str, Any]
    plan: Any
    keys: tuple[str, ...]
    checksum: str

    @cached_property
    def key_set(self) -> frozenset[str]:
        """The keys, to look one up."""
        return frozenset(self.keys)


def cell_row(record: FinishedCell) -> Row:
    """Make the row of a record.

    Raises:
        UsageError: its key is not that of its spec, or it holds what JSON cannot.
    """
    spec, result = canonical(record.spec), canonical(record.result)
    if sha256(spec.encode()) != record.key:
        raise UsageError(
            f"a record has the key {record.key!r}, which is not that of its spec", "", "FinishedCell.of(...)"
        )
    columns = (record.key, spec, result, None if record.tensors is None else sha256(record.tensors))
    return (*columns, checksum(columns))


def read_cell(row: Row, blobs: Blobs) -> FinishedCell:
    """Read a record and its blob back.

    Raises:
        FaultyError: the row or the blob is damaged.
    """
    _check(row, CELL_COLUMNS)
    key, spec, result, blob, _ = row
    tensors = None
    if blob is not None and (tensors := blobs.read(blob)) is None:
        raise FaultyError(f"its blob {blob} is missing or damaged", blob)
    return FinishedCell(key, json.loads(spec), json.loads(result), tensors)


def check_keys(keys: Sequence[str]) -> None:
    """Refuse what is no key, and a cell that is in two places of a run.

    Raises:
        UsageError: there is one.
    """
    if len(set(keys)) < len(keys):
        raise UsageError("a cell is in two places of a run", "each is computed once")
    for key in keys:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise UsageError(f"{key!r} was given", "the key of a cell is 64 hex digits", "spec_key(spec)")


def run_id(kind: str, spec: str, keys: str) -> str:
    """Name a run by what it is; the texts are canonical."""
    return sha256(f"[{canonical(kind)},{spec},{keys}]".encode())[:16]


def keys_text(keys: Sequence[str]) -> str:
    """Write the keys of a run as the database has them.

    A list in a list: they were once parted by batch, and runs from then are read as well.
    """
    return canonical([sorted(keys)])


def read_keys(text: str) -> tuple[str, ...]:
    """Read the keys of a run back."""
    return tuple(key for part in json.loads(text) for key in part)


def read_run(row: Row) -> RunRow:
    """Read a run back.

    Raises:
        FaultyError: the row is damaged.
    """
    _check(row, RUN_COLUMNS)
    name, kind, spec, plan, keys, created, check = row
    return RunRow(name, kind, created, json.loads(spec), json.loads(plan), read_keys(keys), check)


def _check(row: Row, n_columns: int) -> None:
    if len(row) != n_columns or row[-1] != checksum(row[:-1]):
        raise FaultyError("its checksum does not fit")
