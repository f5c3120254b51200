"""From what was measured at each place to means, differences of means, and their intervals."""

from collections.abc import Mapping
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from bathyscope.studies.bootstrap import Bootstrap

MEASURES: Final = ("precision_at_1", "surprisal")
"""What is averaged, by the names of the readouts."""

Values = Mapping[str, NDArray[numpy.float64]]
"""For each measure a value a place, (places,)."""


def tally(values: Values, bootstrap: Bootstrap) -> dict[str, Any]:
    """The mean of each measure and its interval, and how many places there were.

    Example:
        >>> import numpy
        >>> from bathyscope.studies.bootstrap import Bootstrap
        >>> from bathyscope.studies.next_token_study.tallies import tally
        >>> values = {"precision_at_1": numpy.array([1.0, 0.0]), "surprisal": numpy.array([2.0, 2.0])}
        >>> found = tally(values, Bootstrap.of([0, 1]))
        >>> found["precision_at_1"], found["surprisal_interval"], found["n"]
        (0.5, [2.0, 2.0], 2)
    """
    found: dict[str, Any] = {}
    for name in MEASURES:
        found |= {name: bootstrap.mean(values[name]), f"{name}_interval": bootstrap.interval(values[name])}
    return {**found, "n": len(values[MEASURES[0]])}


def difference(values: Values, other: Values, name: str, bootstrap: Bootstrap) -> dict[str, Any]:
    """By how much each measure is larger than another method's at the same places, with intervals.

    Args:
        values: of the one.
        other: of the other.
        name: the other's, as part of a field.
        bootstrap: draws the places of both together.
    """
    found: dict[str, Any] = {}
    for measure in MEASURES:
        less = values[measure] - other[measure]
        field = f"{measure}_minus_{name}"
        found |= {field: bootstrap.mean(less), f"{field}_interval": bootstrap.interval(less)}
    return found
