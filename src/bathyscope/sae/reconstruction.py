"""Reconstruction: how much of activations a coder gives back, in sums that any order and batch adds up alike.

Knows tensors and classes of positions, no model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

import torch
from torch import Tensor

from bathyscope.sae.code import Code
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.places import CLASSES, USED

DENSE: Final = 0.1
"""A latent that is active on a larger share of tokens is dense."""

DENSITIES: Final = tuple(half / 2 for half in range(-10, 1))
"""Where the bins of the density histogram part, as powers of 10: from 1e-5 to 1."""

FLAT: Final = 1e-10
"""A variance that is a smaller share of the mean square is rounding, and nothing to be explained."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over tokens, in float64, of targets y and their reconstructions; sums of other tokens are added to them.

    Args:
        n: tokens.
        shift: sum of y - c, where c is the same for all tokens, (width,).
        square: sum of |y - c|^2.
        error: sum of |y - reconstruction|^2.
        made: sum of |reconstruction|^2.
        product: sum of <y, reconstruction>.
        cosine: sum of their cosines.
        ratio: sum of |reconstruction| / |y|.
        norm: sum of |y|.
        active: sum of active latents.
    """

    n: int
    shift: Tensor
    square: float
    error: float
    made: float
    product: float
    cosine: float
    ratio: float
    norm: float
    active: int

    @classmethod
    def of(cls, y: Tensor, made: Tensor, active: Tensor, about: Tensor) -> Self:
        """Sums of some tokens.

        Args:
            y: what was to be reconstructed, (tokens, width).
            made: the reconstruction, (tokens, width).
            active: how many latents were active, (tokens,).
            about: c, (width,); near the mean of y, it costs no digits.
        """
        y, made, about = y.double(), made.double(), about.to(y.device).double()
        moved, product = y - about, (y * made).sum(1)
        long, made_long = (one.norm(dim=1).clamp_min(torch.finfo(torch.float64).tiny) for one in (y, made))
        return cls(
            len(y),
            moved.sum(0),
            float(moved.square().sum()),
            float((y - made).square().sum()),
            float(made.square().sum()),
            float(product.sum()),
            float((product / long / made_long).sum()),
            float((made_long / long).sum()),
            float(long.sum()),
            int(active.sum()),
        )

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def variance(self) -> float:
        """Sum of |y - mean of y|^2."""
        return self.about(self.shift / max(self.n, 1))

    def about(self, mean: Tensor) -> float:
        """Sum of |y - c - mean|^2."""
        return self.square - float(2 * mean @ self.shift) + self.n * float(mean @ mean)

    @property
    def fvu(self) -> float | None:
        """Fraction of variance unexplained: error over variance; None where nothing varies."""
        variance = self.variance
        return self.error / variance if variance > FLAT * self.square else None

    def mean(self, total: float) -> float | None:
        """A sum by token; None without tokens."""
        return total / self.n if self.n else None


@dataclass(frozen=True)
class Reconstruction:
    """How a coder reconstructs; sinks and special tokens are left out but where it says so.

    None: there is nothing to tell it by.

    Args:
        n: tokens that were measured.
        left_out: share of all tokens that were sinks or special tokens.
        fvu: sum of |y - reconstruction|^2 over sum of |y - mean|^2, both over the whole set.
        explained_variance: 1 - fvu.
        fvu_all: fvu with these among the tokens and in the mean.
        cosine: mean cosine of y and its reconstruction.
        l2_ratio: mean of |reconstruction| / |y|.
        reconstruction_bias: E|reconstruction|^2 / E<y, reconstruction>: 1 is unbiased, less is shrinkage.
        l0: mean number of active latents.
        dead_fraction: share of latents that were never active on these tokens.
        dense_fraction: share of latents that were active on more than `DENSE` of them.
        density: how many of the latents that are not dead are active on what share of tokens: in bins of half a
            power of 10, from 1e-5 up; the first has all that are rarer as well.
        by_class: for each of `places.CLASSES` its "tokens" and the share of all that they are; "variance", the share of
            squared distances from the mean of all that they make; "fvu", about the class's own mean; "l0"; "norm".
    """

    n: int
    left_out: float
    fvu: float | None
    explained_variance: float | None
    fvu_all: float | None
    cosine: float | None
    l2_ratio: float | None
    reconstruction_bias: float | None
    l0: float | None
    dead_fraction: float
    dense_fraction: float
    density: tuple[int, ...]
    by_class: Mapping[str, Mapping[str, Any]]


@dataclass(eq=False)
class Tally:
    """What has been measured of a coder so far."""

    coder: SparseCoder
    sums: dict[str, Sums] = field(default_factory=dict)
    counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def __post_init__(self) -> None:
        nothing = torch.zeros(0, self.coder.d_out)
        empty = Sums.of(nothing, nothing, torch.zeros(0), self.coder.decoder_bias.cpu())
        self.sums = dict.fromkeys(CLASSES, empty)
        self.counts = torch.zeros(self.coder.n_latents, dtype=torch.long)

    def add(self, x: Tensor, y: Tensor, classes: Tensor) -> None:
        """Take in some tokens.

        Args:
            x: what the coder reads, (tokens, d_in).
            y: what it is to give, (tokens, d_out).
            classes: the number of each token's class in `CLASSES`, (tokens,).
        """
        coder, code = self.coder, self.coder.encode(x)
        made, active = coder.reconstruct(x, code).cpu(), code.l0().cpu()
        for number, name in enumerate(CLASSES):
            own = classes == number
            if own.any():
                self.sums[name] += Sums.of(y.cpu()[own], made[own], active[own], coder.decoder_bias.cpu())
        used = (classes >= CLASSES.index(USED[0])).to(code.values.device)
        self.counts += Code(code.indices[used], code.values[used], code.n_latents).counts().cpu()

    @property
    def used(self) -> Sums:
        """The sums of what is neither a sink nor a special token."""
        return sum_of(self.sums[name] for name in USED)

    def mean(self) -> Tensor:
        """The mean of what is neither a sink nor a special token, (d_out,), in float64."""
        used = self.used
        return used.shift / max(used.n, 1) + self.coder.decoder_bias.cpu().double()

    def result(self) -> Reconstruction:
        """What the sums say."""
        used, every = self.used, sum_of(self.sums.values())
        share = self.counts / max(used.n, 1)
        return Reconstruction(
            n=used.n,
            left_out=1 - used.n / every.n,
            fvu=used.fvu,
            explained_variance=None if used.fvu is None else 1 - used.fvu,
            fvu_all=every.fvu,
            cosine=used.mean(used.cosine),
            l2_ratio=used.mean(used.ratio),
            reconstruction_bias=used.made / used.product if used.product else None,
            l0=used.mean(used.active),
            dead_fraction=float((self.counts == 0).double().mean()),
            dense_fraction=float((share > DENSE).double().mean()),
            density=_histogram(share[self.counts > 0]),
            by_class={name: _by_class(one, every) for name, one in self.sums.items()},
        )


def sum_of(sums: Any) -> Sums:
    """Several sums as one."""
    first, *others = sums
    for other in others:
        first = first + other
    return first


def _by_class(one: Sums, every: Sums) -> dict[str, Any]:
    variance = every.variance
    return {
        "tokens": one.n,
        "share": one.n / every.n,
        "variance": one.about(every.shift / every.n) / variance if variance else None,
        "fvu": one.fvu,
        "l0": one.mean(one.active),
        "norm": one.mean(one.norm),
    }


def _histogram(share: Tensor) -> tuple[int, ...]:
    edges = 10.0 ** torch.tensor(DENSITIES[1:-1], dtype=torch.float64)
    bins = torch.bucketize(share.double(), edges, right=True)
    return tuple(torch.bincount(bins, minlength=len(DENSITIES) - 1).tolist())
