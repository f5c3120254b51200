"""Measured effects: a metric before and after one activation is written from another run, through the planner."""

from collections.abc import Sequence
from dataclasses import dataclass

from bathyscope.causal.measuring import measure, patched
from bathyscope.engine import Cell, Stop
from bathyscope.generation import Progress
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Metric
from bathyscope.sites import Site


@dataclass(frozen=True)
class Effects:
    """What was measured.

    Args:
        plain: the metric where nothing is written.
        effects: by how much each write changed it.
    """

    plain: float
    effects: tuple[float, ...]


def measured_effects(
    model: Model,
    target: Tokens,
    source: Tokens,
    metric: Metric,
    places: Sequence[tuple[Site, int]],
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Effects:
    """Write into one run what another holds, a place at a time (activation patching).

    Args:
        model: the model.
        target: the prompt that is written into.
        source: the prompt whose activations are written; of as many tokens.
        metric: what is measured.
        places: sites and positions.
        progress: called with what is done and what there is to do.
        stop: looked at after every batch.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution.effects import measured_effects
        >>> from bathyscope.readouts import LogitDiff
        >>> model = bathyscope.load()
        >>> boats, boat = model.tokenize("The boats"), model.tokenize("The boat")
        >>> found = measured_effects(model, boat, boats, LogitDiff(" they", " it"), [(model.site("resid_post.29"), 1)])
        >>> found.effects[0] > 0
        True
    """
    cells = [patched(metric, source, target, [site], [position]) for site, position in places]
    found = measure(model, [*cells, Cell(target, metric)], metric, {}, {}, progress=progress, stop=stop)
    *written, plain = found.values
    return Effects(plain, tuple(value - plain for value in written))
