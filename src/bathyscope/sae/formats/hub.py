"""hf:owner/name/folder@revision: the files of one coder, fetched from a Hugging Face repository, and nothing else."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bathyscope.errors import StorageError, UsageError

PREFIX: Final = "hf:"
PART: Final = re.compile(r"(?!\.{1,2}$)[\w.=-]+", re.ASCII)
"""A name within a path. Nothing that climbs out of a folder, or that a pattern of files would take for its own."""

REVISION: Final = re.compile(r"(?!.*\.\.)[\w./-]+", re.ASCII)
FILES: Final = (".safetensors", ".npz", ".pt")
"""Endings by which the last part of a path is a file and no folder."""


@dataclass(frozen=True)
class Address:
    """A folder, or a file, of a repository.

    Args:
        repository: owner and name.
        path: within it, or "".
        revision: branch, tag or commit, or None for the newest.

    Example:
        >>> from bathyscope.sae.formats.hub import Address
        >>> Address.parse("hf:google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71@main").path
        'layer_20/width_16k/average_l0_71'
    """

    repository: str
    path: str
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read hf:owner/name/folder@revision.

        Raises:
            UsageError: it is none, or would lead out of the repository.
        """
        name, _, revision = text.removeprefix(PREFIX).partition("@")
        parts = name.rstrip("/").split("/")
        fits = len(parts) > 1 and all(PART.fullmatch(part) for part in parts)
        if not fits or ("@" in text and not REVISION.fullmatch(revision)):
            raise UsageError(
                f"{text!r} is no address of a coder",
                "the owner, the repository and the folder are needed, of letters, digits and . _ - =",
                "hf:google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71",
            )
        return cls("/".join(parts[:2]), "/".join(parts[2:]), revision or None)

    def fetch(self, names: Sequence[str]) -> Path:
        """Fetch the files of these names from the folder, or the one file that the path is.

        Raises:
            StorageError: the repository, the folder or the network is not there.
        """
        folder, _, last = self.path.rpartition("/")
        within = (folder if last.endswith(FILES) else self.path) + "/"
        wanted = [name for name in names if name.endswith(".json")] + [last] if last.endswith(FILES) else names
        try:
            from huggingface_hub import snapshot_download

            snapshot = snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=[f"{within.lstrip('/')}{name}" for name in wanted],
            )
        except Exception as error:  # of any kind: of its own, of the network, of the disk
            reason = " ".join(str(error).split())[:200]
            raise StorageError(
                f"{self.repository} could not be fetched ({type(error).__name__}: {reason})",
                "a public repository of Hugging Face and a network are needed",
                "a folder that was fetched by other means",
            ) from error
        found = Path(snapshot) / self.path
        if not found.exists():
            raise StorageError(f"{self.repository} has no coder in {self.path or 'its own folder'}")
        return found
