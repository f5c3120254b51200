"""How causal methods are run: cells in, the numbers of a metric out, with a store or without."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell, Plan, Stop, collect, plan, run_stored
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Metric
from bathyscope.results import provenance
from bathyscope.store import Store


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
    model: Model, cells: Sequence[Cell], metric: Metric, spec: Mapping[str, Any], **options: Unpack[RunOptions]
) -> Measured:
    """Measure a metric of cells.

    Args:
        model: the model that all run on.
        cells: what to measure; each of another measurement.
        metric: their readout.
        spec: what was asked, as JSON values.
        options: how it is run.
    """
    if unknown := options.keys() - RunOptions.__annotations__.keys():
        raise UsageError(f"{min(unknown)} was given", f"the options are {', '.join(RunOptions.__annotations__)}")
    began = time.perf_counter()
    distinct = list(dict.fromkeys(cells))
    planned = plan(distinct, model, model, budget=options.get("budget", MEMORY_BUDGET))
    if (tell := options.get("planned")) is not None:
        tell(planned)
    store, progress, stop = options.get("store"), options.get("progress"), options.get("stop")
    if store is None:
        found, computed, run = collect(planned, model, model, progress=progress, stop=stop), len(distinct), None
    else:
        stored = run_stored(
            planned,
            model,
            model,
            store,
            kind=CausalResult.kind,
            spec=spec,
            keep_representations=False,
            progress=progress,
            stop=stop,
        )
        found, computed, run = stored.collected, stored.computed, stored.id
    seconds = time.perf_counter() - began
    by_cell = dict(zip(distinct, (reading.values[metric.name] for reading in found.readings), strict=True))
    timing = {
        "seconds": round(seconds, 4),
        "cells": len(distinct),
        "computed": computed,
        "cells_per_second": round(len(distinct) / max(seconds, 1e-9), 2),
    }
    return Measured(tuple(by_cell[cell] for cell in cells), planned, timing, run)


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
    asked = {
        **spec,
        "prompts": {
            role: {"prompt": tokens.text, "ids": list(tokens.ids), "tokens": list(tokens.texts)}
            for role, tokens in prompts.items()
        },
        **metric.spec(),
    }
    return CausalResult(
        method=spec["method"],
        effect=effect,
        metric=metric.spec(),
        prompts={role: tokens.text for role, tokens in prompts.items()},
        cells=tuple(cells),
        values=values,
        provenance=provenance([model.provenance()], asked),
        plan=measured.plan.to_dict(),
        timing=measured.timing,
        notes=tuple(notes),
        run=measured.run,
    )
