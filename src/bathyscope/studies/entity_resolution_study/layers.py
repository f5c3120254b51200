"""From scores to findings: the layer that each entity resolves at, by its name's tokens, and which layer is best."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from bathyscope.studies.bootstrap import LEVEL, RESAMPLES, Bootstrap, tallied
from bathyscope.studies.entity_resolution_study.measures import Table

FLOOR: Final = 0.3
"""An entity whose best description has less ROUGE-L than this does not resolve: it may share two common words."""
SHARE: Final = 0.8
"""An entity resolves at the first layer whose score is this share of its best."""
MANY: Final = 4
"""Names of so many tokens and more are counted together."""


def resolving_layers(scores: Table, layers: Sequence[int]) -> list[int | None]:
    """For each entity the first layer whose score is `SHARE` of its best; None where the best is below `FLOOR`.

    Args:
        scores: (entities, layers).
        layers: their numbers, lowest first.

    Example:
        >>> import numpy
        >>> from bathyscope.studies.entity_resolution_study.layers import resolving_layers
        >>> resolving_layers(numpy.array([[0.1, 0.5, 0.6, 0.0], [0.1, 0.1, 0.2, 0.1]]), [-1, 0, 1, 2])
        [0, None]
    """
    found: list[int | None] = []
    for row in numpy.nan_to_num(scores):
        best = float(row.max())
        reached = numpy.flatnonzero(row >= SHARE * best)
        found.append(layers[int(reached[0])] if best >= FLOOR else None)
    return found


def by_tokens(
    resolved: Sequence[int | None],
    n_tokens: Sequence[int],
    scores: Table,
    chosen: NDArray[numpy.float64],
    layers: Sequence[int],
    seed: int,
) -> list[dict[str, Any]]:
    """A record for names of 1, 2, 3, and of 4 or more tokens.

    Args:
        resolved: the layer of each entity, None where it does not resolve.
        n_tokens: of each name.
        scores: (entities, layers).
        chosen: each entity's score at the layer that the other half chose.
        layers: the columns' numbers.
        seed: of the bootstrap.
    """
    found = []
    groups = numpy.minimum(n_tokens, MANY)
    for size in sorted(set(groups.tolist())):
        members = numpy.flatnonzero(groups == size).tolist()
        reached = [layer for layer in (resolved[member] for member in members) if layer is not None]
        record: dict[str, Any] = {"tokens": f"{MANY}+" if size == MANY else str(size), "n": len(members)}
        record |= {"resolved": len(reached), "unresolved": len(members) - len(reached)}
        record |= _median(reached, seed)
        record |= tallied("rouge_l", chosen[members], Bootstrap.of([*range(len(members))], seed=seed))
        means = numpy.nanmean(scores[members], 0)
        record["peak_layer"] = layers[int(means.argmax())] if means.max() > 0 else None
        found.append(record)
    return found


def _median(reached: Sequence[int], seed: int) -> dict[str, Any]:
    """The median layer and its interval by a bootstrap over the entities that resolve."""
    if not reached:
        return {"median_layer": None, "median_layer_interval": None}
    drawn = numpy.random.default_rng(seed).choice(reached, (RESAMPLES, len(reached)))
    bounds = numpy.quantile(numpy.median(drawn, 1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {
        "median_layer": float(numpy.median(reached)),
        "median_layer_interval": [float(bound) for bound in bounds],
    }


def distribution(resolved: Sequence[int | None], layers: Sequence[int]) -> Mapping[str, int]:
    """How many entities resolve at each layer, and how many never."""
    found = {str(layer): sum(one == layer for one in resolved) for layer in layers}
    return {**found, "never": sum(one is None for one in resolved)}
