"""Integrated gradients of activations: the gradient averaged on the way from one run to the other.

All positions of a site are written with what lies between the two runs, and the gradient is taken there, at the
middles of equal steps (arXiv 1703.01365; for activations arXiv 2403.19647). At a full cut, through which all that
reaches the metric has to pass, the attributions add up to the whole difference as steps grow, whatever the model.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Unpack

import torch
from torch import Tensor

from bathyscope.attribution.options import Asked, AttributionOptions
from bathyscope.attribution.patching import run_values
from bathyscope.attribution.result import AttributionResult, Node
from bathyscope.causal.pairs import described
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.gradients import row_gradients
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.readouts import Metric
from bathyscope.results import provenance
from bathyscope.sites import Site

STEPS = 10
ROWS = 32
"""Prompts of a pass."""
FULL_CUTS = ("embed", "resid_pre", "resid_mid", "resid_post")
"""Components that nothing goes past, where all positions are written."""


@dataclass(frozen=True)
class Path:
    """A straight way between two activations of a site.

    Args:
        tokens: the prompt that runs meanwhile.
        start, end: (positions, ...site shape).
        metric: what is differentiated.
    """

    tokens: Tokens
    start: Tensor
    end: Tensor
    metric: Metric


def integrated_gradients(
    model: Model,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    *,
    steps: int = STEPS,
    **options: Unpack[AttributionOptions],
) -> AttributionResult:
    """Attribute a metric's difference between two runs to each position of a site, by gradients on the way.

    Args:
        model: the model.
        clean: one prompt.
        corrupted: another, of as many tokens.
        metric: what is explained: `LogitDiff`, `LogProbability`, `Logit` or another `Metric`.
        steps: how many points the gradient is taken at, at the middle of each step.
        options: see `AttributionOptions`. Each site of each layer is written on its own.

    Returns:
        For each node its attribution and, for the largest, the measured effect of writing it alone. The attributions
        of the residual stream at one layer add up to `values["total"]`, but for what the steps are too coarse for.

    Raises:
        UsageError: prompts of different lengths, a site that does not exist, or no step.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import integrated_gradients
        >>> from bathyscope.readouts import LogitDiff
        >>> found = integrated_gradients(
        ...     bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"), layers=20, measure=0
        ... )
        >>> abs(found.sums()["resid_post.20"] / found.values["total"] - 1) < 0.1
        True
    """
    began = time.perf_counter()
    check_steps(steps)
    asked = Asked.of(model, clean, corrupted, metric, options)
    read = capture(model, [asked.target, asked.source], asked.sites)
    nodes: list[Node] = []
    for site in asked.sites:
        start, end = read[site]
        (gradient,) = mean_gradients(model, [Path(asked.target, start, end, metric)], site, steps)
        nodes += asked.nodes(site, (end.double() - start.double()) * gradient)
    partly = sorted({site.component for site in asked.sites} - set(FULL_CUTS))
    note = f"At {', '.join(partly)} much goes past what is written, so attributions do not add up to the total."
    return AttributionResult(
        method="integrated-gradients",
        metric=described(model, metric),
        clean=asked.pair.clean.text,
        corrupted=asked.pair.corrupted.text,
        nodes=tuple(asked.measured(model, nodes)),
        values=run_values(model, asked),
        provenance=provenance([model.provenance()], {**asked.spec("integrated-gradients"), "steps": steps}),
        timing={"seconds": round(time.perf_counter() - began, 4)},
        notes=(note,) if partly else (),
    )


def mean_gradients(model: Model, paths: Sequence[Path], site: Site, steps: int) -> list[Tensor]:
    """The metric's gradient by a site, averaged over the middles of equal steps of each path, float64.

    Steps of all paths share passes, whatever the lengths of their prompts.

    Args:
        model: the model.
        paths: one a prompt.
        site: a whole site; all its positions are written.
        steps: how many points of each path.
    """
    points = [(path, (step + 0.5) / steps) for path in paths for step in range(steps)]
    found: list[Tensor] = []
    for first in range(0, len(points), ROWS):
        part = points[first : first + ROWS]
        writes = [
            Write(site, Replace(torch.lerp(path.start, path.end, share)), row=row)
            for row, (path, share) in enumerate(part)
        ]
        measure = partial(_measure_each, model, [path.metric for path, _ in part])
        rows = row_gradients(model, [path.tokens for path, _ in part], measure, [site], writes=writes, batch_size=ROWS)
        found += [one.double() for one in rows.gradients[site]]
    return [torch.stack(found[first : first + steps]).mean(0) for first in range(0, len(found), steps)]


def check_steps(steps: int) -> None:
    """Refuse less than one step."""
    if steps < 1:
        raise UsageError(f"{steps} steps were asked for", "at least 1", "--steps 10")


def _measure_each(model: Model, metrics: Sequence[Metric], logits: Tensor) -> Tensor:
    """Each row's own metric, (rows,)."""
    return torch.cat([metric.measure(model, logits[row : row + 1]) for row, metric in enumerate(metrics)])
