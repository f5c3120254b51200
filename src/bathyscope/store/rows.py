"""Records and runs as rows of the database, each with a checksum; and rows read back, or refused."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bathyscope.errors import StorageError, UsageError
from bathyscope.store.blobs import Blobs
from bathyscope.store.canonical import canonical, checksum, sha256
from bathyscope.store.database import CELL_COLUMNS, RUN_COLUMNS
from bathyscope.store.records import Record

Row = Sequence[Any]


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
class StoredRun:
    """A run as it is stored.

    Args:
        id, kind, created, spec, plan: as in `RunInfo`.
        batches: the keys of the cells, as the plan parted them.
        checksum: that of the row.
    """

    id: str
    kind: str
    created: str
    spec: Mapping[str, Any]
    plan: Any
    batches: tuple[tuple[str, ...], ...]
    checksum: str

    @cached_property
    def keys(self) -> list[str]:
        """The key of every cell, in order of computation."""
        return [key for batch in self.batches for key in batch]


def cell_row(record: Record) -> Row:
    """Make the row of a record.

    Raises:
        UsageError: its key is not that of its spec, or it holds what JSON cannot.
    """
    spec, result = canonical(record.spec), canonical(record.result)
    if sha256(spec.encode()) != record.key:
        raise UsageError(f"a record has the key {record.key!r}, which is not that of its spec", "", "Record.of(...)")
    columns = (record.key, spec, result, None if record.tensors is None else sha256(record.tensors))
    return (*columns, checksum(columns))


def read_cell(row: Row, blobs: Blobs) -> Record:
    """Read a record and its blob back.

    Raises:
        FaultyError: the row or the blob is damaged.
    """
    _check(row, CELL_COLUMNS)
    key, spec, result, blob, _ = row
    tensors = None
    if blob is not None and (tensors := blobs.read(blob)) is None:
        raise FaultyError(f"its blob {blob} is missing or damaged", blob)
    return Record(key, json.loads(spec), json.loads(result), tensors)


def new_rows(keys: Sequence[str], rows: Mapping[str, Row], stored: Mapping[str, Row]) -> list[Row]:
    """Choose what a batch adds to what is stored of it.

    Args:
        keys: the cells of the batch.
        rows: what is to be stored, by key.
        stored: what is, by key.

    Raises:
        UsageError: a cell is neither stored nor given.
        StorageError: a cell is both, and not the same.
    """
    if lacking := [key for key in keys if key not in stored and key not in rows]:
        raise UsageError(f"{len(lacking)} cells of the batch are lacking, {lacking[0]} first", "it is stored whole")
    if other := [key for key in stored if key in rows and rows[key] != stored[key]]:
        raise StorageError(
            f"cell {other[0]} is stored with another result",
            "the same cell has the same result: something that it depends on is not in its spec",
        )
    return [row for key, row in rows.items() if key not in stored]


def check_keys(keys: Sequence[str]) -> None:
    """Refuse what is no key, and a cell that is in two places of a run.

    Raises:
        UsageError: there is one.
    """
    if len(set(keys)) < len(keys):
        raise UsageError("a cell is in two places of a run", "each is computed once")
    for key in keys:
        if len(key) != 64 or set(key) - set("0123456789abcdef"):
            raise UsageError(f"{key!r} was given", "the key of a cell is 64 hex digits", "cell_key(spec)")


def run_id(kind: str, spec: str, batches: str) -> str:
    """Name a run by what it is."""
    return sha256(f"[{canonical(kind)},{spec},{batches}]".encode())[:16]


def read_run(row: Row) -> StoredRun:
    """Read a run back.

    Raises:
        FaultyError: the row is damaged.
    """
    _check(row, RUN_COLUMNS)
    name, kind, spec, plan, batches, created, check = row
    parted = tuple(tuple(batch) for batch in json.loads(batches))
    return StoredRun(name, kind, created, json.loads(spec), json.loads(plan), parted, check)


def _check(row: Row, n_columns: int) -> None:
    if len(row) != n_columns or row[-1] != checksum(row[:-1]):
        raise FaultyError("its checksum does not fit")
