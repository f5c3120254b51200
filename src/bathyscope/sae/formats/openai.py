"""OpenAI's coders of GPT-2: one file that torch saved. Those with TopK norm each input, and bring each output back."""

import re
from typing import Any, Final

import torch
from typing_extensions import override

from bathyscope.sae.code import KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.archives import names_in_torch, read_torch, tensors_of
from bathyscope.sae.formats.base import Format
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

LOCATIONS: Final = {
    "mlp_post_act": "mlp_post",
    "resid_delta_mlp": "mlp_out",
    "resid_delta_attn": "attn_out",
    "resid_post_attn": "resid_mid",
    "resid_post_mlp": "resid_post",
}
"""What the folders of the published files are called, and their sites."""

PATH: Final = re.compile(rf"/({'|'.join(LOCATIONS)})(?:_v\d\w*)?/autoencoders/(\d+)\.pt")


class OpenAi(Format):
    """The files of openai/sparse_autoencoder, versions 1 to 5."""

    name = "openai"
    title = "OpenAI"
    files = ("autoencoder.pt",)

    @override
    def claims(self, location: Location) -> bool:
        path = location.find("autoencoder.pt", ".pt")
        return path is not None and {"pre_bias", "latent_bias"} <= names_in_torch(path)

    @override
    def load(self, location: Location) -> SparseCoder:
        path = location.find("autoencoder.pt", ".pt")
        assert path is not None, "a location that was claimed has its file"
        found = read_torch(path)
        weights = tensors_of(path, found)
        encoder = weights.matrix("encoder.weight")
        n_latents, d_in = encoder.shape
        bias = weights.take("pre_bias", d_in)
        selection = _selection(weights, found)
        match = PATH.search(location.asked)
        site = Site(LOCATIONS[match[1]], int(match[2])) if match else None
        return SparseCoder(
            encoder,
            weights.take("latent_bias", n_latents),
            weights.take("decoder.weight", d_in, n_latents).T.contiguous(),
            bias,
            selection,
            centre=bias,
            normed=isinstance(selection, KeepTop),
            site=site,
            target=site,
            model={"model": "gpt2"} if match else {},
            training={"format": self.name, "activation": found.get("activation", "ReLU")},
        )


def _selection(weights: NamedTensors, found: dict[str, Any]) -> Selection:
    activation, state = found.get("activation", "ReLU"), found.get("activation_state_dict", {})
    if activation == "ReLU":
        return KeepAbove(torch.tensor(0.0))
    k = state.get("k") if isinstance(state, dict) else None
    if activation != "TopK" or not isinstance(k, int) or k < 1 or state.get("postact_fn", "ReLU") != "ReLU":
        weights.refuse(f"has the activation {activation!r:.60} with {state!r:.120}", "ReLU, or TopK with k and ReLU")
    return KeepTop(k)
