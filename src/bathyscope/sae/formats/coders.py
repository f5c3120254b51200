"""Coders on disk: recognised by what is there, read, written, and found in the folders of a training run."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bathyscope.errors import StorageError, UsageError
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.base import CONFIG, FolderFormat, Format
from bathyscope.sae.formats.dictionary_learning import DictionaryLearning
from bathyscope.sae.formats.gemma_scope import GemmaScope, GemmaScope2
from bathyscope.sae.formats.hub import PREFIX, Address
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.openai import OpenAi
from bathyscope.sae.formats.own import Own
from bathyscope.sae.formats.saelens import SaeLens
from bathyscope.sae.formats.sparsify import Sparsify
from bathyscope.sites import Site

FORMATS: Final[tuple[Format, ...]] = (
    Own(),
    SaeLens(),
    Sparsify(),
    DictionaryLearning(),
    GemmaScope(),
    GemmaScope2(),
    OpenAi(),
)
WRITABLE: Final[dict[str, FolderFormat]] = {fmt.name: fmt for fmt in FORMATS if isinstance(fmt, FolderFormat)}


@dataclass(frozen=True)
class Found:
    """A coder that was recognised, and not yet read.

    Args:
        format: the one format that claims it.
        location: where it is.
    """

    format: Format
    location: Location

    def load(self, site: Site | str | None = None, target: Site | str | None = None) -> SparseCoder:
        """Read it; see `load_coder`."""
        try:
            coder = self.format.load(self.location)
        except UsageError as error:  # numbers or shapes that no coder may have
            raise StorageError(f"{self.location.path}: {error.given}", error.expected, error.remedy) from error
        where = coder.site if site is None else Site.parse(site)
        # An autoencoder writes where it reads.
        imitated = coder.target if coder.is_transcoder or coder.training.get("transcoder") else where
        return replace(coder, site=where, target=imitated if target is None else Site.parse(target))


def find_coder(path: str | Path) -> Found:
    """Recognise the format of a coder by the files that are there, and by nothing else.

    Raises:
        StorageError: nothing is there, or no format, or more than one, claims it.
        UsageError: an address of a repository that is none.
    """
    text = str(path)
    if text.startswith(PREFIX):
        names = list(dict.fromkeys(name for fmt in FORMATS for name in fmt.files))
        location = Location.of(Address.parse(text).fetch(names), text)
    else:
        location = Location.of(Path(path).expanduser())
    claiming = [fmt for fmt in FORMATS if fmt.claims(location)]
    if len(claiming) == 1:
        return Found(claiming[0], location)
    there = ", ".join(sorted(one.name for one in location.folder.iterdir())[:8]) or "nothing"
    if claiming:
        names = " and as ".join(fmt.title for fmt in claiming)
        raise StorageError(f"{location.path} can be read as {names}; it has {there}", "one coder a folder is needed")
    several = _below(location.folder) if location.file is None else []
    raise StorageError(
        f"{location.path} holds no coder that is recognised; it has {there}",
        "; ".join(f"{' and '.join(fmt.files[:2])} make a coder of {fmt.title}" for fmt in FORMATS[:3]),
        str(several[0]) if several else "bathyscope sae convert --help",
    )


def load_coder(path: str | Path, *, site: Site | str | None = None, target: Site | str | None = None) -> SparseCoder:
    """Read a coder, whoever trained it.

    Its format is recognised by its files: Bathyscope's own, SAELens (all versions), sparsify, dictionary_learning,
    Gemma Scope 1 and 2, OpenAI's of GPT-2. What inference does besides is folded into the weights where that is exact,
    and refused, with the reason, where it is not. Nothing is unpickled, and no size that a file announces is believed.

    Args:
        path: a folder, a file, or hf:owner/name/folder@revision for files of a Hugging Face repository.
        site: what it encodes, where the file does not say or is wrong.
        target: what it reconstructs; `site` for an autoencoder.

    Returns:
        The coder. `site` is None where neither the file nor the caller says it.

    Raises:
        StorageError: it is missing, damaged, hostile, of a newer version, or beyond what a `SparseCoder` expresses.
        UsageError: an address of a repository that is none.

    Example:
        >>> import tempfile, torch
        >>> from bathyscope.sae import KeepTop, SparseCoder, load_coder, save_coder
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
        >>> folder = save_coder(coder, tempfile.mkdtemp(), format="sparsify")
        >>> load_coder(folder, site="resid_post.12")
        SparseCoder(autoencoder at resid_post.12, 3 latents, {'selection': 'top', 'k': 1})
    """
    return find_coder(path).load(site, target)


def save_coder(coder: SparseCoder, folder: str | Path, *, format: str = "bathyscope") -> Path:
    """Write a coder: a safetensors file, then cfg.json with its fingerprint, each whole or not at all.

    A folder in which a save was cut short, or which has files of two saves, is refused when it is read.

    Args:
        coder: what to write.
        folder: where; it is made if need be, and a coder of the same format in it is replaced.
        format: "bathyscope", "saelens" or "sparsify". The last two tie what is taken from inputs to the decoder's
            bias: where a coder does not, the difference is folded into the encoder's bias.

    Returns:
        The folder.

    Raises:
        UsageError: the format has no words for the coder, or the folder has a coder of another format.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import tempfile, torch
        >>> from bathyscope.sae import KeepTop, SparseCoder, load_coder, save_coder
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
        >>> load_coder(save_coder(coder, tempfile.mkdtemp())).fingerprint == coder.fingerprint
        True
    """
    chosen, folder = writable(format), Path(folder)
    others = [fmt.weights for fmt in WRITABLE.values() if fmt is not chosen and (folder / fmt.weights).exists()]
    if others:
        raise UsageError(f"{folder} has {others[0]}, of another format", "one coder a folder", "another folder")
    chosen.save(coder, folder)
    return folder


def writable(name: str) -> FolderFormat:
    """The format of this name that coders can be written in.

    Raises:
        UsageError: there is none.
    """
    if name not in WRITABLE:
        raise UsageError(f"the format {name!r} was given", f"coders are written as {', '.join(WRITABLE)}", "bathyscope")
    return WRITABLE[name]


def coder_folders(folder: str | Path) -> list[Path]:
    """The folders of coders: the folder itself, or those in it, as a training run of several sites leaves them.

    Args:
        folder: DIR, where coders lie in DIR/SITE, or one of these.

    Returns:
        At least one folder, in the order of their layers.

    Raises:
        StorageError: there is none.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from bathyscope.sae import KeepTop, SparseCoder, coder_folders, save_coder
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
        >>> run = Path(tempfile.mkdtemp())
        >>> for layer in (12, 3):
        ...     _ = save_coder(coder, run / f"resid_post.{layer}")
        >>> [one.name for one in coder_folders(run)]
        ['resid_post.3', 'resid_post.12']
    """
    folder = Path(folder).expanduser()
    found = [folder] if _is_coder(folder) else _below(folder)
    if not found:
        raise StorageError(
            f"{folder} has no coder, and no folder in it has one",
            f"{CONFIG} and a safetensors file make one",
            "bathyscope sae train --out DIR",
        )
    return found


def _is_coder(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and any(folder.glob("*.safetensors"))


def _below(folder: Path) -> list[Path]:
    found = [one for one in folder.iterdir() if one.is_dir() and _is_coder(one)] if folder.is_dir() else []
    return sorted(found, key=lambda one: [int(part) if part.isdecimal() else part for part in _parts(one.name)])


def _parts(name: str) -> list[str]:
    """Words and numbers by turns, so that layer 3 stands before layer 12."""
    return re.split(r"(\d+)", name)
