"""The bootstrap: how far a mean over positions would move on other text of the same kind.

Whole windows are drawn again, not positions: those of one window share its text, and are no
independent evidence. All measurements are resampled alike, so that a difference of two is paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy
from numpy.typing import ArrayLike, NDArray

RESAMPLES: Final = 2_000
LEVEL: Final = 0.95
"""The share of resamples that lies within an interval."""

Floats = NDArray[numpy.float64]


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resamples of windows, the same for every measurement.

    Args:
        windows: for each position the number of its window, from 0, (positions,).
        drawn: how often each window is in each resample, (resamples, windows).
    """

    windows: NDArray[numpy.intp]
    drawn: Floats

    @classmethod
    def of(cls, windows: Sequence[int], *, resamples: int = RESAMPLES, seed: int = 0) -> Self:
        """Draw as many windows as there are, with replacement, many times.

        Args:
            windows: for each position the number of its window, from 0.
            resamples: how many times.
            seed: decides what is drawn.

        Example:
            >>> from bathyscope.studies.bootstrap import Bootstrap
            >>> drawn = Bootstrap.of([0, 0, 1, 1])
            >>> drawn.mean([1.0, 0.0, 1.0, 1.0]), drawn.interval([1.0, 0.0, 1.0, 1.0])
            (0.75, [0.5, 1.0])
        """
        numbers = numpy.asarray(windows, dtype=numpy.intp)
        count = int(numbers.max()) + 1
        generator = numpy.random.default_rng(seed)
        drawn = generator.multinomial(count, numpy.full(count, 1 / count), size=resamples)
        return cls(numbers, drawn.astype(numpy.float64))

    def mean(self, values: ArrayLike) -> float:
        """The mean over all positions.

        Args:
            values: one a position, (positions,).
        """
        return float(numpy.mean(numpy.asarray(values, numpy.float64)))

    def interval(self, values: ArrayLike) -> list[float]:
        """Between which means the middle 95% of the resamples lie, [low, high].

        Args:
            values: one a position, (positions,).
        """
        means = self._sums(numpy.asarray(values, numpy.float64)) / self._sums(numpy.ones(len(self.windows)))
        return [float(bound) for bound in numpy.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]

    def _sums(self, values: Floats) -> Floats:
        """Of each resample, (resamples,)."""
        return self.drawn @ numpy.bincount(self.windows, weights=values, minlength=self.drawn.shape[1])


def tallied(name: str, values: NDArray[numpy.float64], bootstrap: Bootstrap) -> dict[str, Any]:
    """A mean with its interval, of the items that have a value; None where none has.

    Args:
        name: of the field.
        values: one an item, not a number where there is none.
        bootstrap: of all items.
    """
    there = ~numpy.isnan(values)
    if not there.any():
        return {name: None, f"{name}_interval": None}
    if not there.all():
        bootstrap = Bootstrap.of([*range(int(there.sum()))])
    return {name: bootstrap.mean(values[there]), f"{name}_interval": bootstrap.interval(values[there])}
