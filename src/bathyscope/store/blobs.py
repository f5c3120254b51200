"""Blobs: files named by the SHA-256 of their content, so that the same tensors are kept once."""

import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from bathyscope.store.canonical import sha256

SUFFIX = ".safetensors"


class Blobs:
    """The blobs of one store.

    A blob comes in two steps. `stage` does the slow part, beside the others' work; `publish` only renames, and is
    called under the database's write lock, as `remove` is: so no blob is swept away between being found
    there and being referred to.

    Args:
        folder: where they are, as ab/cdef….safetensors.
        quarantine: where damaged ones go.

    Example:
        >>> import tempfile, pathlib
        >>> from bathyscope.store.blobs import Blobs
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> blobs = Blobs(folder / "blobs", folder / "quarantine")
        >>> staged = blobs.stage([b"tensors"])
        >>> blobs.publish(staged)
        >>> [blobs.read(name) for name in staged]
        [b'tensors']
    """

    def __init__(self, folder: Path, quarantine: Path) -> None:
        self.folder = folder
        self._quarantine = quarantine
        self._staging = folder / "staging"

    def stage(self, contents: Iterable[bytes]) -> dict[str, Path]:
        """Write contents to temporary files, on the disk for good; return them by the blobs' names."""
        staged: dict[str, Path] = {}
        try:
            for content in contents:
                name = sha256(content)
                if name not in staged:
                    self._staging.mkdir(parents=True, exist_ok=True)
                    staged[name] = self._staging / secrets.token_hex(16)
                    with staged[name].open("xb") as file:
                        file.write(content)
            sync(staged.values())
        except BaseException:
            self.discard(staged)
            raise
        return staged

    def publish(self, staged: dict[str, Path]) -> None:
        """Move staged files to their names; one that is there and whole is left alone."""
        touched = set()
        for name, temporary in staged.items():
            if self.read(name) is None:
                path = self.path(name)
                if not path.parent.exists():
                    path.parent.mkdir()
                    touched.add(self.folder)
                temporary.replace(path)
                touched.add(path.parent)
        sync(touched)

    def discard(self, staged: dict[str, Path]) -> None:
        """Remove what was staged and not published."""
        for temporary in staged.values():
            with suppress(FileNotFoundError):
                temporary.unlink()

    def read(self, name: str) -> bytes | None:
        """Return a blob's content, or None where it is missing or not what its name says."""
        try:
            content = self.path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content if sha256(content) == name else None

    def names(self) -> Iterator[str]:
        """Return the name of every blob there is."""
        for path in self.folder.glob(f"??/*{SUFFIX}"):
            yield path.parent.name + path.name.removesuffix(SUFFIX)

    def remove(self, names: Iterable[str]) -> int:
        """Delete blobs; return how many there were."""
        count = 0
        for name in names:
            with suppress(FileNotFoundError):
                self.path(name).unlink()
                count += 1
        return count

    def set_aside(self, name: str) -> None:
        """Move a damaged blob to the quarantine, where an earlier one of its name is kept too."""
        with suppress(FileNotFoundError, NotADirectoryError):
            content = self.path(name)
            self._quarantine.mkdir(parents=True, exist_ok=True)
            content.replace(self._quarantine / f"{name}.{secrets.token_hex(4)}{SUFFIX}")

    def remove_leftovers(self) -> int:
        """Remove temporary files; only for who knows that no process is at work here."""
        leftovers = list(self._staging.glob("*"))
        for path in leftovers:
            path.unlink()
        return len(leftovers)

    def path(self, name: str) -> Path:
        """Where a blob is, or would be."""
        return self.folder / name[:2] / f"{name[2:]}{SUFFIX}"


def sync(paths: Collection[Path]) -> None:
    """Put files, or folders' lists of names, on the disk: a renamed file is not safe before its folder is."""
    if len(paths) == 1:
        _sync_one(*paths)
    elif paths:
        from concurrent.futures import ThreadPoolExecutor

        # The file system writes what is asked for at one time at once: several times quicker than one by one.
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(_sync_one, paths))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
