"""Plans carried out, against a store or without: with one, an interruption costs at most one batch.

Only the batches that lack a cell are computed, each as it was planned; each is stored whole before the next begins.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from bathyscope.bypass import is_altered
from bathyscope.engine.collect import Collected, collect
from bathyscope.engine.events import Finished, Listener, Stop, tokens_of, watched
from bathyscope.engine.execute import execute
from bathyscope.engine.keys import stored_spec
from bathyscope.engine.plan import Plan
from bathyscope.errors import StorageError, UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.readouts import Candidate, Reading
from bathyscope.store import FinishedCell, Store, spec_key


@dataclass(frozen=True)
class CarriedOut:
    """What carrying out a plan gave.

    Args:
        collected: what all its cells gave, now or earlier.
        computed: how many cells were computed now.
        seconds: how long it took.
        run: the run's id, where there is a store.
    """

    collected: Collected
    computed: int
    seconds: float
    run: str | None = None

    def timing(self) -> dict[str, float]:
        """Seconds, cells, those computed now, and cells a second, as results keep them."""
        cells = len(self.collected.readings)
        return {
            "seconds": round(self.seconds, 4),
            "cells": cells,
            "computed": self.computed,
            "cells_per_second": round(cells / max(self.seconds, 1e-9), 2),
        }


def carry_out(  # noqa: PLR0913 (what a run consists of)
    plan: Plan,
    source: Model,
    target: Model,
    store: Store | None,
    *,
    kind: str,
    spec: Mapping[str, Any],
    keep_representations: bool = True,
    progress: Progress | None = None,
    stop: Stop | None = None,
    listen: Listener | None = None,
) -> CarriedOut:
    """Carry out a plan, or what a store lacks of it.

    Args:
        plan: the plan; with a store no two of its cells may be the same measurement.
        source: the model that representations are read from.
        target: the model that they are written to.
        store: where cells are kept; None keeps nothing.
        kind: the kind of result.
        spec: what was asked, as JSON values; `bathyscope runs resume` reads it.
        keep_representations: whether what was read at the sources is stored as well; where it is not, it
            is missing from what is found again.
        progress: called with the tokens that are there and those there may be.
        stop: looked at at every decoding step and after every batch.
        listen: called with the plan and each event of what is computed now.

    Raises:
        CancelledError: `stop` said so; what is stored is kept, and the same call goes on from there.
        UsageError: there is a store, and a model carries somebody else's hook or replaced forward.
        StorageError: the store failed, or another process is computing this run.

    Example:
        >>> import bathyscope
        >>> from bathyscope.engine import Cell, carry_out, plan
        >>> from bathyscope.readouts import NextToken
        >>> model = bathyscope.load()
        >>> planned = plan([Cell(model.tokenize("The capital of France is"), NextToken(1))], model, model)
        >>> carry_out(planned, model, model, None, kind="demo", spec={}).collected.readings[0].text
        ' Paris'
    """
    began = time.perf_counter()
    if store is None:
        found = collect(plan, source, target, progress=progress, stop=stop, listen=listen)
        return CarriedOut(found, len(plan.cells), time.perf_counter() - began)
    check_storable(source, target)
    specs = [stored_spec(cell, source, target, keep_representations=keep_representations) for cell in plan.cells]
    keys = [spec_key(one) for one in specs]
    run = store.create_run(kind, spec, plan.to_dict(), keys)
    computed = 0
    with store.lease(run):
        pending = _pending(plan, keys, store.get(keys).keys())
        there = sum(map(tokens_of, plan.cells)) - sum(
            tokens_of(plan.cells[cell]) for batch in pending for cell in plan.batches[batch].cells
        )
        events = execute(plan, source, target, batches=pending, stop=stop)
        for event in watched(events, plan, progress, there, listen):
            if isinstance(event, Finished):
                kept = event.representations if keep_representations else (None,) * len(event.representations)
                cells = plan.batches[event.batch].cells
                stored = store.stored(keys[cell] for cell in cells)
                computed += store.commit(
                    run,
                    [
                        FinishedCell(keys[cell], specs[cell], asdict(reading), _bytes(one))
                        for cell, reading, one in zip(cells, event.readings, kept, strict=True)
                        if keys[cell] not in stored
                    ],
                )
        found = _collected(store, run, keys)
    return CarriedOut(found, computed, time.perf_counter() - began, run)


def check_storable(*models: Model) -> None:
    """Refuse to keep what an altered model gives under the key of the model itself.

    Raises:
        UsageError: a model carries somebody else's hook or replaced forward.
    """
    for model in models:
        if is_altered(model):
            raise UsageError(
                f"{model.name} carries another hook or replaced forward",
                "its results cannot be told from the model's own, and are not stored",
                "store=None",
            )


def _pending(plan: Plan, keys: Sequence[str], stored: Collection[str]) -> list[int]:
    """The batches that lack a cell; one that lacks some is computed whole, so that its rows are what they were."""
    return [
        number for number, batch in enumerate(plan.batches) if any(keys[cell] not in stored for cell in batch.cells)
    ]


def _collected(store: Store, run: str, keys: Sequence[str]) -> Collected:
    found = store.get(keys)
    if lost := len(set(keys) - found.keys()):
        raise StorageError(f"{lost} cells of run {run} were damaged meanwhile", "", "the same command again")
    records = [found[key] for key in keys]
    return Collected(
        tuple(_reading(record.result) for record in records),
        tuple(None if record.tensors is None else load(record.tensors)["representation"] for record in records),
    )


def _reading(result: Mapping[str, Any]) -> Reading:
    candidates = tuple(Candidate(**one) for one in result["candidates"])
    return Reading(result["text"], tuple(result["ids"]), candidates, result["stopped"], result.get("values", {}))


def _bytes(representation: Tensor | None) -> bytes | None:
    return None if representation is None else save({"representation": representation.contiguous()})
