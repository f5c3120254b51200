"""How many commits there have been, written beside the database too.

A database whose write-ahead log was cut off or deleted is whole, only younger than it was. Here is what tells.
"""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path


class Watermark:
    """The number of the latest commit, in a file of its own.

    It may lag behind the database, when a process is killed right after a commit or two commit at once: then a
    loss may be told smaller than it is. It is never ahead of what was acknowledged.

    Args:
        path: the file; without it the number is 0.

    Example:
        >>> import tempfile, pathlib
        >>> from bathyscope.store.watermark import Watermark
        >>> watermark = Watermark(pathlib.Path(tempfile.mkdtemp()) / "commits")
        >>> watermark.write(3); watermark.read()
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
