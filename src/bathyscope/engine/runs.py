"""Runs: a plan carried out against a store, so that an interruption costs at most one batch.

Only the batches that lack a cell are computed; each is stored whole before the next begins.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from safetensors.torch import load, save

from bathyscope.engine.cells import stored_spec
from bathyscope.engine.collect import Collected
from bathyscope.engine.events import Finished, Listener, Stop, tokens_of, watched
from bathyscope.engine.execute import execute
from bathyscope.engine.plan import Plan
from bathyscope.errors import StorageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.readouts import Candidate, Reading
from bathyscope.store import Record, Store, cell_key


@dataclass(frozen=True)
class StoredRun:
    """What a run in a store gave.

    Args:
        id: the run's id.
        collected: what all its cells gave, now or earlier.
        computed: how many cells were computed now.
    """

    id: str
    collected: Collected
    computed: int


def run_stored(  # noqa: PLR0913 (what a run consists of)
    plan: Plan,
    source: Model,
    target: Model,
    store: Store,
    *,
    kind: str,
    spec: Mapping[str, Any],
    keep_representations: bool = True,
    progress: Progress | None = None,
    stop: Stop | None = None,
    listen: Listener | None = None,
) -> StoredRun:
    """Carry out what a store lacks of a plan.

    Args:
        plan: the plan; no two of its cells may be the same measurement.
        source: the model that representations are read from.
        target: the model that they are written to.
        store: where cells are kept.
        kind: the kind of result.
        spec: what was asked, as JSON values; `bathyscope runs resume` reads it.
        keep_representations: whether what was read at the sources is stored as well; where it is not, it
            is missing from what is found again.
        progress: called with the tokens that are there and those there may be.
        stop: looked at at every decoding step and after every batch.
        listen: called with the plan and each event of what is computed now.

    Raises:
        CancelledError: `stop` said so; what is stored is kept, and the same call goes on from there.
        StorageError: the store failed, or another process is computing this run.
    """
    specs = [stored_spec(cell, source, target) for cell in plan.cells]
    keys = [cell_key(one) for one in specs]
    batches = [[keys[cell] for cell in batch.cells] for batch in plan.batches]
    run = store.create_run(kind, spec, plan.to_dict(), batches)
    computed = 0
    with store.lease(run):
        store.get(keys)  # sets damaged cells aside, so that they are computed again
        pending = store.pending(run)
        lacking = [cell for batch in pending for cell in plan.batches[batch].cells]
        there = sum(map(tokens_of, plan.cells)) - sum(tokens_of(plan.cells[cell]) for cell in lacking)
        events = execute(plan, source, target, batches=pending, stop=stop)
        for event in watched(events, plan, progress, there, listen):
            if not isinstance(event, Finished):
                continue
            missing = set(store.missing(run, event.batch))
            records = [
                Record(keys[cell], specs[cell], asdict(reading), _bytes(kept if keep_representations else None))
                for cell, reading, kept in zip(
                    plan.batches[event.batch].cells, event.readings, event.representations, strict=True
                )
                if keys[cell] in missing
            ]
            store.commit(run, event.batch, records)
            computed += len(records)
    found = store.get(keys)
    if lost := len(set(keys) - found.keys()):
        raise StorageError(f"{lost} cells of run {run} were damaged meanwhile", "", "the same command again")
    return StoredRun(run, _collected([found[key] for key in keys]), computed)


def _collected(records: list[Record]) -> Collected:
    return Collected(
        tuple(_reading(record.result) for record in records),
        tuple(None if record.tensors is None else load(record.tensors)["representation"] for record in records),
    )


def _reading(result: Mapping[str, Any]) -> Reading:
    candidates = tuple(Candidate(**one) for one in result["candidates"])
    return Reading(result["text"], tuple(result["ids"]), candidates, result["stopped"], result.get("values", {}))


def _bytes(representation: Any) -> bytes | None:
    return None if representation is None else save({"representation": representation.contiguous()})
