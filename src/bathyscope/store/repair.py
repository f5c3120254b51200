"""Makes the database file ready to open: creates it, or replaces a damaged one by what can be read of it.

Everything here is for who holds the store alone. A damaged file is moved aside, never changed or deleted; a kill
at any moment leaves names from which the next opening goes on.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from bathyscope.errors import StorageError
from bathyscope.store import sqlite_format
from bathyscope.store.blobs import sync
from bathyscope.store.canonical import checksum
from bathyscope.store.database import (
    APPLICATION_ID,
    CELL_COLUMNS,
    RUN_COLUMNS,
    SCHEMA_VERSION,
    TABLES,
    build,
    connect,
    insert,
)
from bathyscope.store.records import Incident

# The part of the header that `build` writes and nothing changes: after the magic, the page size, write-ahead log
# for writing and reading, no reserved bytes, three constants; then schema format 4, UTF-8, and our own mark.
_FIXED = {
    0: b"SQLite format 3\0" + sqlite_format.PAGE.to_bytes(2, "big") + bytes([2, 2, 0, 64, 32, 32]),
    44: (4).to_bytes(4, "big"),
    56: (1).to_bytes(4, "big"),
    68: APPLICATION_ID.to_bytes(4, "big"),
}
_NOT_DAMAGE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
}


class DamagedError(Exception):
    """The file is not a whole database of ours."""


def prepare(path: Path) -> list[Incident]:
    """Create the database, finish a rescue that was killed, or rescue a damaged file.

    Returns:
        What went wrong, if anything did.

    Raises:
        StorageError: the file is another program's, or a newer version's.
    """
    building, rescued, log = (path.with_name(path.name + ending) for ending in (".building", ".rescued", "-wal"))
    building.unlink(missing_ok=True)
    if path.exists():
        rescued.unlink(missing_ok=True)  # killed before the damaged file was moved aside: done again below
    elif rescued.exists():
        if log.exists():
            log.replace(_aside(path, 0, "-wal"))
        _put_in_place(rescued, path)
    frames = log.read_bytes() if log.exists() else b""
    if not path.exists() and not frames:
        build(building)
        _put_in_place(building, path)
    try:
        return examine(path, frames)
    except DamagedError as damage:
        return [_rescue(path, frames, str(damage))]


def examine(path: Path, frames: bytes = b"") -> list[Incident]:
    """Look whether the file is a whole database of this version.

    Args:
        path: the file.
        frames: the bytes of its write-ahead log, where no other process can be changing it. SQLite passes over
            what follows a damaged place there in silence; the rows are put back.

    Returns:
        What was wrong with the log, if anything was.

    Raises:
        DamagedError: the database is not whole.
        StorageError: it is another program's, or a newer version's.
    """
    header = _read_header(path)
    if any(header[at : at + len(value)] != value for at, value in _FIXED.items()):
        if _is_foreign(path):
            raise StorageError(
                f"{path} belongs to another program", "a store of bathyscope was expected", "another folder"
            )
        raise DamagedError("its header is not that of a store")
    try:
        with closing(connect(path)) as connection:
            _, understood, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            _examine_content(path, connection)
            return _catch_up(path, connection, frames, max(understood, 0))
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_DAMAGE:
            raise
        raise DamagedError(str(error)) from error


def _examine_content(path: Path, connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if tables != set(TABLES) and version > SCHEMA_VERSION:
        raise StorageError(
            f"{path} has schema version {version}",
            f"this bathyscope reads up to {SCHEMA_VERSION}",
            "pip install --upgrade bathyscope",
        )
    if tables != set(TABLES) or version != SCHEMA_VERSION:
        raise DamagedError("its tables are not those of a store")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise DamagedError(" ".join(str(verdict).split()))


def _catch_up(path: Path, connection: sqlite3.Connection, frames: bytes, understood: int) -> list[Incident]:
    """Put back the rows of whole transactions behind the place in the log where SQLite stopped reading."""
    if not sqlite_format.goes_on(frames, understood):
        return []
    connection.execute("BEGIN IMMEDIATE")
    counts = insert(connection, _whole_rows(path, frames, understood))
    connection.execute("COMMIT")
    # None is new when a disk was full in the middle of a commit, and the same rows were stored later.
    if not any(counts.values()):
        return []
    return [_incident(path, "the write-ahead log of {} was damaged", counts, "")]


def _rescue(path: Path, frames: bytes, damage: str) -> Incident:
    building, rescued = (path.with_name(path.name + ending) for ending in (".building", ".rescued"))
    counts = build(building, _whole_rows(path, frames))
    building.replace(rescued)
    aside = _aside(path, 1)
    if frames:
        aside.with_name(f"{aside.name}-wal").write_bytes(frames)
    if path.exists():
        path.replace(aside)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    _put_in_place(rescued, path)
    return _incident(path, f"{{}} was damaged ({damage})", counts, f", and the damaged file is {aside.name}")


def _incident(path: Path, what: str, counts: dict[int, int], more: str) -> Incident:
    cells, runs = counts[CELL_COLUMNS], counts[RUN_COLUMNS]
    found = f"{cells} cells and {runs} runs were read from it and kept"
    message = f"{what.format(path)}: {found}; what else it held is computed again when asked for{more}"
    return Incident("rescued", cells, message)


def _whole_rows(path: Path, frames: bytes, since: int | None = None) -> Iterator[list[Any]]:
    if path.exists() and path.stat().st_size:
        with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            yield from filter(_is_whole, sqlite_format.rows(content, frames, since))
    else:
        yield from filter(_is_whole, sqlite_format.rows(b"", frames, since))


def _is_whole(row: list[Any]) -> bool:
    return len(row) in (CELL_COLUMNS, RUN_COLUMNS) and row[-1] == checksum(row[:-1])


def _aside(path: Path, step: int, ending: str = "") -> Path:
    """Return the latest name for a damaged file (step 0), or the first free one (step 1)."""
    start = f"{path.name}.corrupt-"
    numbers = [one.name.removeprefix(start).partition("-")[0] for one in path.parent.glob(f"{start}*")]
    latest = max((int(number) for number in numbers if number.isdecimal()), default=0)
    return path.with_name(f"{start}{latest + step}{ending}")


def _put_in_place(new: Path, path: Path) -> None:
    new.replace(path)
    sync([path.parent])


def _read_header(path: Path) -> bytes:
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(100)


def _is_foreign(path: Path) -> bool:
    try:
        with closing(connect(path, mode="ro")) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:
        return False
    return bool(names) and not names & {"cells", "runs", "quarantine"}
