"""Bathyscope's own format: cfg.json and coder.safetensors, from which the same coder is read to the last bit."""

from typing import Any, Final

from torch import Tensor
from typing_extensions import override

from bathyscope.sae.code import KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.base import FINGERPRINT, FolderFormat, Written
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

VERSION: Final = 1
"""Version of the files; one of a newer version is refused."""

NEEDED: Final = ("encoder", "encoder_bias", "decoder", "decoder_bias")


class Own(FolderFormat):
    """What `save_coder` writes unless it is told otherwise."""

    name = "bathyscope"
    title = "Bathyscope"
    weights = "coder.safetensors"
    files = ("cfg.json", "coder.safetensors")

    @override
    def compose(self, config: Config, weights: NamedTensors, location: Location) -> SparseCoder:
        if config.size("version") > VERSION:
            config.refuse(
                "was written by a newer bathyscope", f"a version up to {VERSION}", "pip install -U bathyscope"
            )
        n_latents, d_in = weights.matrix("encoder").shape
        d_out = weights.matrix("decoder").shape[1]
        shapes = {
            "encoder": (n_latents, d_in),
            "encoder_bias": (n_latents,),
            "decoder": (n_latents, d_out),
            "decoder_bias": (d_out,),
            "centre": (d_in,),
            "skip": (d_in, d_out),
        }
        if unknown := sorted(set(weights.tensors) - {*shapes, "threshold"}):
            weights.refuse(f"has {unknown[0]}", "no coder has that")
        found = {name: weights.take(name, *shapes[name]) for name in shapes if name in weights or name in NEEDED}
        return SparseCoder(
            **found,
            selection=_selection(config.part("selection"), weights, n_latents),
            normed=config.get("normed", bool),
            site=_site(config, "site"),
            target=_site(config, "target"),
            model=config.get("model", dict),
            training=config.get("training", dict),
        )

    @override
    def express(self, coder: SparseCoder) -> Written:
        config: dict[str, Any] = {
            "format": "bathyscope-coder",
            "version": VERSION,
            "n_latents": coder.n_latents,
            "d_in": coder.d_in,
            "d_out": coder.d_out,
            "selection": coder.selection.spec(),
            "normed": coder.normed,
            "site": None if coder.site is None else str(coder.site),
            "target": None if coder.target is None else str(coder.target),
            "model": dict(coder.model),
            "training": dict(coder.training),
        }
        return Written(config, coder.tensors())

    @override
    def load(self, location: Location) -> SparseCoder:
        coder = super().load(location)
        if (config := location.config("cfg.json")) is not None:
            config.get(FINGERPRINT, str)  # others' folders may do without
        return coder


def _selection(config: Config, weights: NamedTensors, n_latents: int) -> Selection:
    kind = config.get("selection", str)
    if kind == "top":
        return KeepTop(config.size("k"))
    if kind != "above":
        config.refuse(f"has the selection {kind!r}", "top or above")
    threshold: Tensor | None = weights.tensors.get("threshold")
    return KeepAbove(weights.take("threshold", *(() if threshold is not None and not threshold.ndim else (n_latents,))))


def _site(config: Config, name: str) -> Site | None:
    text = config.get(name, str, None)
    return None if text is None else Site.parse(text)
