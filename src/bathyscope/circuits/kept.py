"""What is finished of the search for a circuit, in a folder, so that a search that was stopped goes on where it was."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from bathyscope.files import write_atomically
from bathyscope.store import spec_key


@dataclass(frozen=True)
class Kept:
    """Parts of one piece of work, by name. A part that cannot be read is made again.

    Args:
        folder: where they lie; None keeps nothing.
        spec: what they depend on, as JSON values; parts of another spec are left alone.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from bathyscope.circuits.kept import Kept
        >>> kept = Kept(Path(tempfile.mkdtemp()), {"seed": 0})
        >>> kept.tensor("gradient", lambda: torch.ones(1)), kept.tensor("gradient", lambda: torch.zeros(1))
        (tensor([1.]), tensor([1.]))
    """

    folder: Path | None
    spec: Mapping[str, Any]

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What was kept under a name, or what is made now.

        Raises:
            StorageError: it cannot be kept.
        """
        path = self._path(f"{name}.safetensors")
        if path is not None:
            try:
                return load(path.read_bytes())["value"]
            except (OSError, SafetensorError, KeyError, ValueError):
                pass
        made = make()
        if path is not None:
            write_atomically(path, save({"value": made.contiguous()}))
        return made

    def record(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """As `tensor`, for JSON values."""
        path = self._path(f"{name}.json")
        if path is not None:
            try:
                return dict(json.loads(path.read_text("utf-8")))
            except (OSError, ValueError, TypeError):
                pass
        made = make()
        if path is not None:
            write_atomically(path, json.dumps(made).encode())
        return made

    def _path(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        own = self.folder / spec_key(self.spec)[:16]
        own.mkdir(parents=True, exist_ok=True)
        return own / name
