"""What failures of SQLite and of the disk mean for a person, and what to do about them."""

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bathyscope.errors import StorageError

BUSY_SECONDS = 30.0
"""How long a process waits for its turn to write."""


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


def damaged_structure(verdict: str) -> sqlite3.DatabaseError:
    """Make the error that SQLite would raise on meeting such damage."""
    error = sqlite3.DatabaseError(" ".join(verdict.split()))
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


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
