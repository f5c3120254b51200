"""The SQLite file: its tables, connections to it, and how many commits there have been."""

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bathyscope.errors import StorageError
from bathyscope.store.blobs import sync
from bathyscope.store.failures import BUSY_SECONDS, storage_errors
from bathyscope.store.sqlite_format import PAGE

APPLICATION_ID = 0x42617468  # "Bath"
SCHEMA_VERSION = 1

AMONG = "IN (SELECT value FROM json_each(?))"
"""How SQL asks for any of the texts in one parameter, a JSON list: there is no limit to their number."""

# WITHOUT ROWID, so that a table is one tree: a table and an index beside it can be damaged into disagreeing.
# A run keeps the keys of its cells as one text, for the same reason: nothing is written in two places. Their column
# has the name of what it had once, the batches that they were computed in.
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


class CommitFile:
    """The number of the latest commit, in a file of its own.

    A database whose write-ahead log was cut off or deleted is whole, only younger than it was. Here is what tells.

    It may lag behind the database, when a process is killed right after a commit or two commit at once: then a
    loss may be told smaller than it is. It is never ahead of what was acknowledged.

    Args:
        path: the file; without it the number is 0.

    Example:
        >>> import tempfile, pathlib
        >>> from bathyscope.store.database import CommitFile
        >>> commits = CommitFile(pathlib.Path(tempfile.mkdtemp()) / "commits")
        >>> commits.write(3); commits.read()
        3
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> int:
        """Return the number."""
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return 0

    def write(self, number: int) -> None:
        """Replace the number; a full disk keeps the old one."""
        with suppress(OSError):
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.pwrite(handle, f"{number:020d}".encode(), 0)
            finally:
                os.close(handle)


def count_commit(connection: sqlite3.Connection) -> int:
    """Count a commit in the database, as a part of it; return its number."""
    connection.execute("UPDATE progress SET commits = commits + 1")
    return n_commits(connection)


def n_commits(connection: sqlite3.Connection) -> int:
    """Return how many commits are in the database."""
    return sum(number for (number,) in connection.execute("SELECT commits FROM progress"))


def _let_go_in_child() -> None:
    # Closing SQLite's connection in a forked child can release the parent's locks; so nothing ever closes it.
    _INHERITED.extend(one._connection for one in _OPEN if one._connection is not None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
