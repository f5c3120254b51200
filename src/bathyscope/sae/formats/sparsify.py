"""sparsify (EleutherAI): cfg.json and sae.safetensors in a folder that is called by its hookpoint."""

import re
from typing import Any, Final

import torch
from typing_extensions import override

from bathyscope.sae.code import KeepTop
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.base import FolderFormat, Written, moved, refuse_to_express, transcodes
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

BLOCK: Final = re.compile(r"(?:[a-z_]+\.)*(?:layers|h)[._](\d+)")
"""Hookpoints that are a whole block. What a module within one adds to the residual stream depends on the family."""


class Sparsify(FolderFormat):
    """TopK autoencoders and transcoders, with or without a linear path past them."""

    name = "sparsify"
    title = "sparsify"
    weights = "sae.safetensors"
    files = ("cfg.json", "sae.safetensors")

    @override
    def compose(self, config: Config, weights: NamedTensors, location: Location) -> SparseCoder:
        activation = config.get("activation", str, "topk")
        if activation != "topk" or config.get("signed", bool, False):
            signed = "a signed code" if activation == "topk" else f"the activation {activation!r}"
            config.refuse(f"has {signed}", "the k largest that are positive")
        d_in = config.size("d_in")
        n_latents = config.get("num_latents", int, 0) or d_in * config.size("expansion_factor")
        bias = weights.take("b_dec", d_in)
        transcoder = config.get("transcode", bool, False)
        skip = weights.take("W_skip", d_in, d_in) if config.get("skip_connection", bool, False) else None
        site = _site(location.asked)
        known: dict[str, Any] = {"format": self.name, "cfg": dict(config.values)}
        if location.asked:
            known["hookpoint"] = location.folder.name
        return SparseCoder(
            weights.take("encoder.weight", n_latents, d_in),
            weights.take("encoder.bias", n_latents),
            weights.take("W_dec", n_latents, d_in),
            bias,
            KeepTop(config.size("k")),
            centre=None if transcoder else bias,
            skip=None if skip is None else skip.T.contiguous(),
            site=None if transcoder else site,
            target=site,
            training={**known, "transcoder": True} if transcoder else known,
        )

    @override
    def express(self, coder: SparseCoder) -> Written:
        if not isinstance(coder.selection, KeepTop):
            raise refuse_to_express(coder, "a threshold: it keeps the k largest", self, "saelens")
        if coder.normed:
            raise refuse_to_express(coder, "normed inputs", self, "saelens")
        if coder.d_in != coder.d_out:
            raise refuse_to_express(coder, "an output of another width than the input", self)
        transcoder = transcodes(coder)
        config: dict[str, Any] = {
            "activation": "topk",
            "expansion_factor": max(1, coder.n_latents // coder.d_in),
            "normalize_decoder": bool(torch.allclose(coder.decoder.norm(dim=-1), torch.ones(()).to(coder.decoder))),
            "num_latents": coder.n_latents,
            "k": min(coder.selection.k, coder.n_latents),
            "multi_topk": False,
            "skip_connection": coder.skip is not None,
            "transcode": transcoder,
            "d_in": coder.d_in,
        }
        tensors = {
            "encoder.weight": coder.encoder,
            "encoder.bias": moved(coder, None if transcoder else coder.decoder_bias),
            "W_dec": coder.decoder,
            "b_dec": coder.decoder_bias,
        }
        return Written(config, tensors if coder.skip is None else {**tensors, "W_skip": coder.skip.T})


def _site(asked: str) -> Site | None:
    """What the name of the folder says: the output of a block, or of the embedding."""
    parts = asked.partition("@")[0].rstrip("/").split("/")
    folder = parts[-2] if parts[-1].endswith((".json", ".safetensors")) and len(parts) > 1 else parts[-1]
    if folder == "embed_tokens":
        return Site("embed")
    match = BLOCK.fullmatch(folder)
    return Site("resid_post", int(match[1])) if match else None
