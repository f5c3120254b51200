"""Sparsity: how training makes codes sparse. A coder has one; what it leaves behind is a `Selection`.

Here are what all share and those that select k latents, whose gradients are found entry by entry
(`sparse_algebra`). Those that punish latents are in `penalties`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.largest import largest
from bathyscope.sae.code import KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import BLOCK
from bathyscope.sae.training.sparse_algebra import ByLatent, Sparse
from bathyscope.sae.training.weights import Weights

FORGET: Final = 0.99
RECENT: Final = 10
"""What a step leaves of the threshold that the n steps before it found: n / (n + RECENT), and at most FORGET. It
follows slowly, as in arXiv 2412.06410, but forgets from the first steps on what an untrained coder kept."""

SPARE: Final = 8
"""How many latents more than are wanted bfloat16 names: float32 chooses among them. With 4,608 latents and k = 32, the
best 32 of 40 are the best of all in every row that was looked at; of bfloat16's own they were in two of three."""

WIDER: Final = 4
"""How many times k latents one row of a batch may have: beyond it there is hardly ever one among the best of all."""


@dataclass(frozen=True)
class Moment:
    """Where training is.

    Args:
        step: steps before this one.
        share: what of the training is done, 0 to 1.
        half: whether bfloat16 decides which latents are candidates.
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
    coarse: ClassVar[bool] = False
    """Whether a step asks if bfloat16 may decide which latents are candidates."""
    rates: ClassVar[Mapping[str, float]] = {}
    """The learning rates of those things that do not have the coder's."""

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
    coarse: ClassVar[bool] = True

    def __post_init__(self) -> None:
        KeepTop(self.k)

    @override
    @torch.no_grad()
    def learn(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> Learned:
        return self.descend(weights, x, y, self.select(weights, x, moment))

    def select(self, weights: Weights, x: Tensor, moment: Moment) -> Sparse:
        """The latents that this step trains."""
        return Sparse.full(*_top_of_rows(weights, x, self.k, moment))

    def descend(self, weights: Weights, x: Tensor, y: Tensor, code: Sparse) -> Learned:
        """Loss and gradients of one reconstruction from all of the latents."""
        found = code.sum(weights["decoder"]) + weights["decoder_bias"]
        residual = y - (found if weights.skip is None else torch.addmm(found, x, weights.skip))
        slope = residual * (-2 / len(x))
        entries = ByLatent.of(code, weights.n_latents)
        back = code.dots(slope, weights["decoder"]) * (code.values > 0)
        add_code_gradients(weights, x, code, back, entries)
        weights.add_gradients(decoder=entries.sum(code.values, slope), decoder_bias=slope.sum(0))
        if weights.skip is not None:
            weights.add_gradients(skip=x.T @ slope)
        return Learned(squares(residual) / len(x), residual, code.active(weights.n_latents))

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepTop(self.k)


@dataclass(frozen=True)
class BatchTopK(TopK):
    """The k largest a row on average: of a batch the k x rows largest (arXiv 2412.06410).

    The finished coder keeps what is above one threshold: of the least activations that the steps kept a mean in which
    later ones weigh more (`FORGET`, `RECENT`).
    """

    name: ClassVar[str] = "batch-topk"

    @override
    def kept(self) -> dict[str, Tensor]:
        return {"threshold": torch.zeros(()), "updates": torch.zeros(())}

    @override
    def select(self, weights: Weights, x: Tensor, moment: Moment) -> Sparse:
        wide = min(WIDER * self.k, weights.n_latents)
        indices, values = _top_of_rows(weights, x, wide, moment)
        wanted = min(self.k * len(x), values.numel())
        least = values.reshape(-1).topk(wanted, sorted=False).values.min()
        if bool(least > 0):
            kept, n = weights.kept, weights.kept["updates"]
            share = (n / (n + RECENT)).clamp_max(FORGET)
            weights.kept = {**kept, "threshold": share * kept["threshold"] + (1 - share) * least, "updates": n + 1}
        return Sparse.full(indices, values).where((values >= least).reshape(-1) & (values > 0).reshape(-1))

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
    def descend(self, weights: Weights, x: Tensor, y: Tensor, code: Sparse) -> Learned:
        ends = [max(1, round(share * weights.n_latents)) for share in self.prefixes]
        group = torch.bucketize(code.indices, torch.tensor(ends, device=x.device), right=True)
        found, residuals = weights["decoder_bias"].expand_as(y), []
        if weights.skip is not None:
            found = found + x @ weights.skip
        inside = [group == number for number in range(len(ends))]
        parts = [code.where(own) for own in inside]
        for part in parts:
            found = found + part.sum(weights["decoder"])
            residuals.append(y - found)
        back, slope, rows = torch.zeros_like(code.values), torch.zeros_like(y), torch.zeros_like(weights["decoder"])
        # A latent of a group is in the prefix that ends with it and in every longer one.
        for number in reversed(range(len(ends))):
            slope = slope - residuals[number] * (2 / (len(x) * len(ends)))
            part = parts[number]
            if len(part.indices):
                back[inside[number]] = part.dots(slope, weights["decoder"]) * (part.values > 0)
                begin = ends[number - 1] if number else 0
                rows[begin : ends[number]] = ByLatent.of(part, ends[number]).sum(part.values, slope)[begin:]
        add_code_gradients(weights, x, code, back, ByLatent.of(code, weights.n_latents))
        weights.add_gradients(decoder=rows, decoder_bias=slope.sum(0))
        if weights.skip is not None:
            weights.add_gradients(skip=x.T @ slope)
        losses = torch.stack([residual.square().sum() / len(x) for residual in residuals])
        return Learned(losses.mean(), residuals[-1], code.active(weights.n_latents))


def squares(rows: Tensor) -> Tensor:
    """The sum of all squares, (), in one pass over them."""
    flat = rows.reshape(-1)
    return torch.dot(flat, flat)


def add_code_gradients(weights: Weights, x: Tensor, code: Sparse, back: Tensor, entries: ByLatent) -> None:
    """Gradients of encoder and its bias, from those of the latents' values, (entries,)."""
    weights.add_gradients(encoder=entries.sum(back, x), encoder_bias=code.total(back, weights.n_latents))


def _top_of_rows(weights: Weights, x: Tensor, k: int, moment: Moment) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest of each row, (rows, k), and 0 where they are not positive."""
    encoder, bias = weights["encoder"].detach(), weights["encoder_bias"].detach()
    if moment.half:
        # bfloat16 names candidates; which of them are kept, and how active they are, it never decides.
        rough = nn.functional.linear(x.bfloat16(), encoder.bfloat16(), bias.bfloat16())
        where, found = largest(rough, k + SPARE)
        exact = Sparse.full(where, found.float()).dots(x, encoder).view_as(where) + bias[where]
        found, order = exact.topk(min(k, exact.shape[1]), dim=-1, sorted=False)
        return where.gather(1, order), found.relu_()
    indices = []
    values = []
    room = x.new_empty(min(BLOCK, len(x)), weights.n_latents)
    for block in x.split(BLOCK):
        best = largest(torch.addmm(bias, block, encoder.T, out=room[: len(block)]), k)
        indices.append(best[0])
        values.append(best[1])
    return torch.cat(indices), torch.cat(values).relu_()
