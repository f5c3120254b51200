"""What a format is: how it is recognised, read and, where it can be, written."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import torch
from safetensors.torch import save
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import SiteError, StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

CONFIG: Final = "cfg.json"
"""What every format that has a folder calls its config."""

FINGERPRINT: Final = "bathyscope_fingerprint"
"""The key of `cfg.json` by which weights of another save are told; other libraries pass over it."""


class Format(ABC):
    """A format of files that hold a coder.

    Attributes:
        name: what is typed.
        title: what is printed.
        files: the names of the files that it is made of.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    files: ClassVar[tuple[str, ...]]

    @abstractmethod
    def claims(self, location: Location) -> bool:
        """Whether what is at a location has the form of this format."""

    @abstractmethod
    def load(self, location: Location) -> SparseCoder:
        """The coder at a location that the format claims.

        Raises:
            StorageError: it is damaged, or has something that a `SparseCoder` cannot express.
        """


@dataclass(frozen=True, eq=False)
class Written:
    """What a format writes for a coder: the content of cfg.json, and tensors."""

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


class FolderFormat(Format):
    """A format of one folder, with cfg.json and one safetensors file. It can be written as well."""

    weights: ClassVar[str]
    """The name of its safetensors file."""

    @override
    def claims(self, location: Location) -> bool:
        return location.has(CONFIG) and location.has(self.weights)

    @override
    def load(self, location: Location) -> SparseCoder:
        config = Config.read(location.folder / CONFIG)
        coder = self.compose(config, NamedTensors.read(location.folder / self.weights), location)
        wanted = config.get(FINGERPRINT, str, None)
        if wanted is not None and wanted != coder.fingerprint:
            raise StorageError(
                f"{location.folder / self.weights} does not hold what {CONFIG} beside it was written for",
                "both files of one save are needed: the folder was mixed, or its last save was cut short",
                f"save again, or take {FINGERPRINT!r} out of {CONFIG} if another program changed the weights",
            )
        return coder

    @abstractmethod
    def compose(self, config: Config, weights: NamedTensors, location: Location) -> SparseCoder:
        """The coder that a config and tensors describe."""

    @abstractmethod
    def express(self, coder: SparseCoder) -> Written:
        """A config and tensors that describe a coder.

        Raises:
            UsageError: the format has no words for it.
        """

    def as_written(self, coder: SparseCoder) -> SparseCoder:
        """The coder that will be read back: it does the same, and may have had a bias folded.

        Raises:
            UsageError: the format has no words for it.
        """
        return self._read_back(self.express(coder))

    def save(self, coder: SparseCoder, folder: Path) -> None:
        """Write both files, the one that says what the other holds last.

        Raises:
            UsageError: the format has no words for the coder.
            StorageError: a file cannot be written.
        """
        written = self.express(coder)
        config = {**written.config, FINGERPRINT: self._read_back(written).fingerprint}
        text = _json(config)
        # Clones, since the format has no way to say that tensors share memory.
        content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in written.tensors.items()})
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} could not be made ({error.strerror})", "a folder is needed") from error
        write_atomically(folder / self.weights, content)
        write_atomically(folder / CONFIG, text)

    def _read_back(self, written: Written) -> SparseCoder:
        nowhere = Path("/")
        return self.compose(
            Config(nowhere / CONFIG, written.config),
            NamedTensors(nowhere / self.weights, written.tensors),
            Location(nowhere, None, ""),
        )


def _json(config: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(config, indent=2, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"a coder was given whose `model` or `training` is no JSON ({error})", "finite numbers, text and lists"
        ) from error


def site_of(name: object, head: object = None) -> Site | None:
    """The site of a TransformerLens name, or None where we have none of this name."""
    try:
        site = Site.parse(str(name))
        return Site(site.component, site.layer, head) if isinstance(head, int) else site
    except SiteError:
        return None


def transcodes(coder: SparseCoder) -> bool:
    """Whether a coder imitates something else than it reads, though its file may not have said which sites."""
    return coder.is_transcoder or coder.d_in != coder.d_out or bool(coder.training.get("transcoder"))


def moved(coder: SparseCoder, centre: Tensor | None) -> Tensor:
    """The encoder's bias that gives the same pre-activations with another centre, (n_latents,)."""
    given = coder.centre
    if given is centre or (given is not None and centre is not None and torch.equal(given, centre)):
        return coder.encoder_bias
    shift = torch.zeros(coder.d_in, dtype=torch.float64, device=coder.encoder.device)
    shift = shift + (0 if centre is None else centre.double()) - (0 if given is None else given.double())
    return (coder.encoder_bias.double() + coder.encoder.double() @ shift).to(coder.encoder_bias)


def refuse_to_express(coder: SparseCoder, what: str, fmt: Format, instead: str = "bathyscope") -> UsageError:
    """The error of a coder that a format has no words for."""
    return UsageError(
        f"{coder!r} cannot be written as {fmt.title}", f"{fmt.title} has no words for {what}", f"--to {instead}"
    )
