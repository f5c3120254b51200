"""Norms of one prompt with their scales held: a linear map, the same at every position but for its size.

As `attribution.frozen`, for all positions at once. Knows modules, not methods.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from bathyscope.errors import UsageError

TOLERANCE: Final = {torch.float64: 1e-5, torch.float32: 1e-4}
"""How far a frozen map may miss what the model computed, as a share of its largest value. Norms of many families
compute in float32 whatever the model's dtype."""
HALF_TOLERANCE: Final = 3e-2


@dataclass(frozen=True, eq=False)
class FrozenNorms:
    """x -> scale of the position * gain * (x - mean(x)) + bias, or without the mean.

    Args:
        gain, bias: of the norm, (d_model,).
        centred: whether the mean is subtracted, as a LayerNorm does and an RMSNorm does not.
        scales: one over the length that the norm divided by at each position, (positions,), in units of `gain`.
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    scales: Tensor

    @classmethod
    def of(cls, norm: Callable[[Tensor], Tensor], at: Tensor, dtype: torch.dtype, name: str = "the norm") -> Self:
        """Freeze a norm at what it met at each position.

        Args:
            norm: a norm over the last axis.
            at: its inputs, (positions, d_model).
            dtype: of the map.
            name: what errors call it.

        Raises:
            UsageError: with its scales held, it is not linear plus a constant, so that it is no such norm.

        Example:
            >>> import torch
            >>> from bathyscope.circuits.attribution_graphs.norms import FrozenNorms
            >>> norm, at = torch.nn.LayerNorm(8), torch.randn(3, 8)
            >>> frozen = FrozenNorms.of(norm, at, torch.float32)
            >>> bool(torch.allclose(frozen.apply(at), norm(at), atol=1e-5)), frozen.centred
            (True, True)
        """
        probe = _probe(at)
        with torch.no_grad():
            zero, constant, probed, *own = norm(
                torch.cat([torch.stack([torch.zeros_like(probe), torch.ones_like(probe), probe]), at])[None]
            )[0].to(dtype)
        centred = bool((constant - zero).abs().max() < 0.01 * (probed - zero).abs().max())
        probe = probe.to(dtype)
        # Entries of the probe, and of the probe about its mean, are far from 0.
        gain = (probed - zero) / (probe - probe.mean() if centred else probe)
        unscaled = cls(gain, zero, centred, torch.ones(len(at), dtype=dtype, device=at.device))
        wanted, shape = torch.stack(own) - zero, unscaled.shape(at.to(dtype))
        scales = (wanted * shape).sum(-1) / (shape * shape).sum(-1).clamp_min(torch.finfo(dtype).tiny)
        missed = largest_gap(scales[:, None] * shape, wanted)
        if not missed <= TOLERANCE.get(at.dtype, HALF_TOLERANCE):
            raise UsageError(
                f"{name} ({type(norm).__name__}) is not linear when its scale is held",
                f"the nearest such map misses its output by {missed:.1e} of its largest value",
            )
        return cls(gain, zero, centred, scales)

    def shape(self, vectors: Tensor) -> Tensor:
        """The map without scale and bias, (..., d_model)."""
        return self.gain * (vectors - vectors.mean(-1, keepdim=True) if self.centred else vectors)

    def apply(self, vectors: Tensor) -> Tensor:
        """The whole map of one vector a position, (positions, d_model)."""
        return self.scales[:, None] * self.shape(vectors) + self.bias

    def pull_back(self, rows: Tensor) -> Tensor:
        """Vectors whose products with x are those of `rows` with `shape(x)`, (..., d_model)."""
        pulled = rows * self.gain
        return pulled - pulled.mean(-1, keepdim=True) if self.centred else pulled


def identity(at: Tensor, dtype: torch.dtype) -> FrozenNorms:
    """What stands in place of a norm that is not there, for inputs of shape (positions, d_model)."""
    one = torch.ones(at.shape[-1], dtype=dtype, device=at.device)
    return FrozenNorms(one, torch.zeros_like(one), False, torch.ones(len(at), dtype=dtype, device=at.device))


def largest_gap(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest wanted value."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(torch.finfo(wanted.dtype).tiny))


def _probe(at: Tensor) -> Tensor:
    """Entries between 1 and 2 of alternating sign."""
    probe = torch.linspace(1, 2, at.shape[-1])
    probe[1::2] *= -1
    return probe.to(at)
