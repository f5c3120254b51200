"""Execution: a plan carried out, as events while it happens.

What the cells of a target prompt have in common runs once; each batch starts from its keys, values and residual
stream. A batch that does not fit into memory is run in halves; the plan's partition stays what it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.attention import can_share
from bathyscope.batches import Batch, check_finite
from bathyscope.bypass import Sleepers
from bathyscope.engine.cells import Cell
from bathyscope.engine.events import CancelledError, Event, Finished, FirstToken, Stop, TextGrew
from bathyscope.engine.partition import PlannedBatch, again
from bathyscope.engine.plan import Plan
from bathyscope.engine.sources import Sources
from bathyscope.generation import continuation, decode
from bathyscope.hooks import Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Reading
from bathyscope.sites import Site


@dataclass(frozen=True)
class _CommonRun:
    """A target prompt run once, with nothing but the common writes: where every row of it starts from."""

    tokens: Tokens
    common: tuple[Write, ...]
    residuals: dict[int, Tensor]
    cache: kv.Cache
    tuples: bool


@dataclass(frozen=True)
class _Begun:
    """A batch whose prompts have been read.

    Args:
        hidden: what the unembedding is given, (rows, width).
        rows: the batch, ready to go on; None where there was no pass.
        first: the first token of each row, where texts are written.
    """

    hidden: Tensor
    rows: Batch | None
    first: Tensor | None


def execute(
    plan: Plan,
    source: Model,
    target: Model,
    *,
    batches: Sequence[int] | None = None,
    stop: Stop | None = None,
) -> Iterator[Event]:
    """Carry out a plan, or some of its batches.

    Args:
        plan: the plan.
        source: the model that representations are read from.
        target: the model that they are written to.
        batches: indices of the batches to run; all unless said.
        stop: looked at at every decoding step and after every batch.

    Yields:
        Events; the last of each batch is its `Finished`.

    Raises:
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.engine import Cell, Finished, execute, plan
        >>> from bathyscope.readouts import Generate
        >>> model = bathyscope.load()
        >>> planned = plan([Cell(model.tokenize("The capital of France is"), Generate(2))], model, model)
        >>> [event.readings[0].text for event in execute(planned, model, model) if isinstance(event, Finished)]
        [' Paris.']
    """
    stop = stop or Stop()
    wanted = list(range(len(plan.batches)) if batches is None else batches)
    sources = Sources.of((plan.cells[cell] for index in wanted for cell in plan.batches[index].cells), source, stop)
    common_run: _CommonRun | None = None
    for index in wanted:
        batch = plan.batches[index]
        first = plan.cells[batch.cells[0]]
        if not batch.tail and (
            common_run is None or common_run.tokens.ids != first.target.ids or common_run.common != first.common
        ):
            common_run = _run_common(target, first, _residual_layers(plan, first))
        readings: list[Reading] = []
        for part in _run(plan, batch, sources, target, common_run, stop):
            if isinstance(part, list):
                readings += part
            else:
                yield part
        read = tuple(sources.representation(plan.cells[cell]) for cell in batch.cells)
        yield Finished(index, tuple(readings), read)
        if stop.soon and index != wanted[-1]:
            raise CancelledError("the run was stopped after a batch", "its cells are kept where there is a store")


def _residual_layers(plan: Plan, first: Cell) -> set[int]:
    """The blocks that rows which start where a cell does wake behind."""
    return {
        wake - 1
        for batch in plan.batches
        if not batch.tail
        and (cell := plan.cells[batch.cells[0]]).target.ids == first.target.ids
        and cell.common == first.common
        for wake in batch.wake
        if wake
    }


def _run_common(model: Model, cell: Cell, layers: set[int]) -> _CommonRun:
    cache = kv.prefix_cache()
    batch = Batch(model, [cell.target], cache=cache)
    sites = {layer: Site("resid_post", layer) for layer in sorted(layers)}
    during = [replace(write, row=None) for write in cell.common if write.when != "generated"]
    with torch.no_grad(), Hooks(model, batch.window, reads=list(sites.values()), writes=during) as hooks:
        batch.last()
    hooks.check()
    residuals = {layer: hooks.activations(site)[0] for layer, site in sites.items()}
    return _CommonRun(cell.target, cell.common, residuals, cache, any(hooks.in_tuple(site) for site in sites.values()))


def _run(
    plan: Plan, batch: PlannedBatch, sources: Sources, model: Model, common_run: _CommonRun | None, stop: Stop
) -> Iterator[FirstToken | TextGrew | list[Reading]]:
    """Events of a batch, with lists of readings that together are its cells' in order."""
    cells = [plan.cells[index] for index in batch.cells]
    begun = _begin(cells, batch, sources, model, common_run)
    if begun is None:
        middle = len(cells) // 2
        for half in (slice(None, middle), slice(middle, None)):
            smaller = replace(batch, cells=batch.cells[half], wake=batch.wake[half])
            yield from _run(plan, smaller, sources, model, common_run, stop)
    elif begun.rows is not None and begun.first is not None:
        yield from _texts(batch, cells, begun.rows, begun.first, stop)
    else:
        for row in range(0, len(cells), plan.rows_read):
            if stop.now:
                raise _cancelled()
            yield _read(model, cells[row : row + plan.rows_read], begun.hidden[row : row + plan.rows_read], sources)


def _begin(
    cells: Sequence[Cell], batch: PlannedBatch, sources: Sources, model: Model, common_run: _CommonRun | None
) -> _Begun | None:
    """Read a batch's prompts; None where there is not the memory, and then nothing of the attempt is left."""
    try:
        if common_run is None or batch.tail:
            rows, hidden = None, _tail(cells, sources, model)
        else:
            rows, hidden = _prefill(cells, batch, sources, model, common_run)
        with torch.no_grad():
            return _Begun(hidden, rows, model.choose(hidden) if cells[0].readout.new_tokens else None)
    except (RuntimeError, MemoryError) as error:
        if len(cells) == 1 or not _out_of_memory(error):
            raise
        # Not the halves from here: while an exception is handled, its traceback keeps the whole attempt alive.
        return None


def _read(model: Model, cells: Sequence[Cell], hidden: Tensor, sources: Sources) -> list[Reading]:
    """The readings of some rows of one readout that is read from logits."""
    with torch.no_grad():
        return list(cells[0].readout.read(model, model.decide(hidden), (), sources.original_of(cells)))


def _texts(
    batch: PlannedBatch, cells: Sequence[Cell], rows: Batch, first: Tensor, stop: Stop
) -> Iterator[FirstToken | TextGrew | list[Reading]]:
    """What a batch that has read its prompts writes, as it grows, and at last its readings."""
    model, readout = rows.model, cells[0].readout
    # What is patched in is written into prompts only; what else is in force may go on.
    later = [replace(write, row=row) for row, cell in enumerate(cells) for write in cell.also if write.when != "prompt"]
    later += [replace(write, row=None) for write in cells[0].common if write.when != "prompt"]
    before: list[tuple[int, ...]] = [()] * len(cells)
    for written in decode(rows, first, readout.new_tokens, later):
        if stop.now:
            raise _cancelled()
        for index, former, ids in zip(batch.cells, before, written, strict=True):
            if len(ids) > len(former):
                yield (TextGrew if former else FirstToken)(index, model.decode(ids))
        before = written
    yield list(readout.read(model, None, [continuation(model, ids) for ids in before]))


def _prefill(
    cells: Sequence[Cell], batch: PlannedBatch, sources: Sources, model: Model, common_run: _CommonRun
) -> tuple[Batch, Tensor]:
    """Read the prompt from the batch's first column on, each row from the block that it wakes at.

    Returns:
        The batch, ready to go on, and what the unembedding is given, (rows, width).
    """
    n_tokens, readout = len(common_run.tokens), cells[0].readout
    capacity = n_tokens + readout.new_tokens
    during = [write for write in _writes(cells, sources) if write.when != "generated"]
    during = _common_again(cells[0].common, batch, n_tokens) + during
    with torch.no_grad():
        shared = can_share(model) and batch.start > 0
        cache = kv.rows_cache(
            model.n_layers, len(cells), capacity, known=common_run.cache, start=batch.start, shared=shared
        )
        rows = Batch(model, [common_run.tokens] * len(cells), batch.start, cache, shared=shared)
        residuals = {layer: whole[batch.start :] for layer, whole in common_run.residuals.items()}
        with (
            Sleepers(model, batch.wake, residuals, tuples=common_run.tuples),
            Hooks(model, rows.window, writes=during) as hooks,
        ):
            hidden = rows.last()
        kv.set_length(cache, n_tokens)
    hooks.check()
    return rows, hidden


def _tail(cells: Sequence[Cell], sources: Sources, model: Model) -> Tensor:
    """What the unembedding is given where the last block's output is written, (rows, width): no pass at all."""
    values = [value for (value,) in sources.values(cells)]
    with torch.no_grad():
        hidden = model.last_hidden(torch.stack(values).to(model.dtype))
    check_finite(hidden, model)
    return hidden


def _writes(cells: Sequence[Cell], sources: Sources) -> list[Write]:
    """The cells' own writes in a batch, by row."""
    return [
        replace(write, row=row)
        for row, (cell, patched) in enumerate(zip(cells, sources.writes(cells), strict=True))
        for write in (*cell.also, *patched)
    ]


def _common_again(common: Sequence[Write], batch: PlannedBatch, n_tokens: int) -> list[Write]:
    """The common writes that the rows of a batch would otherwise undo, by computing anew what they changed."""
    return [
        replace(write, row=row)
        for row, wake in enumerate(batch.wake)
        for write in common
        if write.when != "generated" and again(write, wake, batch.start, n_tokens)
    ]


def _cancelled() -> CancelledError:
    return CancelledError("the run was stopped", "batches that were finished are kept where there is a store")


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The allocator of CPU tensors raises a plain RuntimeError.
    return "allocate memory" in str(error) or "not enough memory" in str(error)
