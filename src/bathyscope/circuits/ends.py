"""Ends: what a site holds in the clean run, and what that is compared with, taken apart in a basis.

The other end is the corrupted run, its mean over pairs, or nothing at all. On the straight way from there to the clean
run features and error change in proportion, so that it is a straight way of activations whatever the basis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Literal

import torch
from torch import Tensor

from bathyscope.circuits.features import Basis, Feature, Parts

Baseline = Literal["corrupted", "mean", "zero"]
ROWS = 32
"""Pairs whose features are held at once."""


@dataclass(frozen=True, eq=False)
class Ends:
    """A site's activations at both ends of the way that attributions are made on.

    Args:
        basis: what they are taken apart in.
        clean, corrupted: activations, (pairs, positions, width), heads side by side.
        baseline: the end that is compared with: the pair's corrupted run; the mean of features and error over all
            pairs' corrupted runs, position by position; or features and error of zero.

    Example:
        >>> import torch
        >>> from bathyscope.circuits import Units
        >>> from bathyscope.circuits.ends import Ends
        >>> ends = Ends(Units(1), torch.tensor([[[3.0]], [[4.0]]]), torch.tensor([[[1.0]], [[2.0]]]), "mean")
        >>> ends.change().features.flatten().tolist()
        [1.5, 2.5]
    """

    basis: Basis
    clean: Tensor
    corrupted: Tensor
    baseline: Baseline

    @cached_property
    def other(self) -> Tensor:
        """Activations at the end that is compared with, (pairs, positions, width)."""
        if self.baseline == "corrupted":
            return self.corrupted
        if self.baseline == "mean":
            return self.corrupted.mean(0).expand_as(self.clean)
        return torch.zeros_like(self.clean) + self.basis.constant

    @cached_property
    def mean(self) -> Parts:
        """The mean of features and error over all corrupted runs, (positions, ...)."""
        return mean_of(self.basis, self.corrupted)

    def change(self, rows: slice = slice(None)) -> Parts:
        """The clean run's parts less those at the other end, (pairs, positions, ...)."""
        clean = self.basis.split(self.clean[rows])
        if self.baseline == "corrupted":
            return clean - self.basis.split(self.corrupted[rows])
        return clean - self.mean if self.baseline == "mean" else clean

    def written(self, features: Sequence[Feature]) -> Tensor:
        """What the change of each feature alone writes at its position, (pairs, features, width)."""
        found = []
        for rows in self.blocks():
            change = self.change(rows)
            found.append(torch.stack([self._written(change, one) for one in features], 1))
        return torch.cat(found)

    def _written(self, change: Parts, feature: Feature) -> Tensor:
        if feature.index is None:
            return change.error[:, feature.position]
        own = slice(feature.index * self.basis.size, (feature.index + 1) * self.basis.size)
        only = torch.zeros_like(change.features[:, feature.position])
        only[:, own] = change.features[:, feature.position, own]
        return self.basis.written(only)

    def blocks(self) -> Iterator[slice]:
        """All pairs, some at a time: features are many more numbers than activations."""
        return blocks(len(self.clean))


def mean_of(basis: Basis, activations: Tensor) -> Parts:
    """The mean of features and error over prompts, (positions, ...), of activations (prompts, positions, width)."""
    parts = (basis.split(activations[rows]) for rows in blocks(len(activations)))
    sums = (Parts(one.features.sum(0), one.error.sum(0)) for one in parts)
    return reduce(Parts.__add__, sums) * (1 / len(activations))


def blocks(n: int) -> Iterator[slice]:
    """Rows of n, some at a time."""
    for first in range(0, n, ROWS):
        yield slice(first, first + ROWS)
