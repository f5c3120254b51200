"""Sparsity: how training makes codes sparse. A coder has one; what it leaves behind is a `Selection`.

Here are what all share and those that select k latents, whose gradients are found entry by entry
(`sparse_algebra`). Those that punish latents are in `penalties`.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.sae.code import Code, KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import BLOCK, weighted_sum
from bathyscope.sae.training.sparse_algebra import ByLatent, dots, total
from bathyscope.sae.training.weights import Weights

FORGET: Final = 0.99
"""What a step leaves of the threshold that the steps before it found (arXiv 2412.06410 lets it follow slowly, too)."""


WIDER: Final = 4
"""How many times k latents one row of a batch may have: beyond it there is hardly ever one among the best of all."""


@dataclass(frozen=True)
class Moment:
    """Where training is.

    Args:
        step: steps before this one.
        share: what of the training is done, 0 to 1.
        half: whether the encoder's product may be computed in bfloat16.
    """

    step: int
    share: float
    half: bool = False


@dataclass(frozen=True, eq=False)
class Learned:
    """What one step found.

    Args:
        loss: what was minimised, ().
        residual: target minus reconstruction, (rows, d_out).
        active: in how many rows each latent was active, (n_latents,).
    """

    loss: Tensor
    residual: Tensor
    active: Tensor


class Sparsity(ABC):
    """A way to make codes sparse: a frozen dataclass whose fields are its numbers."""

    name: ClassVar[str]
    bias: ClassVar[str] = "encoder_bias"
    """The bias that decides whether a latent is active."""

    def trained(self, n_latents: int) -> dict[str, Tensor]:
        """What it trains besides encoder, decoder and biases."""
        del n_latents
        return {}

    def kept(self) -> dict[str, Tensor]:
        """What it remembers between steps."""
        return {}

    @abstractmethod
    def learn(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> Learned:
        """One step's loss and gradients; the gradients are left in the weights.

        Args:
            weights: they are not changed.
            x: what is encoded, (rows, d_in), scaled.
            y: what is reconstructed, (rows, d_out), scaled.
            moment: where training is.
        """

    @abstractmethod
    def selection(self, weights: Weights) -> Selection:
        """What the finished coder keeps, in scaled units."""

    def encoder(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The finished encoder and its bias, in scaled units."""
        return weights["encoder"].detach(), weights["encoder_bias"].detach()

    def spec(self) -> dict[str, Any]:
        """Its name and numbers, as JSON values."""
        return {"sparsity": self.name, **asdict(self)}  # type: ignore[call-overload]  # every kind is a dataclass


@dataclass(frozen=True)
class TopK(Sparsity):
    """The k largest pre-activations of each row, where they are positive (arXiv 2406.04093).

    Args:
        k: latents of a row.

    Example:
        >>> from bathyscope.sae import TopK
        >>> TopK(32).spec()
        {'sparsity': 'topk', 'k': 32}
    """

    k: int = 32
    name: ClassVar[str] = "topk"

    def __post_init__(self) -> None:
        KeepTop(self.k)

    @override
    @torch.no_grad()
    def learn(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> Learned:
        indices, values = self.select(weights, x, moment)
        return self.descend(weights, x, y, indices, values)

    def select(self, weights: Weights, x: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        """Indices and values of the latents that this step trains, (rows, width)."""
        return _top_of_rows(weights, x, self.k, moment)

    def descend(self, weights: Weights, x: Tensor, y: Tensor, indices: Tensor, values: Tensor) -> Learned:
        """Loss and gradients of one reconstruction from all of the latents."""
        found = weighted_sum(indices, values, weights["decoder"]) + weights["decoder_bias"]
        residual = y - (found if weights.skip is None else torch.addmm(found, x, weights.skip))
        slope = residual * (-2 / len(x))
        entries = ByLatent.of(indices, weights.n_latents)
        back = dots(indices, slope, weights["decoder"]) * (values > 0)
        add_code_gradients(weights, x, indices, back, entries)
        weights.add_gradients(decoder=entries.sum(values, slope), decoder_bias=slope.sum(0))
        if weights.skip is not None:
            weights.add_gradients(skip=x.T @ slope)
        return Learned(residual.square().sum() / len(x), residual, _active(indices, values, weights.n_latents))

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepTop(self.k)


@dataclass(frozen=True)
class BatchTopK(TopK):
    """The k largest a row on average: of a batch the k x rows largest (arXiv 2412.06410).

    The finished coder keeps what is above one threshold, the mean of the least activations that were kept.
    """

    name: ClassVar[str] = "batch-topk"

    @override
    def kept(self) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(())}

    @override
    def select(self, weights: Weights, x: Tensor, moment: Moment) -> tuple[Tensor, Tensor]:
        wide = min(WIDER * self.k, weights.n_latents)
        indices, values = _top_of_rows(weights, x, wide, moment)
        wanted = min(self.k * len(x), values.numel())
        least = values.reshape(-1).topk(wanted, sorted=False).values.min()
        values = torch.where(values >= least, values, 0)
        if bool(least > 0):
            before = weights.kept["threshold"]
            weights.kept["threshold"] = least if moment.step == 0 else FORGET * before + (1 - FORGET) * least
        return indices, values

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepAbove(weights["threshold"].clone())


@dataclass(frozen=True)
class Matryoshka(BatchTopK):
    """BatchTopK in which the first latents alone reconstruct, too: general ones come first (arXiv 2503.17547).

    The loss is the mean of the losses of prefixes of the latents.

    Args:
        k: latents of a row, on average.
        prefixes: shares of the latents, growing, the last one 1.
    """

    prefixes: tuple[float, ...] = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1.0)
    name: ClassVar[str] = "matryoshka"

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.prefixes
        if not shares or shares[-1] != 1 or shares[0] <= 0 or list(shares) != sorted(set(shares)):
            raise UsageError(f"prefixes={shares} were given", "growing shares from above 0, the last one 1")

    @override
    def descend(self, weights: Weights, x: Tensor, y: Tensor, indices: Tensor, values: Tensor) -> Learned:
        ends = [max(1, round(share * weights.n_latents)) for share in self.prefixes]
        group = torch.bucketize(indices, torch.tensor(ends, device=x.device), right=True)
        found, residuals = weights["decoder_bias"].expand_as(y), []
        if weights.skip is not None:
            found = found + x @ weights.skip
        parts = [torch.where(group == number, values, 0) for number in range(len(ends))]
        for part in parts:
            found = found + weighted_sum(indices, part, weights["decoder"])
            residuals.append(y - found)
        entries = ByLatent.of(indices, weights.n_latents)
        back, slope = torch.zeros_like(values), torch.zeros_like(y)
        # A latent of a group is in the prefix that ends with it and in every longer one.
        for number in reversed(range(len(ends))):
            slope = slope - residuals[number] * (2 / (len(x) * len(ends)))
            inside = parts[number] > 0
            if inside.any():
                back += dots(indices, slope, weights["decoder"]) * inside
                weights.add_gradients(decoder=entries.sum(parts[number], slope))
        add_code_gradients(weights, x, indices, back, entries)
        weights.add_gradients(decoder_bias=slope.sum(0))
        if weights.trained["decoder"].grad is None:
            weights.add_gradients(decoder=torch.zeros_like(weights["decoder"]))
        if weights.skip is not None:
            weights.add_gradients(skip=x.T @ slope)
        losses = torch.stack([residual.square().sum() / len(x) for residual in residuals])
        return Learned(losses.mean(), residuals[-1], _active(indices, values, weights.n_latents))


def add_code_gradients(weights: Weights, x: Tensor, indices: Tensor, back: Tensor, entries: ByLatent) -> None:
    """Gradients of encoder and its bias, from those of the latents' values, (rows, k)."""
    weights.add_gradients(encoder=entries.sum(back, x), encoder_bias=total(indices, back, weights.n_latents))


def _top_of_rows(weights: Weights, x: Tensor, k: int, moment: Moment) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest of each row, (rows, k), and 0 where they are not positive."""
    encoder, bias = weights["encoder"].detach(), weights["encoder_bias"].detach()
    rough = encoder.bfloat16() if moment.half else None
    indices = []
    values = []
    room = x.new_empty(min(BLOCK, len(x)), weights.n_latents)
    for block in x.split(BLOCK):
        if rough is not None:
            pre = nn.functional.linear(block.bfloat16(), rough).float().add_(bias)
        else:
            pre = torch.addmm(bias, block, encoder.T, out=room[: len(block)])
        best = pre.topk(min(k, pre.shape[-1]), dim=-1, sorted=False)
        indices.append(best.indices)
        values.append(best.values)
    where = torch.cat(indices)
    # Which latents are best is decided coarsely in bfloat16; how active they are never is.
    exact = torch.cat(values) if rough is None else dots(where, x, encoder) + bias[where]
    return where, exact.relu_()


def _active(indices: Tensor, values: Tensor, n_latents: int) -> Tensor:
    return Code(indices, values, n_latents).counts()
