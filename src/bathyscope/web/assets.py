"""The app's own files, as the wheel has them: read once, and found by exact name only."""

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from bathyscope.errors import StorageError

TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
"""The kinds of files that a build has; no other is served."""


@dataclass(frozen=True)
class Asset:
    """A file.

    Args:
        body: its bytes.
        media_type: what it is.
        tag: the hash by which a browser knows that it has it already.
    """

    body: bytes
    media_type: str
    tag: str


def assets() -> dict[str, Asset]:
    """The built app, by the path that a browser asks for.

    Raises:
        StorageError: it was not built.
    """
    found: dict[str, Asset] = {}
    root = files("bathyscope.web") / "dist"
    if root.is_dir():
        _read(root, "/", found)
    if "/index.html" not in found:
        raise StorageError(
            "this installation is without the web app's files",
            "wheels have them; in a clone they are built",
            "make ui",
        )
    found["/"] = found["/index.html"]
    return found


def _read(folder: Traversable, path: str, found: dict[str, Asset]) -> None:
    for one in folder.iterdir():
        ending = one.name.rpartition(".")[2]
        if one.is_dir():
            _read(one, f"{path}{one.name}/", found)
        elif ending in TYPES:
            body = one.read_bytes()
            found[path + one.name] = Asset(body, TYPES[ending], f'"{sha256(body).hexdigest()[:32]}"')
