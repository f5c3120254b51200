"""Checkpoint: sums over the prompts that are finished, in one file that is replaced whole after every batch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically

HEADER = "bathyscope_checkpoint"
"""Where the file's metadata keeps what is not a tensor."""


@dataclass(frozen=True)
class Checkpoint:
    """What is known of a fit before it is finished.

    Args:
        path: the file, or None for keeping nothing.
        settings: what the sums depend on, as JSON values; a file of other settings is refused.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from bathyscope.fitting.checkpoints import Checkpoint
        >>> kept = Checkpoint(Path(tempfile.mkdtemp()) / "fit.safetensors", {"seed": 0})
        >>> kept.write(8, {"3": torch.ones(1)})
        >>> kept.read()
        (8, {'3': tensor([1.])})
    """

    path: Path | None
    settings: Mapping[str, Any]

    def write(self, done: int, sums: Mapping[str, Tensor]) -> None:
        """Keep the sums of the first `done` prompts.

        Raises:
            StorageError: the file cannot be written; what was there is intact.
        """
        if self.path is not None:
            header = json.dumps({"settings": self.settings, "done": done}, sort_keys=True)
            write_atomically(self.path, save(dict(sums), {HEADER: header}))

    def read(self) -> tuple[int, dict[str, Tensor]]:
        """How many prompts are done, and their sums; nothing where there is no file yet.

        Raises:
            StorageError: the file is damaged, or something else.
            UsageError: it belongs to another model, other text or other settings.
        """
        if self.path is None or not self.path.exists():
            return 0, {}
        done, settings, sums = _read(self.path, tensors=True)
        wanted = json.loads(json.dumps(self.settings))
        others = sorted(name for name in {*wanted, *settings} if wanted.get(name) != settings.get(name))
        if others:
            raise UsageError(
                f"{self.path} is the checkpoint of a fit with other {', '.join(others)}",
                "a fit goes on from its own only",
                "another checkpoint, or the same settings",
            )
        return done, sums


def settings_kept(path: Path | None) -> dict[str, Any]:
    """The settings of the fit that a file was left by; nothing where there is no file yet.

    For what is measured when a fit begins, and must stay what it was when the fit goes on.

    Raises:
        StorageError: the file is damaged, or something else.
    """
    return {} if path is None or not path.exists() else _read(path, tensors=False)[1]


def _read(path: Path, *, tensors: bool) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            names = list(file.keys()) if tensors else []
            return int(header["done"]), dict(header["settings"]), {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        given = f"{path} could not be read as a checkpoint ({type(error).__name__}: {error})"
        raise StorageError(given, "a file that an interrupted fit left", "another checkpoint") from error
