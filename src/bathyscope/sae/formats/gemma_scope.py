"""Gemma Scope (params.npz) and Gemma Scope 2 (params.safetensors): JumpReLU, with nothing taken from inputs first."""

import re
from collections.abc import Mapping
from typing import Final

from typing_extensions import override

from bathyscope.sae.code import KeepAbove
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.archives import read_numpy
from bathyscope.sae.formats.base import Format, site_of
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

COLLECTION: Final = re.compile(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att|transcoders)\b")
COMPONENTS: Final = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "mlp_out"}
"""What each collection encodes; transcoders write it, and read what a norm gives, which is no site."""

HOOKS: Final[Mapping[str, str]] = {
    "output": "resid_post",
    "self_attn.o_proj.input": "z",
    "post_attention_layernorm.output": "attn_out",
    "post_feedforward_layernorm.output": "mlp_out",
}
"""Module paths within a block of Gemma 3, and their sites."""


class GemmaScope(Format):
    """Google's coders for Gemma 2. The files say no site; it is read from the name of their collection."""

    name = "gemma_scope"
    title = "Gemma Scope"
    files = ("params.npz",)

    @override
    def claims(self, location: Location) -> bool:
        return location.find("params.npz", ".npz") is not None

    @override
    def load(self, location: Location) -> SparseCoder:
        path = location.find("params.npz", ".npz")
        assert path is not None, "a location that was claimed has its file"
        weights = read_numpy(path)
        collection, layer = COLLECTION.search(location.asked), re.search(r"/layer_(\d+)\b", location.asked)
        embedding = collection is not None and re.search(r"/embedding\b", location.asked) is not None
        site = None
        if embedding:
            site = Site("embed")
        elif collection and layer:
            site = Site(COMPONENTS[collection[3]], int(layer[1]))
        d_in, n_latents = weights.matrix("W_enc").shape
        decoder = weights.take("W_dec", n_latents, weights.matrix("W_dec").shape[1])
        # Trained on embeddings as the table has them; the residual stream gets them times the root of its width.
        scale = d_in**0.5 if embedding else 1.0
        transcoder = collection is not None and collection[3] == "transcoders"
        return SparseCoder(
            weights.take("W_enc", d_in, n_latents).T.contiguous() / scale,
            weights.take("b_enc", n_latents),
            decoder * scale,
            weights.take("b_dec", decoder.shape[1]) * scale,
            KeepAbove(weights.take("threshold", n_latents).clamp(min=0)),
            site=None if transcoder else site,
            target=site,
            model={"model": f"google/gemma-2-{collection[1]}" + "-it" * (collection[2] == "it")} if collection else {},
            training={"format": self.name, "asked": location.asked, **({"transcoder": True} if transcoder else {})},
        )


class GemmaScope2(Format):
    """Google's coders for Gemma 3: autoencoders, and transcoders with or without an affine path."""

    name = "gemma_scope_2"
    title = "Gemma Scope 2"
    files = ("params.safetensors", "config.json")

    @override
    def claims(self, location: Location) -> bool:
        return location.find("params.safetensors") is not None

    @override
    def load(self, location: Location) -> SparseCoder:
        config = location.config("config.json") or Config(location.folder / "config.json", {})
        weights = NamedTensors.read(location.folder / "params.safetensors")
        if config.get("architecture", str, "jump_relu") != "jump_relu":
            config.refuse(f"has the architecture {config.values['architecture']!r}", "jump_relu")
        d_in, n_latents = weights.matrix("w_enc").shape
        d_out = weights.matrix("w_dec").shape[1]
        hooks = [config.get(f"hf_hook_point_{way}", str, "") for way in ("in", "out")]
        site = _site(hooks[0])
        target = site if hooks[1] in ("", hooks[0]) else _site(hooks[1])
        skip = "affine_skip_connection" in weights
        transcoder = skip or hooks[1] not in ("", hooks[0]) or config.get("type", str, "sae") == "transcoder"
        return SparseCoder(
            weights.take("w_enc", d_in, n_latents).T.contiguous(),
            weights.take("b_enc", n_latents),
            weights.take("w_dec", n_latents, d_out),
            weights.take("b_dec", d_out),
            KeepAbove(weights.take("threshold", n_latents).clamp(min=0)),
            skip=weights.take("affine_skip_connection", d_in, d_out) if skip else None,
            site=site,
            target=target,
            model={"model": config.get("model_name", str, "")},
            training={
                "format": self.name,
                "cfg": dict(config.values),
                **({"transcoder": True} if transcoder else {}),
            },
        )


def _site(hook: str) -> Site | None:
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", hook)
    return site_of(f"{HOOKS[match[2]]}.{match[1]}") if match and match[2] in HOOKS else None
