"""SAELens: cfg.json and sae_weights.safetensors, of version 6 and of those before.

What its inference does that a `SparseCoder` has no words for is folded into the weights where that is exact (decoder
norms, a scale of activations, gates), and refused where it is not.
"""

from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.sae.code import KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.formats.base import FolderFormat, Written, moved, refuse_to_express, site_of, transcodes
from bathyscope.sae.formats.config import Config
from bathyscope.sae.formats.gates import gated
from bathyscope.sae.formats.location import Location
from bathyscope.sae.formats.tensors import NamedTensors
from bathyscope.sites import Site

VERSION: Final = "6.0.0"
"""The version of SAELens whose config is written; later ones read the same."""

AUTOENCODERS: Final = ("standard", "gated", "topk", "jumprelu")
TRANSCODERS: Final = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
REFUSED: Final = {
    "constant_norm_rescale": "each input is brought to one norm, which no weights can express",
    "covariance_whitening": "the matrix that inputs are whitened with is not in the file",
}
"""Ways to normalise activations, and why they are refused."""

KEPT: Final = ("context_size", "dataset_path", "prepend_bos", "exclude_special_tokens", "model_from_pretrained_kwargs")
"""What is handed on from a coder that came from SAELens."""


class SaeLens(FolderFormat):
    """All architectures of SAELens whose code is not negative and is found in one step."""

    name = "saelens"
    title = "SAELens"
    weights = "sae_weights.safetensors"
    files = ("cfg.json", "sae_weights.safetensors", "activation_scaler.json")

    @override
    def compose(self, config: Config, weights: NamedTensors, location: Location) -> SparseCoder:
        said = _modern(config)
        architecture = said.get("architecture", str, "standard")
        if architecture not in AUTOENCODERS + TRANSCODERS:
            said.refuse(f"has the architecture {architecture!r}", f"one of {', '.join(AUTOENCODERS + TRANSCODERS)}")
        transcoder = architecture in TRANSCODERS
        d_in, n_latents = said.size("d_in"), said.size("d_sae")
        d_out = said.size("d_out") if transcoder else d_in
        encoder = weights.take("W_enc", d_in, n_latents).T.contiguous()
        decoder, decoder_bias = weights.take("W_dec", n_latents, d_out), weights.take("b_dec", d_out)
        selection: Selection
        if architecture == "gated":
            gates = (weights.take(name, n_latents) for name in ("r_mag", "b_mag", "b_gate"))
            encoder, encoder_bias, selection = gated(encoder, *gates)
        else:
            encoder_bias = weights.take("b_enc", n_latents)
            selection = _selection(architecture, said, weights, n_latents)
        if architecture == "topk" and said.get("rescale_acts_by_decoder_norm", bool, False):
            norms = decoder.norm(dim=-1)
            encoder, encoder_bias, decoder = encoder * norms[:, None], encoder_bias * norms, decoder / norms[:, None]
        scale = _scale(said, location)
        hook, hook_out, transcribed = said.part("metadata"), "hook_name_out", {"transcoder": True}
        site = site_of(hook.get("hook_name", str, ""), hook.get("hook_head_index", int, None))
        return SparseCoder(
            encoder * scale,
            encoder_bias,
            decoder * _factors(said, weights, n_latents)[:, None].to(decoder) / scale,
            decoder_bias / scale,
            selection,
            centre=decoder_bias / scale if not transcoder and said.get("apply_b_dec_to_input", bool, True) else None,
            skip=weights.take("W_skip", d_out, d_in).T.contiguous() if "skip" in architecture else None,
            normed=_normed(said, transcoder),
            site=site,
            target=site_of(hook.get(hook_out, str, "")) if transcoder else site,
            model={"model": hook.get("model_name", str, "")},
            training={"format": self.name, "cfg": dict(config.values), **(transcribed if transcoder else {})},
        )

    @override
    def express(self, coder: SparseCoder) -> Written:
        architecture = self._architecture(coder)
        transcoder = architecture in TRANSCODERS
        tied = not transcoder and coder.centre is not None and torch.equal(coder.centre, coder.decoder_bias)
        reshaped = coder.site is not None and coder.site.component == "z" and coder.site.head is None
        config: dict[str, Any] = {
            "architecture": architecture,
            "d_in": coder.d_in,
            "d_sae": coder.n_latents,
            "dtype": str(coder.encoder.dtype).removeprefix("torch."),
            "device": "cpu",
            "apply_b_dec_to_input": tied,
            "normalize_activations": "layer_norm" if coder.normed else "none",
            "reshape_activations": "hook_z" if reshaped and not transcoder else "none",
            "metadata": _metadata(coder),
        }
        tensors = {
            "W_enc": coder.encoder.T,
            "b_enc": moved(coder, coder.centre if tied else None),
            "W_dec": coder.decoder,
            "b_dec": coder.decoder_bias,
        }
        if transcoder:
            config["d_out"] = coder.d_out
        if coder.skip is not None:
            tensors["W_skip"] = coder.skip.T
        if isinstance(coder.selection, KeepTop):
            config |= {"k": min(coder.selection.k, coder.n_latents), "rescale_acts_by_decoder_norm": False}
        elif isinstance(coder.selection, KeepAbove) and "jumprelu" in architecture:
            tensors["threshold"] = coder.selection.threshold.expand(coder.n_latents)
        return Written(config, tensors)

    def _architecture(self, coder: SparseCoder) -> str:
        """The word for a coder.

        Raises:
            UsageError: there is none.
        """
        jumps = isinstance(coder.selection, KeepAbove) and bool((coder.selection.threshold > 0).any())
        if not transcodes(coder):
            if coder.skip is not None:
                raise refuse_to_express(coder, "a linear path past an autoencoder", self)
            return "topk" if isinstance(coder.selection, KeepTop) else "jumprelu" if jumps else "standard"
        if isinstance(coder.selection, KeepTop):
            raise refuse_to_express(coder, "a transcoder that keeps the k largest", self, "sparsify")
        if coder.normed:
            raise refuse_to_express(coder, "a transcoder whose output is brought back from normed inputs", self)
        return ("jumprelu_" if jumps else "") + ("transcoder" if coder.skip is None else "skip_transcoder")


def hook_name(site: Site) -> str:
    """TransformerLens's name of a site.

    Example:
        >>> from bathyscope.sae.formats.saelens import hook_name
        >>> from bathyscope.sites import Site
        >>> hook_name(Site("resid_post", 5)), hook_name(Site("z", 5))
        ('blocks.5.hook_resid_post', 'blocks.5.attn.hook_z')
    """
    within = {"mlp_post": "mlp.hook_post", **{name: f"attn.hook_{name}" for name in ("q", "k", "v", "z", "pattern")}}
    alone = {"embed": "hook_embed", "final_norm": "ln_final.hook_normalized", "logits": "logits"}
    name = within.get(site.component, f"hook_{site.component}")
    return alone.get(site.component, f"blocks.{site.layer}.{name}")


def _modern(config: Config) -> Config:
    """The config as version 6 has it; before, all keys stood side by side, and some had other names."""
    version = config.get("sae_lens_version", str, None) or config.part("metadata").get("sae_lens_version", str, None)
    if version is not None and version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 6:
        return config
    renamed = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index"}
    renamed["activation_fn_str"] = "activation_fn"
    said = Config(config.path, {renamed.get(name, name): value for name, value in config.values.items()})
    values = {**said.values, "metadata": {**said.part("metadata").values, **said.values}}
    activation = said.get("activation_fn", str, "relu")
    if activation == "topk":
        values |= {"architecture": "topk", "k": said.part("activation_fn_kwargs").size("k")}
    elif activation != "relu":
        said.refuse(f"has the activation {activation!r}", "relu or topk")
    if isinstance(said.values.get("normalize_activations"), bool):
        values["normalize_activations"] = "expected_average_only_in" if said.values["normalize_activations"] else "none"
    return Config(config.path, values)


def _selection(architecture: str, said: Config, weights: NamedTensors, n_latents: int) -> Selection:
    if architecture == "topk":
        return KeepTop(said.size("k"))
    if "jumprelu" in architecture:
        # What is above a negative threshold still passes through a ReLU.
        return KeepAbove(weights.take("threshold", n_latents).clamp(min=0))
    return KeepAbove(torch.tensor(0.0))


def _normed(said: Config, transcoder: bool) -> bool:
    way = said.get("normalize_activations", str, "none")
    if way in REFUSED:
        said.refuse(f"normalises activations by {way!r}: {REFUSED[way]}")
    if way not in ("none", "layer_norm", "expected_average_only_in"):
        said.refuse(f"normalises activations by {way!r}", "none, layer_norm or expected_average_only_in")
    if way == "layer_norm" and transcoder:
        said.refuse("norms what a transcoder reads, and not what it writes", "none")
    return way == "layer_norm"


def _scale(said: Config, location: Location) -> float:
    """What activations are multiplied with before they are encoded. Latents and their biases stay as they are."""
    if said.get("normalize_activations", str, "none") != "expected_average_only_in":
        return 1.0
    scaler = location.config("activation_scaler.json")
    if scaler is None:
        said.refuse(
            "scales activations by their mean norm, and does not say by how much",
            "activation_scaler.json beside it",
            "sae.fold_activation_norm_scaling_factor(factor) in SAELens, then sae.save_model(folder)",
        )
    factor = scaler.get("scaling_factor", float)
    if not 0 < factor < float("inf"):
        scaler.refuse(f"has scaling_factor={factor}", "a number above 0")
    return factor


def _factors(said: Config, weights: NamedTensors, n_latents: int) -> Tensor:
    """What latents of early versions were multiplied with before they were decoded."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in weights:
            found = weights.take(name, n_latents)
            if not said.get("finetuning_scaling_factor", bool, False) and bool((found != 1).any()):
                weights.refuse(f"has {name}, and {said.path.name} says that it has none", "one of both is wrong")
            return found
    return torch.ones(n_latents)


def _metadata(coder: SparseCoder) -> dict[str, Any]:
    known = coder.training.get("cfg") if coder.training.get("format") == SaeLens.name else None
    before = known.get("metadata", known) if isinstance(known, dict) else {}
    found = {name: before[name] for name in KEPT if name in before}
    found |= {"sae_lens_version": VERSION, "sae_lens_training_version": VERSION}
    found["model_name"] = coder.model.get("model")
    found["hook_name"] = None if coder.site is None else hook_name(coder.site)
    found["hook_head_index"] = None if coder.site is None else coder.site.head
    if coder.target is not None and coder.target != coder.site:
        found["hook_name_out"] = hook_name(coder.target)
    return found
