"""How causal methods are run: cells in, the numbers of a metric out, with a store or without."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack

import torch

from bathyscope.causal.pairs import described
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell, Patch, Plan, Read, Stop, carry_out, plan
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress, next_logits
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Metric
from bathyscope.results import provenance
from bathyscope.sites import Site
from bathyscope.store import Store

SAME: Final = {torch.float64: 1e-8, torch.float32: 1e-4}
SAME_IN_HALF: Final = 1e-2
"""Two numbers that differ by this share of the larger are one number and its rounding."""


class RunOptions(TypedDict, total=False):
    """How a method is run.

    Args:
        store: where finished cells are kept: what it holds already is not computed again.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do.
        stop: looked at after every batch.
        planned: called with the plan before it is carried out.
    """

    store: Store | None
    budget: int
    progress: Progress | None
    stop: Stop | None
    planned: Callable[[Plan], None] | None


@dataclass(frozen=True)
class Measured:
    """What cells gave.

    Args:
        values: the metric of each cell.
        plan: how they were computed.
        timing: seconds, cells, those computed now, cells a second.
        run: the run's id, where there is a store.
    """

    values: tuple[float, ...]
    plan: Plan
    timing: Mapping[str, float]
    run: str | None


def measure(
    model: Model,
    cells: Sequence[Cell],
    metric: Metric,
    spec: Mapping[str, Any],
    prompts: Mapping[str, Tokens],
    **options: Unpack[RunOptions],
) -> Measured:
    """Measure a metric of cells.

    Args:
        model: the model that all run on.
        cells: what to measure; each of another measurement.
        metric: their readout.
        spec: what was asked, as JSON values.
        prompts: what is run, by role.
        options: how it is run.
    """
    if unknown := options.keys() - RunOptions.__annotations__.keys():
        raise UsageError(f"{min(unknown)} was given", f"the options are {', '.join(RunOptions.__annotations__)}")
    distinct = list(dict.fromkeys(cells))
    planned = plan(distinct, model, model, budget=options.get("budget", MEMORY_BUDGET))
    if (tell := options.get("planned")) is not None:
        tell(planned)
    done = carry_out(
        planned,
        model,
        model,
        options.get("store"),
        kind=CausalResult.kind,
        spec={**_asked(spec, metric, prompts), "models": [model.loadable()]},  # enough to ask it again
        keep_representations=False,
        progress=options.get("progress"),
        stop=options.get("stop"),
    )
    by_cell = dict(zip(distinct, (reading.values[metric.name] for reading in done.collected.readings), strict=True))
    return Measured(tuple(by_cell[cell] for cell in cells), planned, done.timing(), done.run)


def patched(metric: Metric, read: Tokens, written: Tokens, sites: Sequence[Site], positions: Sequence[int]) -> Cell:
    """A cell in which what one prompt holds at some sites and positions is written into another's run there."""
    patches = tuple(Patch(Read(read, site, one), site, (one,)) for site in sites for one in positions)
    first = patches[0]
    return Cell(written, metric, first.source, first.site, first.positions, more=patches[1:])


def check_apart(model: Model, metric: Metric, first: Tokens, second: Tokens) -> None:
    """Refuse two prompts that a metric does not tell apart, before any grid is run.

    Raises:
        UsageError: with what it is of both.
    """
    start, end = metric.measure(model, next_logits(model, [first, second])).double().tolist()
    if abs(end - start) <= SAME.get(model.dtype, SAME_IN_HALF) * max(abs(start), abs(end)):
        raise UsageError(
            f"the metric is {start:.6g} in the one run and {end:.6g} in the other",
            "an effect is a share of their difference",
            "prompts, or answers, that the model tells apart",
        )


def share(value: float, start: float, end: float) -> float:
    """How far a value lies on the way from one number to another."""
    return (value - start) / (end - start)


def concluded(  # noqa: PLR0913 (what a result consists of)
    model: Model,
    measured: Measured,
    spec: Mapping[str, Any],
    *,
    effect: str,
    metric: Metric,
    prompts: Mapping[str, Tokens],
    cells: Sequence[CausalCell],
    values: Mapping[str, float],
    notes: Sequence[str] = (),
) -> CausalResult:
    """The result of what was measured, with its provenance."""
    return CausalResult(
        method=spec["method"],
        effect=effect,
        metric=described(model, metric),
        prompts={role: tokens.text for role, tokens in prompts.items()},
        cells=tuple(cells),
        values=values,
        provenance=provenance([model.provenance()], _asked(spec, metric, prompts)),
        plan=measured.plan.to_dict(),
        timing=measured.timing,
        notes=tuple(notes),
        run=measured.run,
    )


def _asked(spec: Mapping[str, Any], metric: Metric, prompts: Mapping[str, Tokens]) -> dict[str, Any]:
    """What was asked, with its prompts and its metric, as JSON values."""
    read = {
        role: {"prompt": tokens.text, "ids": list(tokens.ids), "tokens": list(tokens.texts)}
        for role, tokens in prompts.items()
    }
    return {**spec, "prompts": read, **metric.spec()}
