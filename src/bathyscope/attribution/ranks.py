"""Spearman's rank correlation. Knows numbers only."""

from collections.abc import Sequence

import torch
from torch import Tensor

FEWEST = 3
"""Pairs below which no correlation is given: two always lie on a line."""


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's correlation of two lists, ties having their mean rank; None for fewer than three pairs or no spread.

    Args:
        first: numbers.
        second: as many others.

    Example:
        >>> from bathyscope.attribution.ranks import rank_correlation
        >>> rank_correlation([1, 2, 3, 4], [10, 20, 40, 30])
        0.8
    """
    if len(first) < FEWEST:
        return None
    ranks = [ranked(torch.tensor(list(one), dtype=torch.float64)) for one in (first, second)]
    spread = [one - one.mean() for one in ranks]
    lengths = spread[0].norm() * spread[1].norm()
    return round(float(spread[0] @ spread[1] / lengths), 6) if lengths > 0 else None


def ranked(numbers: Tensor) -> Tensor:
    """The rank of each number from 0, equal ones having their mean rank."""
    _, which, counts = numbers.unique(sorted=True, return_inverse=True, return_counts=True)
    first = counts.cumsum(0) - counts
    return (first + (counts - 1) / 2).double()[which]
