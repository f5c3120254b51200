"""What `bathyscope sae train` was asked, before a model is loaded: sparsities, sites, texts and their weights."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bathyscope.cli import choices, text_files
from bathyscope.errors import SiteError, UsageError
from bathyscope.sites import Site

if TYPE_CHECKING:
    from bathyscope.sae import CoderConfig, Sparsity, WeightedTexts

TAKES: Final = {
    "topk": {"k"},
    "batch-topk": {"k"},
    "matryoshka": {"k"},
    "jumprelu": {"k", "coefficient"},
    "l1": {"coefficient"},
    "p-anneal": {"coefficient"},
    "gated": {"coefficient"},
}
"""The options of each sparsity."""


def sparsity(name: str, given: dict[str, Any]) -> "Sparsity":
    """A sparsity from its name and what was typed of its numbers.

    Raises:
        UsageError: a number that it does not have, or that makes no sense.
    """
    from bathyscope import sae

    kinds = (sae.TopK, sae.BatchTopK, sae.Matryoshka, sae.JumpReLU, sae.L1, sae.PAnneal, sae.Gated)
    typed = {option: value for option, value in given.items() if value is not None}
    for option in typed.keys() - TAKES[name]:
        having = ", ".join(one for one, takes in TAKES.items() if option in takes)
        raise UsageError(f"--{option} was given with --sparsity {name}", f"only {having} have it", "--sparsity topk")
    return next(kind for kind in kinds if kind.name == name)(**typed)


def asked(
    sites: list[str], target: str | None, skip: bool, n_latents: int, how: "Sparsity"
) -> "tuple[CoderConfig, ...]":
    """The coders that were asked for.

    Raises:
        UsageError: a site twice, no such site, or a target for several.
    """
    from bathyscope.sae import CoderConfig

    found = [site(text, "--site") for text in sites]
    if len(set(found)) < len(found):
        raise UsageError(f"--site {' --site '.join(sites)} were given", "each site once")
    if target is not None and len(found) > 1:
        raise UsageError("--target was given for several sites", "a transcoder has one of each", "one --site")
    return tuple(
        CoderConfig(one, how, n_latents, None if target is None else site(target, "--target"), skip) for one in found
    )


def site(text: str, option: str) -> Site:
    """A site with its layer.

    Raises:
        SiteError: it is none, or names no layer.
    """
    found = Site.parse(text)
    if found.layer is None and found.component != "embed":
        raise SiteError(f"{option} {text} was given", "a coder belongs to one layer", f"{option} {found.component}.12")
    return found


def weighted(path: str) -> tuple[str, float]:
    """A file and how often it is gone through, from FILE or FILE:WEIGHT.

    Raises:
        UsageError: a weight that is none.

    Example:
        >>> from bathyscope.cli.sae_request import weighted
        >>> weighted("verbs.txt:3"), weighted("hf:owner/name:config:split")
        (('verbs.txt', 3.0), ('hf:owner/name:config:split', 1.0))
    """
    found = re.fullmatch(r"(.+):(\d+(?:\.\d+)?|\.\d+)", path)
    if found is None or Path(path).exists():
        return path, 1.0
    if not 0 < float(found[2]) <= 1000:
        raise UsageError(f"--text {path} was given", "a weight above 0", f"--text {found[1]}:1")
    return found[1], float(found[2])


def texts(paths: list[str], column: str, held_out: float) -> "tuple[WeightedTexts, ...]":
    """What coders learn from: each text without the documents that are held out.

    Raises:
        UsageError: a file that cannot be read, or with too few documents.
    """
    from bathyscope.sae import WeightedTexts
    from bathyscope.texts import split_texts

    found = []
    for path, weight in map(weighted, paths):
        documents = text_files.documents(path, column, None)
        with choices.refusing():
            found.append(WeightedTexts(split_texts(documents, held_out=held_out)[0] if held_out else documents, weight))
    return tuple(found)


def check_folder(folder: Path, sites: Sequence[str], *, force: bool) -> None:
    """Refuse a folder that cannot be written to, or that has coders of these sites already; no library is waited for.

    Raises:
        UsageError: it is a file, or there is a coder at one of the sites.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {str(folder)!r} was given", "that is a file, and a folder is made", "--out coders")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    choices.check_writable(existing)
    try:
        names = [str(Site.parse(site)) for site in sites]
    except SiteError:
        return  # which is refused where it is asked for
    there = [name for name in names if (folder / name / "cfg.json").exists()]
    if there and not force:
        raise UsageError(
            f"{folder} has a coder at {', '.join(there)} already",
            "it is not trained again unasked",
            f"another --out, bathyscope sae eval {folder}, or --force to lose what is there",
        )
