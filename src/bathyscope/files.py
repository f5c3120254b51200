"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from bathyscope.errors import StorageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place, then move it there: readers see the old file or the new one.

    Raises:
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import tempfile, pathlib
        >>> from bathyscope.files import write_atomically
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_atomically(path, b"whole")
        >>> path.read_bytes()
        b'whole'
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for their owner alone; a result is an ordinary file.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StorageError(
            f"{path} could not be written ({error.strerror or error})",
            f"{len(content):,} bytes of room are needed"
            if full
            else "a folder that exists and can be written is needed",
            "another --out, or room on the disk" if full else "another --out",
        ) from error
