"""Moments: what is kept of a stream of pairs (x, y), so that every linear fit and its error still follow from it.

Counts, means and centred products, in float64 and on the CPU; no activation is kept. Knows neither
models nor methods.
"""

from dataclasses import dataclass, field
from typing import Final, Self

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.mappings import Term

Eigen = tuple[Tensor, Tensor]
"""Eigenvalues, (width,), ascending, and eigenvectors, (width, width), one a column."""

ROUNDINGS: Final = 4.0
"""Squares along a direction are rounding's if they are under so many times those of one `eps` in every number of x.

Along directions that a norm leaves empty .01 to .9 times as much was measured, along others at least 50
times in bfloat16 and 10 000 000 000 times in float32.
"""


@dataclass
class Gram:
    """What all pairs with the same x share: their number, x's mean and products, and these factorised, once.

    Args:
        mean: mean of x, (width,).
        products: centred products of x with itself, (width, width).
        n: number of pairs.
        eps: the distance from 1 to the next number, in the coarsest dtype that x came in.
    """

    mean: Tensor
    products: Tensor
    n: int = 0
    eps: float = 0.0
    _eigen: dict[bool, Eigen] = field(default_factory=dict, repr=False)

    def eigen(self, *, centred: bool = True) -> Eigen:
        """Eigenvalues and eigenvectors of the products about the mean, or about zero.

        An eigenvalue is 0 where there is nothing but rounding along its vector. A norm leaves such directions
        behind, and to divide by what rounding left there would make noise of them.
        """
        if centred not in self._eigen:
            about_zero = torch.addr(self.products, self.mean, self.mean, alpha=self.n)
            values, vectors = torch.linalg.eigh(self.products if centred else about_zero)
            of_x = ROUNDINGS * self.eps**2 * (about_zero.diagonal() @ vectors.square())
            of_eigh = len(values) * torch.finfo(torch.float64).eps * values[-1]
            self._eigen[centred] = torch.where(values > of_x + of_eigh, values, 0.0), vectors
        return self._eigen[centred]

    def forget(self) -> None:
        """Leave the factorisation out: more pairs have come."""
        self._eigen.clear()


@dataclass
class Moments:
    """Number, means and centred products of pairs (x, y), merged as Chan, Golub and LeVeque do (1979).

    Centred, because a residual stream's mean is far longer than what varies around it. Several y of one x
    stand side by side in its columns, and `columns` gives the moments of one of them.

    Args:
        gram: what belongs to x alone.
        mean_y: mean of y, (target width,).
        xy: centred products of x and y, (source width, target width).
        yy: centred squares of y, (target width,).

    Example:
        >>> import torch
        >>> from bathyscope.fitting.moments import Moments
        >>> from bathyscope.mappings import Term
        >>> x, moments = torch.tensor([[0.0], [1.0], [2.0]]), Moments.empty(1, 1)
        >>> moments.add(x[:2], 3 * x[:2])
        >>> moments.add(x[2:], 3 * x[2:])
        >>> moments.n, moments.xy.tolist(), moments.error(Term(torch.tensor(2.0), torch.tensor([1.0])))
        (3, [[6.0]], 2.0)
    """

    gram: Gram
    mean_y: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def empty(cls, source_width: int, target_width: int) -> Self:
        """Moments of no pairs; they take 8 x source width x (source width + target width) bytes."""
        x, y = torch.zeros(source_width, dtype=torch.float64), torch.zeros(target_width, dtype=torch.float64)
        return cls(Gram(x, torch.outer(x, x)), y, torch.outer(x, y), y.clone())

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.gram.n

    @property
    def mean_x(self) -> Tensor:
        """Mean of x, (source width,)."""
        return self.gram.mean

    @property
    def xx(self) -> Tensor:
        """Centred products of x with itself, (source width, source width)."""
        return self.gram.products

    @property
    def variation(self) -> float:
        """Sum over all pairs of the squared distance of y from its mean."""
        return float(self.yy.sum())

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of x and of y."""
        return self.xy.shape[0], self.xy.shape[1]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in a block of pairs; blocks of a thousand or more are fastest.

        Args:
            x: (pairs, source width).
            y: (pairs, target width).

        Raises:
            UsageError: they are not as many, not of these widths, or not finite.
        """
        if len(x) != len(y) or (x.shape[1], y.shape[1]) != self.widths:
            raise UsageError(
                f"pairs of shapes {tuple(x.shape)} and {tuple(y.shape)} were given",
                f"as many x as y, of widths {self.widths[0]} and {self.widths[1]}",
            )
        if not len(x):
            return
        self.gram.eps = max(self.gram.eps, torch.finfo(x.dtype).eps)
        x, y = x.to("cpu", torch.float64), y.to("cpu", torch.float64)
        mean_x, mean_y = x.mean(0), y.mean(0)
        if not (torch.isfinite(mean_x).all() and torch.isfinite(mean_y).all()):
            raise UsageError("activations that are not finite were read", "finite numbers are needed", "dtype=float32")
        x, y = x - mean_x, y - mean_y
        self._count(len(x), mean_x, mean_y)
        self.xx.addmm_(x.T, x)
        self.xy.addmm_(x.T, y)
        self.yy.add_(y.square().sum(0))

    def merge(self, other: "Moments") -> None:
        """Take in all pairs of another stream of the same widths."""
        self._count(other.n, other.mean_x, other.mean_y)
        self.gram.eps = max(self.gram.eps, other.gram.eps)
        self.xx.add_(other.xx)
        self.xy.add_(other.xy)
        self.yy.add_(other.yy)

    def columns(self, first: int, last: int) -> "Moments":
        """The moments of x and of y's columns `first` to before `last`: a view, not a copy, and not to be added to."""
        return Moments(self.gram, self.mean_y[first:last], self.xy[:, first:last], self.yy[first:last])

    def error(self, term: Term) -> float:
        """Sum over all pairs of the squared distance between y and what a term makes of x."""
        weight = term.weight.to("cpu", torch.float64)
        if weight.ndim:
            mean, cross, own = self.mean_x @ weight, (weight * self.xy).sum(), (weight * (self.xx @ weight)).sum()
        else:
            mean, cross, own = self.mean_x * weight, weight * self.xy.trace(), weight**2 * self.xx.trace()
        off = self.mean_y - mean - (0 if term.bias is None else term.bias.to(mean))
        # Where a fit is exact, rounding may leave a hair less than nothing.
        return max(0.0, self.variation - 2 * float(cross) + float(own)) + self.n * float(off.square().sum())

    def _count(self, n: int, mean_x: Tensor, mean_y: Tensor) -> None:
        """Count n more pairs of other means, and what the distance between the means adds to every product."""
        if not n:
            return
        total, off_x, off_y = self.n + n, mean_x - self.mean_x, mean_y - self.mean_y
        share = self.n * n / total
        self.xx.addr_(off_x, off_x, alpha=share)
        self.xy.addr_(off_x, off_y, alpha=share)
        self.yy.add_(off_y.square(), alpha=share)
        self.mean_x.add_(off_x, alpha=n / total)
        self.mean_y.add_(off_y, alpha=n / total)
        self.gram.n = total
        self.gram.forget()
