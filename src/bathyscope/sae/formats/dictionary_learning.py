"""dictionary_learning: ae.pt, a dict of tensors that torch saved, and config.json, which says of which class it is."""

import re
import warnings
from collections.abc import Mapping, Set
from typing import Any, Final

import torch
from typing_extensions import override

from bathyscope.errors import BathyscopeWarning
from bathyscope.sae.code import KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.archives import names_in_torch, read_torch, tensors_of
from bathyscope.sae.formats.base import Format, site_of
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.gates import gated
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors

KEYS: Final[Mapping[str, frozenset[str]]] = {
    "AutoEncoder": frozenset({"bias", "encoder.weight", "encoder.bias", "decoder.weight"}),
    "AutoEncoderNew": frozenset({"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}),
    "GatedAutoEncoder": frozenset(
        {"decoder_bias", "encoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder.weight"}
    ),
    "AutoEncoderTopK": frozenset({"b_dec", "encoder.weight", "encoder.bias", "decoder.weight", "k"}),
    "BatchTopKSAE": frozenset({"b_dec", "encoder.weight", "encoder.bias", "decoder.weight", "k", "threshold"}),
    "JumpReluAutoEncoder": frozenset({"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}),
    "MatryoshkaBatchTopKSAE": frozenset({"W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold", "group_sizes"}),
}
"""What each class saves; a TopK of today also has a threshold, which its inference does not use."""


class DictionaryLearning(Format):
    """Its seven classes, as their own inference runs them."""

    name = "dictionary_learning"
    title = "dictionary_learning"
    files = ("ae.pt", "config.json")

    @override
    def claims(self, location: Location) -> bool:
        path = location.find("ae.pt", ".pt")
        return path is not None and bool(_classes(names_in_torch(path)))

    @override
    def load(self, location: Location) -> SparseCoder:
        path = location.find("ae.pt", ".pt")
        assert path is not None, "a location that was claimed has its file"
        weights = tensors_of(path, read_torch(path))
        config = location.config("config.json")
        trainer = config.part("trainer") if config else Config(path, {})
        kind = _class_of(weights, trainer)
        found = _linear(weights) if "encoder.weight" in weights else _matrices(weights)
        n_latents = len(found["encoder"])
        rule: Selection = KeepAbove(torch.tensor(0.0))
        if kind == "GatedAutoEncoder":
            gates = (weights.take(name, n_latents) for name in ("r_mag", "mag_bias", "gate_bias"))
            found["encoder"], found["encoder_bias"], rule = gated(found["encoder"], *gates)
        elif kind == "AutoEncoder":
            _norm_decoder(found)
        elif kind == "AutoEncoderTopK":
            rule = KeepTop(weights.whole("k"))
        elif kind == "JumpReluAutoEncoder":
            rule = KeepAbove(weights.take("threshold", n_latents).clamp(min=0))
        elif "BatchTopK" in kind:
            rule = _calibrated(weights)
        site = _site(trainer)
        return SparseCoder(
            **found,
            selection=rule,
            centre=None if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else found["decoder_bias"],
            site=site,
            target=site,
            model={"model": trainer.get("lm_name", str, "")},
            training={"format": self.name, "class": kind, "cfg": dict(config.values) if config else {}},
        )


def _classes(names: Set[str]) -> list[str]:
    """The classes that save tensors of these names."""
    found = [kind for kind, keys in KEYS.items() if keys == names]
    return ["AutoEncoderTopK", *found] if found == ["BatchTopKSAE"] else found


def _class_of(weights: NamedTensors, trainer: Config) -> str:
    """The class, which config.json has to say where two save the same names."""
    possible, said = _classes(set(weights.tensors)), trainer.get("dict_class", str, None)
    if said is not None and said not in possible:
        trainer.refuse(f"says that {weights.path.name} is a {said}", f"by what it holds, {' or '.join(possible)}")
    if said is None and len(possible) > 1:
        weights.refuse(
            f"is one of {' or '.join(possible)}, which save the same and do not compute the same",
            "config.json beside it says which, in trainer.dict_class",
            f'{{"trainer": {{"dict_class": "{possible[0]}"}}}}',
        )
    return said or possible[0]


def _linear(weights: NamedTensors) -> dict[str, Any]:
    """The parts of a class that is made of linear layers."""
    encoder = weights.matrix("encoder.weight")
    n_latents, d_in = encoder.shape
    bias = next(name for name in ("bias", "b_dec", "decoder_bias", "decoder.bias") if name in weights)
    return {
        "encoder": encoder,
        "encoder_bias": weights.take("encoder.bias", n_latents) if "encoder.bias" in weights else None,
        "decoder": weights.take("decoder.weight", d_in, n_latents).T.contiguous(),
        "decoder_bias": weights.take(bias, d_in),
    }


def _matrices(weights: NamedTensors) -> dict[str, Any]:
    """The parts of a class that is made of matrices."""
    d_in, n_latents = weights.matrix("W_enc").shape
    if "group_sizes" in weights and int(weights.tensors["group_sizes"].sum()) != n_latents:
        weights.refuse(f"has groups of {int(weights.tensors['group_sizes'].sum())} latents", f"there are {n_latents}")
    return {
        "encoder": weights.take("W_enc", d_in, n_latents).T.contiguous(),
        "encoder_bias": weights.take("b_enc", n_latents),
        "decoder": weights.take("W_dec", n_latents, d_in),
        "decoder_bias": weights.take("b_dec", d_in),
    }


def _norm_decoder(found: dict[str, Any]) -> None:
    """Fold the decoder's norms into the encoder, as this class does whenever it is loaded."""
    norms = found["decoder"].norm(dim=-1)
    if bool((norms > 0).all()) and not torch.allclose(norms, torch.ones_like(norms)):
        found["encoder"] = found["encoder"] * norms[:, None]
        found["encoder_bias"] = found["encoder_bias"] * norms
        found["decoder"] = found["decoder"] / norms[:, None]


def _calibrated(weights: NamedTensors) -> KeepAbove:
    """BatchTopK as it runs: above one threshold, which training measured."""
    threshold = weights.take("threshold")
    if float(threshold) < 0:
        warnings.warn(
            BathyscopeWarning(
                f"{weights.path} has no threshold: its training ended before one was measured, so that every positive "
                f"latent is kept, and not {weights.whole('k')} of them"
            ),
            stacklevel=2,
        )
    return KeepAbove(threshold.clamp(min=0))


def _site(trainer: Config) -> Any:
    """The residual stream after a block, which is what its submodules are called; others are named by their class."""
    match = re.fullmatch(r"resid_post(?:_layer_(\d+))?", trainer.get("submodule_name", str, None) or "")
    if not match:
        return None
    layer = match[1] or trainer.get("layer", int)
    return site_of(f"resid_post.{layer}")
