"""MLPs of one prompt with a transcoder in their place: active features, what they miss, and constants.

An MLP that has no transcoder is a constant: all of it is what nothing explains. Knows coders, not graphs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae import SparseCoder
from bathyscope.sites import Site

STREAM: Final = ("resid_pre", "resid_mid", "resid_post")
"""What a transcoder may read: the residual stream, of which everything before it is a sum."""


@dataclass(frozen=True, eq=False)
class Place:
    """A transcoder where it belongs.

    Args:
        coder: the transcoder.
        site: the residual stream that it reads.
        layer: the block whose MLP it stands for.
        time: when it reads, as `stream_time` counts.
    """

    coder: SparseCoder
    site: Site
    layer: int
    time: int


def place_coders(model: Model, coders: Sequence[SparseCoder]) -> dict[int, Place]:
    """Where transcoders belong, by layer.

    Raises:
        UsageError: one is for another model, is no transcoder of an MLP, reads what is no residual stream before that
            MLP, or stands where another does.
    """
    found: dict[int, Place] = {}
    for coder in coders:
        site, target = coder.check(model)
        if not coder.is_transcoder:
            raise UsageError(
                f"an autoencoder at {site} was given",
                "features that read what they reconstruct have no edges from earlier ones; a transcoder of an MLP has",
                "a transcoder that reads resid_mid.3 and reconstructs mlp_out.3",
            )
        layer = target.layer
        if target.component != "mlp_out" or layer is None:
            raise UsageError(
                f"a transcoder that reconstructs {target} was given",
                "one that stands for an MLP reconstructs what it adds",
                "mlp_out.3",
            )
        if site.component not in STREAM or stream_time(site) > 2 * layer + 1:
            raise UsageError(
                f"a transcoder that reads {site} to make {target} was given",
                "edges are exact where it reads the residual stream before that MLP",
                f"resid_{'pre' if is_parallel(model) else 'mid'}.{layer}",
            )
        if coder.normed:
            raise UsageError(
                f"a transcoder at {site} was given that norms its inputs",
                "what it reads is then no sum of what earlier features write",
                "a transcoder without normed inputs",
            )
        if layer in found:
            raise UsageError(f"two transcoders of {target} were given", "one each", "")
        found[layer] = Place(coder, site, layer, stream_time(site))
    return found


def stream_time(site: Site) -> int:
    """When the residual stream is met: even before a block, odd between its attention and its MLP.

    Example:
        >>> from bathyscope.circuits.attribution_graphs.mlp import stream_time
        >>> from bathyscope.sites import Site
        >>> [stream_time(Site.parse(name)) for name in ("resid_pre.3", "resid_mid.3", "resid_post.3")]
        [6, 7, 8]
    """
    assert site.layer is not None
    return 2 * site.layer + STREAM.index(site.component)


def is_parallel(model: Model) -> bool:
    """Whether attention and MLP of a block read the same residual stream."""
    return isinstance(model.architecture.taps["resid_mid"], str)


@dataclass(frozen=True, eq=False)
class FrozenMLP:
    """What one block's MLP adds at every position, taken apart.

    The parts add up to it: `vectors` at their positions, `error`, `sink`, `bias`, and what `skip` makes of the stream.

    Args:
        place: the transcoder, or None.
        first: the first position that it stands at; what is before is left out as a sink.
        positions, latents, activations: of active features, by position, each (features,).
        vectors: what each adds, its activation times its decoder row, (features, d_model).
        values: pre-activations of the features, (features,).
        error: what the transcoder misses, or all that an MLP without one adds, (positions, d_model); 0 at sinks.
        sink: what the MLP adds at sinks, (positions, d_model); 0 elsewhere.
        bias: the decoder's, (positions, d_model); 0 at sinks.
        skip: the transcoder's linear path, (d_model, d_model), or None.
    """

    place: Place | None
    first: int
    positions: Tensor
    latents: Tensor
    activations: Tensor
    vectors: Tensor
    values: Tensor
    error: Tensor
    sink: Tensor
    bias: Tensor
    skip: Tensor | None

    @classmethod
    def of(cls, place: Place | None, stream: Tensor | None, added: Tensor, first: int) -> Self:
        """Take an MLP apart.

        Args:
            place: its transcoder, or None.
            stream: what that reads, (positions, d_model).
            added: what the MLP adds, (positions, d_model).
            first: positions before this one are sinks.
        """
        sink, error, bias = (torch.zeros_like(added) for _ in range(3))
        sink[:first], error[first:] = added[:first], added[first:]
        numbers = torch.empty(0, dtype=torch.long, device=added.device)
        if place is None or first >= len(added):
            none = added.new_zeros(0)
            return cls(place, first, numbers, numbers, none, added[:0], none, error, sink, bias, None)
        assert stream is not None
        coder, x = place.coder, stream[first:]
        code = coder.encode(x)
        rows, slots = code.values.nonzero(as_tuple=True)
        latents = code.indices[rows, slots]
        order = (rows * coder.n_latents + latents).argsort()
        rows, latents, activations = rows[order], latents[order], code.values[rows, slots][order]
        bias[first:] = coder.decoder_bias.to(added)
        error[first:] -= coder.reconstruct(x, code)
        centred = x if coder.centre is None else x - coder.centre.to(x)
        values = (centred[rows] * _rows(coder.encoder, latents, x)).sum(-1) + _rows(coder.encoder_bias, latents, x)
        return cls(
            place,
            first,
            rows + first,
            latents,
            activations,
            activations[:, None] * _rows(coder.decoder, latents, x),
            values,
            error,
            sink,
            bias,
            None if coder.skip is None else coder.skip.to(added),
        )

    def readers(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """What some features read along, (features, d_model), and what they have of their own, (features,).

        Args:
            features: which, counted within this block.
        """
        assert self.place is not None
        coder, latents = self.place.coder, self.latents[features]
        vectors = _rows(coder.encoder, latents, self.error)
        own = _rows(coder.encoder_bias, latents, self.error)
        return vectors, own if coder.centre is None else own - vectors @ coder.centre.to(self.error)


def _rows(tensor: Tensor, which: Tensor, like: Tensor) -> Tensor:
    """Rows of a coder's tensor, which may be on another device than the model."""
    return tensor[which.to(tensor.device)].to(like)
