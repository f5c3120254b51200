"""The SQLite file: its tables, a connection to it, and what its errors mean for a person."""

import errno
import os
import shutil
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bathyscope.errors import StorageError
from bathyscope.store.blobs import sync
from bathyscope.store.salvage import PAGE

APPLICATION_ID = 0x42617468  # "Bath"
SCHEMA_VERSION = 1
BUSY_SECONDS = 30.0

# WITHOUT ROWID, so that a table is one tree: a table and an index beside it can be damaged into disagreeing.
# A run keeps its batches as one text, for the same reason: nothing is written in two places.
TABLES = (
    "CREATE TABLE cells (key TEXT PRIMARY KEY, spec TEXT NOT NULL, result TEXT NOT NULL, blob TEXT,"
    " checksum TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE runs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, spec TEXT NOT NULL, plan TEXT NOT NULL,"
    " batches TEXT NOT NULL, created TEXT NOT NULL, checksum TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE quarantine (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, reason TEXT NOT NULL,"
    " content TEXT NOT NULL)",
    "CREATE TABLE progress (commits INTEGER NOT NULL)",
)
CELL_COLUMNS, RUN_COLUMNS = 5, 7

_OPEN: "weakref.WeakSet[Database]" = weakref.WeakSet()
_INHERITED: list[sqlite3.Connection] = []


def build(path: Path, rows: Iterable[Sequence[Any]] = ()) -> dict[int, int]:
    """Make a whole new database, on the disk for good.

    Args:
        path: where; nothing is there yet.
        rows: cells and runs to put in; of two with one key the first.

    Returns:
        How many were put in, by number of columns, as `insert` does.
    """
    path.touch()
    connection = connect(path)
    try:
        # Nobody knows of the file before it is whole, so that its own journal would be work for nothing.
        for setting in (f"page_size={PAGE}", "journal_mode=MEMORY", "synchronous=OFF"):
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        for table in TABLES:
            connection.execute(table)
        connection.execute("INSERT INTO progress VALUES (0)")
        counts = insert(connection, rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=WAL")  # is written into the file and stays
    finally:
        connection.close()
    sync([path])
    return counts


def insert(connection: sqlite3.Connection, rows: Iterable[Sequence[Any]]) -> dict[int, int]:
    """Put in the cells and runs that are not there, told apart by their number of columns.

    Returns:
        How many were put in, by number of columns.
    """
    counts = {CELL_COLUMNS: 0, RUN_COLUMNS: 0}
    for row in rows:
        table = "cells" if len(row) == CELL_COLUMNS else "runs"
        marks = ", ".join("?" * len(row))
        counts[len(row)] += connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row).rowcount
    return counts


def connect(path: Path, *, durable: bool = False, mode: str = "rw") -> sqlite3.Connection:
    """Open an SQLite file that exists, without any check.

    Args:
        path: the file.
        durable: whether a commit also survives a power cut; one that returned survives a killed process anyway.
        mode: "rw" or "ro".
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    # Damaged text is read as it is, for the checksum to tell, instead of raising in the middle of a table.
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        for setting in (f"synchronous={'FULL' if durable else 'NORMAL'}", "secure_delete=ON", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


class Database:
    """One connection, used by one thread at a time and by the process that opened it.

    Args:
        path: the file, known to be whole.
        durable: see `connect`.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self._process = os.getpid()
        self._turn = threading.RLock()
        self._connection: sqlite3.Connection | None = connect(path, durable=durable)
        _OPEN.add(self)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read; what fails is told as a `StorageError`."""
        if self._process != os.getpid():
            raise StorageError(
                f"the store in {self.path.parent} was opened by process {self._process}, and this is {os.getpid()}",
                "a process that was forked opens its own",
            )
        if self._connection is None:
            raise StorageError(f"the store in {self.path.parent} was closed", "an open one was expected")
        with self._turn, storage_errors(self.path):
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Change several things, all or none; no other process changes anything meanwhile."""
        with self.reading() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # After some failures, a full disk among them, SQLite has rolled back already.
                if connection.in_transaction:
                    with suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the connection; in a forked child, where that could harm the parent's, only let go of it."""
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say what an error of SQLite or of the system means, and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        # SQLite knows a full disk by one code; a used-up quota, a limit or a full disk at another moment have others.
        unclear = code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
        cause = "full" if unclear and _has_no_room(path) else _CAUSES.get(code, _CAUSES.get(code & 0xFF))
        raise _explained(path, cause, error) from error
    except OSError as error:
        cause = "full" if error.errno in _FULL else "closed" if error.errno in _CLOSED else None
        raise _explained(path, cause, error) from error


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_CAUSES = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR_WRITE: "refused",
    sqlite3.SQLITE_IOERR_SHMSIZE: "refused",
    sqlite3.SQLITE_READONLY: "closed",
    sqlite3.SQLITE_CANTOPEN: "closed",
    sqlite3.SQLITE_PERM: "closed",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}


def _has_no_room(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < 2**20
    return False


def _explained(path: Path, cause: str | None, error: Exception) -> StorageError:
    again = "the same command again: finished cells are kept"
    given, expected, remedy = {
        "full": (f"the disk of {path.parent} is full", "", f"free some space, then {again}"),
        "refused": (
            f"{path} cannot be written",
            "the disk is full, or your share of it, or it fails",
            f"free some space, then {again}",
        ),
        "closed": (
            f"{path} cannot be opened for writing",
            "a folder of one's own was expected",
            "BATHYSCOPE_HOME=FOLDER, one that you can write to",
        ),
        "busy": (f"another process has kept {path} locked for {BUSY_SECONDS:.0f} seconds", "", again),
        "damaged": (f"{path} is damaged", "what can be read of it is kept when it is next opened", again),
        None: (f"{path} could not be read or written", "a disk that works and has room was expected", again),
    }[cause]
    return StorageError(f"{given} ({error})", expected, remedy)


def _let_go_in_child() -> None:
    # Closing SQLite's connection in a forked child can release the parent's locks; so nothing ever closes it.
    _INHERITED.extend(one._connection for one in _OPEN if one._connection is not None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
