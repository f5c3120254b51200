"""Locks between processes that the kernel releases when their holder dies, however it dies."""

import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bathyscope.errors import StorageError, UsageError
from bathyscope.store.failures import storage_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_HELD: "weakref.WeakSet[FileLock]" = weakref.WeakSet()


class FileLock:
    """A lock on a file: shared by many or held by one.

    `flock` and not `lockf`, because a `lockf` lock does not keep out a second holder in the same process, and is
    lost when any other descriptor of the file is closed. What `flock` would do wrong, staying locked as long as a
    forked child lives, is undone by closing the child's copy.

    Args:
        path: the file; it is made when missing, and holds the process id of its latest holder.

    Example:
        >>> import tempfile, pathlib
        >>> from bathyscope.store.locks import FileLock
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "lock"
        >>> one, other = FileLock(path), FileLock(path)
        >>> one.acquire(exclusive=True), other.acquire(exclusive=True)
        (True, False)
        >>> one.release(); other.acquire(exclusive=True)
        True
        >>> other.release()
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        self.path = path
        if fcntl is None:
            raise UsageError("this system has no fcntl", "the store needs Linux, macOS or WSL")

    def __del__(self) -> None:
        self.forget()

    def acquire(self, *, exclusive: bool, patience: float = 0.0) -> bool:
        """Take the lock, or say that it is taken.

        Args:
            exclusive: for one holder alone.
            patience: for how many seconds to try again.
        """
        deadline = time.monotonic() + patience
        while not self._try(exclusive):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def release(self) -> None:
        """Give the lock back; without effect when it is not held."""
        if self._descriptor is not None:
            assert fcntl is not None
            # Closing would do, unless a child that was forked without Python's knowledge has a copy.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock, which leaves other copies of it locked."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def owner(self) -> int | None:
        """Return the process id of the latest holder."""
        try:
            return int(self.path.read_text())
        except (OSError, ValueError):
            return None

    def _try(self, exclusive: bool) -> bool:
        assert fcntl is not None
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            # Its last holder may have deleted the file between the two lines above: that lock keeps nobody out.
            if not os.path.samestat(os.fstat(descriptor), self.path.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _HELD.add(self)
        self._sign()
        return True

    def _sign(self) -> None:
        assert self._descriptor is not None
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, only its owner is not named


@contextmanager
def lease(path: Path, what: str) -> Iterator[None]:
    """Keep something for oneself while computing it.

    Args:
        path: the file of its lock.
        what: what it is, for people.

    Raises:
        StorageError: it is being computed already, by the process that is named.
    """
    lock = FileLock(path)
    with storage_errors(path):
        taken = lock.acquire(exclusive=True)
    if not taken:
        owner = lock.owner()
        raise StorageError(
            f"{what} is being computed by " + (f"process {owner}" if owner else "another process"),
            "one at a time can",
            "the same command when that has ended",
        )
    try:
        yield
    finally:
        lock.release()


def _forget_in_child() -> None:
    for lock in list(_HELD):
        lock.forget()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_in_child)
