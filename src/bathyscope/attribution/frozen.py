"""A norm with its scale held: the linear map that it is at one input, found by probing and then checked.

No table says which norm a family has. Zero, a constant and a vector of mean 0 tell bias, centring and gain; the scale
is what carries them to the norm's own output. Knows modules, not methods.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from bathyscope.errors import UsageError

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far the frozen map may miss the norm's own output, as a share of its largest value."""
HALF_TOLERANCE = 2e-2


@dataclass(frozen=True)
class FrozenNorm:
    """x -> scale * gain * (x - mean(x)) + bias, or without the mean; float64.

    Args:
        gain, bias: of the norm, (d_model,).
        centred: whether the mean is subtracted, as a LayerNorm does and an RMSNorm does not.
        scale: one over the length that the norm divided by at the input that it was frozen at.
    """

    gain: Tensor
    bias: Tensor
    centred: bool
    scale: float

    @classmethod
    def of(cls, norm: nn.Module, at: Tensor, name: str = "the norm") -> Self:
        """Freeze a norm at one input.

        Args:
            norm: a module that is a norm over the last axis.
            at: the input, (d_model,).
            name: what errors call it.

        Raises:
            UsageError: with its scale held, the module is not linear plus a constant, so that it is no such norm.

        Example:
            >>> import torch
            >>> from bathyscope.attribution.frozen import FrozenNorm
            >>> norm, at = torch.nn.LayerNorm(8), torch.arange(8.0)
            >>> frozen = FrozenNorm.of(norm, at)
            >>> bool(torch.allclose(frozen.apply(at), norm(at).double(), atol=1e-5)), frozen.centred
            (True, True)
        """
        probes = torch.stack([torch.zeros_like(at), torch.ones_like(at), _balanced(len(at)).to(at), at])
        with torch.no_grad():
            zero, constant, balanced, own = norm(probes[None])[0].double()
        gain, wanted = (balanced - zero) / _balanced(len(at)).to(zero), own - zero
        centred = bool((constant - zero).abs().max() < 0.01 * gain.abs().max())
        frozen = cls(gain, zero, centred, 1.0)
        shape = frozen.linear(at)
        scale = float(wanted @ shape / (shape @ shape)) if bool(shape.any()) else 0.0
        missed = (scale * shape - wanted).abs().max() / wanted.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        if not missed <= TOLERANCE.get(at.dtype, HALF_TOLERANCE):
            raise UsageError(
                f"{name} ({type(norm).__name__}) is not linear when its scale is held",
                f"the nearest such map misses its output by {float(missed):.1%} of its largest value",
            )
        return cls(gain, zero, centred, scale)

    def linear(self, vectors: Tensor) -> Tensor:
        """The map without its bias, (..., d_model)."""
        vectors = vectors.double()
        if self.centred:
            vectors = vectors - vectors.mean(-1, keepdim=True)
        return self.scale * self.gain * vectors

    def apply(self, vectors: Tensor) -> Tensor:
        """The whole map, (..., d_model)."""
        return self.linear(vectors) + self.bias

    def pull_back(self, direction: Tensor) -> Tensor:
        """The vector whose product with x is that of a direction with `linear(x)`, (d_model,)."""
        pulled = self.scale * self.gain * direction
        return pulled - pulled.mean() if self.centred else pulled


def _balanced(width: int) -> Tensor:
    """Entries of size 1 whose sum is 0; where their number is odd, the last stand for three."""
    signs = torch.ones(width)
    signs[1::2] = -1.0
    if width % 2:
        signs[-3:] = torch.tensor([1.0, 1.0, -2.0]) if width > 1 else torch.tensor([1.0])
    return signs
