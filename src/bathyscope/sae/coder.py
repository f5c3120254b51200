"""SparseCoder: an autoencoder or a transcoder whose few active latents take a representation apart.

Whatever it was trained with, a coder is an encoder, a rule of what it keeps, and a decoder. How it is
trained is in `training`, where files come from in `formats`.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae.code import Code, KeepAbove, Selection
from bathyscope.sites import Site

BLOCK: Final = 512
"""Rows that are encoded together: their pre-activations stay in a processor's cache until they are selected."""

NORM_FLOOR: Final = 1e-5
"""What is added to a row's deviation where inputs are normed, as OpenAI's coders do."""


@dataclass(frozen=True, eq=False)
class SparseCoder:
    """A sparse autoencoder, or a transcoder, at one site.

    Pre-activations are (x - centre) @ encoder.T + encoder_bias, latents are those of them that `selection`
    keeps, and the reconstruction is latents @ decoder + decoder_bias (+ x @ skip).

    Args:
        encoder: the direction that each latent reads, (n_latents, d_in).
        encoder_bias: (n_latents,).
        decoder: the direction that each latent writes, (n_latents, d_out).
        decoder_bias: (d_out,).
        selection: which pre-activations become latents.
        centre: what is taken from an input first, (d_in,), or None for nothing.
        skip: a linear path from input to output, (d_in, d_out), or None.
        normed: whether each input is brought to mean 0 and deviation 1 first, and each output back.
        site: what is encoded, or None where a file does not say.
        target: what is reconstructed: `site` itself, or what a transcoder imitates.
        model: the model that it was trained on (`model_identity`), as far as it is known.
        training: how it was trained, as JSON values.

    Raises:
        UsageError: shapes that do not fit one another, or a number that is not finite.

    Example:
        >>> import torch
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
        >>> coder.reconstruct(torch.tensor([[1.0, 5.0, 2.0]])).tolist()
        [[0.0, 5.0, 0.0]]
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    selection: Selection
    centre: Tensor | None = None
    skip: Tensor | None = None
    normed: bool = False
    site: Site | None = None
    target: Site | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n_latents, d_in = self._matrix("encoder")
        d_out = self._matrix("decoder")[1]
        shapes = {
            "encoder_bias": (n_latents,),
            "decoder": (n_latents, d_out),
            "decoder_bias": (d_out,),
            "centre": (d_in,),
            "skip": (d_in, d_out),
        }
        for name, tensor in self.tensors().items():
            if tuple(tensor.shape) != shapes.get(name, tuple(tensor.shape)):
                raise UsageError(
                    f"a coder whose {name} has shape {tuple(tensor.shape)} was given",
                    f"with an encoder of shape {(n_latents, d_in)} it is {shapes[name]}",
                )
            if not torch.isfinite(tensor).all():
                raise UsageError(f"a coder whose {name} is not finite was given", "finite numbers are needed")
        if isinstance(self.selection, KeepAbove) and self.selection.threshold.shape not in ((), (n_latents,)):
            raise UsageError(
                f"{tuple(self.selection.threshold.shape)} thresholds were given", f"there are {n_latents} latents"
            )

    def __repr__(self) -> str:
        what = "transcoder" if self.is_transcoder else "autoencoder"
        return f"SparseCoder({what} at {self.site}, {self.n_latents} latents, {self.selection.spec()})"

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return len(self.encoder)

    @property
    def d_in(self) -> int:
        """Width of what is encoded."""
        return self.encoder.shape[1]

    @property
    def d_out(self) -> int:
        """Width of what is reconstructed."""
        return self.decoder.shape[1]

    @property
    def is_transcoder(self) -> bool:
        """Whether it reconstructs something else than it encodes."""
        return self.target != self.site

    def pre_activations(self, x: Tensor) -> Tensor:
        """What the latents are selected from, (rows, n_latents), of inputs, (rows, d_in)."""
        x = self._framed(x)[0]
        x = x if self.centre is None else x - self.centre.to(x)
        return nn.functional.linear(x, self.encoder.to(x), self.encoder_bias.to(x))

    def encode(self, x: Tensor) -> Code:
        """The code of inputs, (rows, d_in), computed in the finer of the two dtypes.

        Raises:
            UsageError: inputs of another width, or that are not finite.
        """
        self._check_input(x)
        x = self._finer(x)
        if not len(x):
            return Code(x.new_zeros(0, 1, dtype=torch.long), x.new_zeros(0, 1), self.n_latents)
        blocks = [self.selection.select(self.pre_activations(block)) for block in x.split(BLOCK)]
        width = max(values.shape[1] for _, values in blocks)
        indices, values = (
            torch.cat([nn.functional.pad(block[part], (0, width - block[part].shape[1])) for block in blocks])
            for part in (0, 1)
        )
        return Code(indices, values, self.n_latents, self._framed(x)[1])

    def encode_live(self, x: Tensor) -> Code:
        """As `encode`, where gradients cost no more than the active latents: they go on by these alone, anyway.

        Example:
            >>> import torch
            >>> from bathyscope.sae import KeepTop, SparseCoder
            >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(1))
            >>> x = torch.tensor([[1.0, 2.0, 0.0]], requires_grad=True)
            >>> coder.encode_live(x).values.sum().backward()
            >>> x.grad.tolist()
            [[0.0, 1.0, 0.0]]
        """
        with torch.no_grad():
            code = self.encode(x)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return code
        inputs, frame = self._framed(self._finer(x))
        inputs = inputs if self.centre is None else inputs - self.centre.to(inputs)
        encoder, bias = self.encoder.to(inputs), self.encoder_bias.to(inputs)
        active = torch.einsum("rd,rkd->rk", inputs, encoder[code.indices]) + bias[code.indices]
        return replace(code, values=torch.where(code.values != 0, active, 0), frame=frame)

    def decode(self, code: Code) -> Tensor:
        """What a code stands for, (rows, d_out); what `skip` adds is not in a code, see `reconstruct`."""
        found = weighted_sum(code.indices, code.values, self.decoder.to(code.values)) + self.decoder_bias.to(
            code.values
        )
        return found if code.frame is None else found * code.frame[:, 1:] + code.frame[:, :1]

    def reconstruct(self, x: Tensor, code: Code | None = None) -> Tensor:
        """What the coder makes of inputs, (rows, d_in) to (rows, d_out), in the finer of the two dtypes.

        Args:
            x: the inputs.
            code: their code, where it is known already, or another one to be put in its place.
        """
        found = self.decode(self.encode(x) if code is None else code)
        if self.skip is None:
            return found
        x = self._finer(x)
        return found + x @ self.skip.to(x)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, the threshold among them."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        found = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        if isinstance(self.selection, KeepAbove):
            found["threshold"] = self.selection.threshold
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every tensor's name, dtype, shape and bytes, and of what is kept."""
        digest = hashlib.sha256(json.dumps([self.selection.spec(), self.normed], sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def check(self, model: Model) -> tuple[Site, Site]:
        """Refuse a model that the coder is not for.

        Returns:
            The sites that are encoded and reconstructed.

        Raises:
            UsageError: other weights, a site that the model lacks, or none that is known.
        """
        if self.site is None or self.target is None:
            raise UsageError("a coder was given whose file does not say where it belongs", "", 'site="resid_post.12"')
        wanted = self.model.get("fingerprint")
        if wanted is not None and wanted != model.fingerprint:
            raise UsageError(
                f"this coder was trained on {self.model.get('model')!r}, and {model.name!r} ({model.dtype}) was given",
                "a coder belongs to the very weights that it was trained on, dtype included",
                "bathyscope sae train with this model",
            )
        return model.site(self.site), model.site(self.target)

    def _matrix(self, name: str) -> tuple[int, int]:
        shape = tuple(getattr(self, name).shape)
        if len(shape) != 2 or 0 in shape:
            raise UsageError(f"a coder whose {name} has shape {shape} was given", "it is (latents, width)")
        return shape

    def _finer(self, x: Tensor) -> Tensor:
        """Inputs in the dtype that they are encoded in: everything made of a code has it, too."""
        return x.to(torch.promote_types(x.dtype, self.encoder.dtype))

    def _framed(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.normed:
            return x, None
        mean, deviation = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        return (x - mean) / (deviation + NORM_FLOOR), torch.cat([mean, deviation], -1)

    def _check_input(self, x: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise UsageError(f"activations of shape {tuple(x.shape)} were to be encoded", f"(rows, {self.d_in})")
        if not torch.isfinite(x).all():
            raise UsageError("activations that are not finite were to be encoded", "finite numbers are needed")


def weighted_sum(indices: Tensor, values: Tensor, rows: Tensor) -> Tensor:
    """Of each row's indices the rows of a matrix, times their values, added up: (rows, width of the matrix)."""
    return nn.functional.embedding_bag(indices, rows, per_sample_weights=values, mode="sum")
