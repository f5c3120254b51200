"""Attribution patching: what writing another run's activation would change, from one gradient (Nanda 2023).

The estimate of a write's effect is its first order: what is written less what stands there, times the metric's
gradient (arXiv 2310.10348). Measured effects of the largest stand beside it, since it may be far off where the model
bends between the two runs, most of all in early layers.
"""

import time
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from bathyscope.attribution.options import Asked, AttributionOptions
from bathyscope.attribution.result import AttributionResult, Node
from bathyscope.causal.pairs import described
from bathyscope.forward import capture
from bathyscope.generation import next_logits
from bathyscope.gradients import row_gradients
from bathyscope.model import Model, Prompt
from bathyscope.readouts import Metric
from bathyscope.results import provenance


def attribution_patching(
    model: Model, clean: Prompt, corrupted: Prompt, metric: Metric, **options: Unpack[AttributionOptions]
) -> AttributionResult:
    """Estimate the effect of every write of one run's activations into the other's, at each site and position.

    Args:
        model: the model.
        clean: one prompt.
        corrupted: another, of as many tokens.
        metric: what is explained: `LogitDiff`, `LogProbability`, `Logit` or another `Metric`.
        options: see `AttributionOptions`.

    Returns:
        For each node the estimate and, for the largest, the measured effect: the metric after the write less the
        metric of the run that was written into.

    Raises:
        UsageError: prompts of different lengths, or a site that does not exist.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import attribution_patching
        >>> from bathyscope.readouts import LogitDiff
        >>> found = attribution_patching(
        ...     bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"), layers="28,29"
        ... )
        >>> len(found.nodes), found.rank_correlation is not None
        (4, True)
    """
    began = time.perf_counter()
    asked = Asked.of(model, clean, corrupted, metric, options)
    shifts = _shifts(model, asked)
    found = row_gradients(model, [asked.target], partial(metric.measure, model), asked.sites)
    nodes: list[Node] = []
    for site, shift in zip(asked.sites, shifts, strict=True):
        nodes += asked.nodes(site, shift * found.gradients[site][0].double())
    return AttributionResult(
        method="attribution-patching",
        metric=described(model, metric),
        clean=asked.pair.clean.text,
        corrupted=asked.pair.corrupted.text,
        nodes=tuple(asked.measured(model, nodes)),
        values=run_values(model, asked),
        provenance=provenance([model.provenance()], asked.spec("attribution-patching")),
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


def run_values(model: Model, asked: Asked) -> dict[str, float]:
    """The metric of both runs, and their difference: that of the whole write."""
    logits = next_logits(model, [asked.pair.clean, asked.pair.corrupted])
    clean, corrupted = asked.pair.metric.measure(model, logits).double().tolist()
    total = clean - corrupted if asked.target is asked.pair.corrupted else corrupted - clean
    return {"clean": clean, "corrupted": corrupted, "total": total}


def _shifts(model: Model, asked: Asked) -> list[Tensor]:
    """For each site what is written less what stands there, (positions, ...site shape), float64."""
    read = capture(model, [asked.target, asked.source], asked.sites)
    return [torch.sub(source.double(), target.double()) for target, source in (read[site] for site in asked.sites)]
