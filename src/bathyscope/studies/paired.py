"""Comparing two methods on the same items, and choosing a cell without looking at the items that it is scored on.

The best of many cells, chosen for each item or on the very items that it is scored on, is an oracle: it grows with the
number of cells, whatever they say. So a cell is chosen on one half of the subjects and scored on the other.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy
from numpy.typing import ArrayLike, NDArray

Bools = NDArray[numpy.bool_]


def halves(subjects: Sequence[Hashable], *, seed: int = 0) -> NDArray[numpy.intp]:
    """Each item's half, 0 or 1, (items,): whole subjects, dealt out in an order that the seed decides.

    Example:
        >>> from bathyscope.studies.paired import halves
        >>> found = halves(["a", "a", "b"])
        >>> bool(found[0] == found[1] != found[2])
        True
    """
    distinct = list(dict.fromkeys(subjects))
    order = numpy.random.default_rng(seed).permutation(len(distinct))
    half_of = {distinct[index]: place % 2 for place, index in enumerate(order)}
    return numpy.array([half_of[subject] for subject in subjects], numpy.intp)


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A cell chosen on each half and scored on the other.

    Args:
        chosen: the cell for the items of half 0, which was best on half 1; and the other way round.
        right: for each item whether the cell chosen for it was right, (items,).
    """

    chosen: tuple[int, int]
    right: Bools


def cross_fitted(right: ArrayLike, half: NDArray[numpy.intp]) -> CrossFitted:
    """Choose the cell that is right most often on one half, and score it on the other; of equals the first.

    Args:
        right: whether each cell is right of each item, (items, cells).
        half: of each item, 0 or 1.

    Example:
        >>> import numpy
        >>> from bathyscope.studies.paired import cross_fitted
        >>> found = cross_fitted(numpy.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool), numpy.array([0, 0, 1, 1]))
        >>> found.chosen, found.right.tolist()
        ((1, 0), [False, False, False, False])
    """
    table = numpy.asarray(right, numpy.bool_)
    best = [int(table[half == other].sum(0).argmax()) for other in (1, 0)]
    return CrossFitted((best[0], best[1]), table[numpy.arange(len(table)), numpy.where(half == 0, *best)])


def sign_flip(differences: Sequence[int]) -> float:
    """The exact two-sided p-value that differences have the size of their sum although each sign is a coin's.

    One difference a subject, such as how many more of its items one method has right than another. Where each is -1,
    0 or 1, this is McNemar's exact test.

    Args:
        differences: whole numbers.

    Example:
        >>> from bathyscope.studies.paired import sign_flip
        >>> sign_flip([1, 1, 1, 1, 1, 0, 0]), sign_flip([1, -1])
        (0.0625, 1.0)
    """
    sizes = [abs(one) for one in differences if one]
    chances = numpy.ones(1)  # of each sum from -total to total, of the signs so far
    for size in sizes:
        chances = numpy.convolve(chances, numpy.bincount([0, 2 * size]) / 2)
    total, sums = sum(sizes), numpy.arange(len(chances))
    return min(1.0, float(chances[abs(sums - total) >= abs(sum(differences))].sum()))


def by_subject(values: ArrayLike, subjects: Sequence[Hashable]) -> list[int]:
    """The sum over each subject's items, in the order that the subjects first stand in."""
    found: dict[Hashable, int] = {}
    for subject, value in zip(subjects, numpy.asarray(values).tolist(), strict=True):
        found[subject] = found.get(subject, 0) + int(value)
    return list(found.values())


@dataclass(frozen=True, eq=False)
class Halves:
    """Two halves of some items: what is chosen on one is measured on the other, and the reverse.

    Args:
        second: whether each item is in the second half, (items,).
    """

    second: NDArray[numpy.bool_]

    @classmethod
    def drawn(cls, n: int, seed: int) -> Self:
        """Halves of so many items."""
        order = numpy.random.default_rng(seed).permutation(n)
        second = numpy.zeros(n, numpy.bool_)
        second[order[n // 2 :]] = True
        return cls(second)

    def chosen(self, scores: NDArray[numpy.float64]) -> tuple[tuple[int, int], NDArray[numpy.float64]]:
        """The best column of each half, first and second, and each item's score at the *other* half's.

        Args:
            scores: (items, layers).
        """
        means = [numpy.nanmean(scores[half], 0) for half in (~self.second, self.second)]
        best = int(means[0].argmax()), int(means[1].argmax())
        return best, numpy.where(self.second, scores[:, best[0]], scores[:, best[1]])


def exchanged(kinds: Sequence[Any], seed: int) -> list[int]:
    """For each item another item of its kind, each used once; itself where it is the only one.

    Example:
        >>> from bathyscope.studies.paired import exchanged
        >>> exchanged(["a", "b", "a"], seed=0)
        [2, 1, 0]
    """
    by_kind: dict[Any, list[int]] = {}
    for number in numpy.random.default_rng(seed).permutation(len(kinds)).tolist():
        by_kind.setdefault(kinds[number], []).append(number)
    found = [0] * len(kinds)
    for members in by_kind.values():
        for place, number in enumerate(members):
            found[number] = members[(place + 1) % len(members)]
    return found
