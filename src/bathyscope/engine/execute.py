"""Execution: a plan carried out, as events while it happens.

The clean target runs once; each batch starts from its keys, values and residual stream. A batch that
does not fit into memory is run in halves; the plan's partition stays what it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.attention import can_share
from bathyscope.batches import Batch
from bathyscope.bypass import Sleepers
from bathyscope.engine.cells import Cell, Read
from bathyscope.engine.plan import Plan, PlannedBatch
from bathyscope.errors import BathyscopeError
from bathyscope.forward import Activations, capture
from bathyscope.generation import Progress, continuation, decode
from bathyscope.hooks import Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Reading
from bathyscope.sites import Site


@dataclass
class Stop:
    """How to stop what is running: set from a signal handler, another thread, or between two events.

    Args:
        now: leave at the next decoding step; the batch is lost.
        soon: leave when the batch is finished (and stored, where there is a store).
    """

    now: bool = False
    soon: bool = False


class CancelledError(BathyscopeError):
    """Somebody asked to stop; what was finished before is kept."""

    exit_code = 130


@dataclass(frozen=True)
class FirstToken:
    """A cell's prompt has been read, and its first token is known."""

    cell: int
    text: str


@dataclass(frozen=True)
class TextGrew:
    """A cell's text so far."""

    cell: int
    text: str


@dataclass(frozen=True)
class Finished:
    """All cells of a batch are finished.

    Args:
        batch: index of the batch.
        readings: for each of its cells, in the order of `PlannedBatch.cells`.
        representations: what was read at the source of each, or None for a control.
    """

    batch: int
    readings: tuple[Reading, ...]
    representations: tuple[Tensor | None, ...]


Event = FirstToken | TextGrew | Finished


@dataclass(frozen=True)
class Collected:
    """What all cells of a plan gave, in the cells' order.

    Args:
        readings: one a cell.
        representations: what was read at each cell's source, None for a control.
    """

    readings: tuple[Reading, ...]
    representations: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class _Clean:
    """A target prompt run once, untouched: where every row of it starts from."""

    tokens: Tokens
    residuals: dict[int, Tensor]
    cache: kv.Cache
    tuples: bool


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
    representations = _read_sources(plan, source, wanted)
    clean: _Clean | None = None
    for index in wanted:
        batch = plan.batches[index]
        tokens = plan.cells[batch.cells[0]].target
        if clean is None or clean.tokens.ids != tokens.ids:
            clean = _run_clean(target, tokens, _residual_layers(plan, tokens))
        readings: list[Reading] = []
        for part in _run(plan, batch, representations, target, clean, stop):
            if isinstance(part, list):
                readings += part
            else:
                yield part
        read = tuple(representations.get(plan.cells[cell].source) for cell in batch.cells)
        yield Finished(index, tuple(readings), read)
        if stop.soon and index != wanted[-1]:
            raise CancelledError("the run was stopped after a batch", "its cells are kept where there is a store")


def collect(
    plan: Plan,
    source: Model,
    target: Model,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Collected:
    """Carry out a whole plan and gather what it gives.

    Args:
        plan: the plan.
        source: the model that representations are read from.
        target: the model that they are written to.
        progress: called with the tokens that are there and those there may be.
        stop: looked at at every decoding step and after every batch.

    Example:
        >>> import bathyscope
        >>> from bathyscope.engine import Cell, collect, plan
        >>> from bathyscope.readouts import NextToken
        >>> model = bathyscope.load()
        >>> planned = plan([Cell(model.tokenize("The capital of France is"), NextToken(1))], model, model)
        >>> collect(planned, model, model).readings[0].text
        ' Paris'
    """
    readings: dict[int, Reading] = {}
    representations: dict[int, Tensor | None] = {}
    for event in watched(execute(plan, source, target, stop=stop), plan, progress):
        if isinstance(event, Finished):
            cells = plan.batches[event.batch].cells
            readings |= zip(cells, event.readings, strict=True)
            representations |= zip(cells, event.representations, strict=True)
    order = range(len(plan.cells))
    return Collected(tuple(readings[cell] for cell in order), tuple(representations[cell] for cell in order))


def watched(events: Iterator[Event], plan: Plan, progress: Progress | None, finished: int = 0) -> Iterator[Event]:
    """Events, told to `progress` as they pass: the tokens that are there, and those there may be.

    Args:
        events: of an execution.
        plan: its plan.
        progress: what is told, or None.
        finished: tokens that were there before.
    """
    n_tokens = sum(tokens_of(cell) for cell in plan.cells)
    under_way = 0
    for event in events:
        if isinstance(event, Finished):
            # Texts that ended early count as whole.
            finished += sum(tokens_of(plan.cells[cell]) for cell in plan.batches[event.batch].cells)
            under_way = 0
        else:
            under_way += 1
        if progress is not None:
            progress(min(finished + under_way, n_tokens), n_tokens)
        yield event


def tokens_of(cell: Cell) -> int:
    """How many tokens a cell may write; one where only its next token is read."""
    return max(1, cell.readout.new_tokens)


def _read_sources(plan: Plan, model: Model, batches: Sequence[int]) -> dict[Read | None, Tensor]:
    """Every representation that the batches need, each prompt run once."""
    reads = {plan.cells[cell].source for index in batches for cell in plan.batches[index].cells}
    by_prompt: dict[tuple[int, ...], list[Read]] = {}
    for read in reads:
        if read is not None:
            by_prompt.setdefault(read.prompt.ids, []).append(read)
    found: dict[Read | None, Tensor] = {}
    for wanted in by_prompt.values():
        activations: Activations = capture(model, wanted[0].prompt, sorted({read.site for read in wanted}, key=str))
        found |= {read: activations[read.site][0][read.position].clone() for read in wanted}
    return found


def _residual_layers(plan: Plan, tokens: Tokens) -> set[int]:
    """The blocks that rows of a target prompt wake behind."""
    return {
        wake - 1
        for batch in plan.batches
        if plan.cells[batch.cells[0]].target.ids == tokens.ids
        for wake in batch.wake
        if wake
    }


def _run_clean(model: Model, tokens: Tokens, layers: set[int]) -> _Clean:
    cache = kv.prefix_cache()
    batch = Batch(model, [tokens], cache=cache)
    sites = {layer: Site("resid_post", layer) for layer in sorted(layers)}
    with torch.no_grad(), Hooks(model, batch.window, reads=list(sites.values())) as hooks:
        batch.last()
    hooks.check()
    residuals = {layer: hooks.activations(site)[0] for layer, site in sites.items()}
    return _Clean(tokens, residuals, cache, any(hooks.in_tuple(site) for site in sites.values()))


def _run(
    plan: Plan,
    batch: PlannedBatch,
    representations: dict[Read | None, Tensor],
    model: Model,
    clean: _Clean,
    stop: Stop,
) -> Iterator[FirstToken | TextGrew | list[Reading]]:
    """Events of a batch, with lists of readings that together are its cells' in order."""
    cells = [plan.cells[index] for index in batch.cells]
    try:
        started, logits = _prefill(cells, batch, representations, model, clean)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if len(cells) == 1 or not _out_of_memory(error):
            raise
        middle = len(cells) // 2
        for half in (slice(None, middle), slice(middle, None)):
            smaller = replace(batch, cells=batch.cells[half], wake=batch.wake[half])
            yield from _run(plan, smaller, representations, model, clean, stop)
        return
    readout = cells[0].readout
    if not readout.new_tokens:
        yield list(readout.read(model, logits, ()))
        return
    later = [write for write in _writes(cells, representations) if write.when != "prompt"]
    first = logits.argmax(-1)
    del logits
    written: list[list[int]] = []
    for written in decode(started, first, readout.new_tokens, later):
        if stop.now:
            raise CancelledError("the run was stopped", "batches that were finished are kept where there is a store")
        event = FirstToken if max(map(len, written)) == 1 else TextGrew
        for index, ids in zip(batch.cells, written, strict=True):
            yield event(index, model.decode(ids))
    yield list(readout.read(model, None, [continuation(model, ids) for ids in written]))


def _prefill(
    cells: Sequence[Cell],
    batch: PlannedBatch,
    representations: dict[Read | None, Tensor],
    model: Model,
    clean: _Clean,
) -> tuple[Batch, Tensor]:
    """Read the prompt from the batch's first column on, each row from the block that it wakes at."""
    n_tokens, readout = len(clean.tokens), cells[0].readout
    capacity = n_tokens + readout.new_tokens
    during = [write for write in _writes(cells, representations) if write.when != "generated"]
    with torch.no_grad():
        shared = can_share(model) and batch.start > 0
        cache = kv.rows_cache(model.n_layers, len(cells), capacity, known=clean.cache, start=batch.start, shared=shared)
        rows = Batch(model, [clean.tokens] * len(cells), batch.start, cache, shared=shared)
        residuals = {layer: whole[batch.start :] for layer, whole in clean.residuals.items()}
        with (
            Sleepers(model, batch.wake, residuals, tuples=clean.tuples),
            Hooks(model, rows.window, writes=during) as hooks,
        ):
            hidden = rows.last()
        kv.set_length(cache, n_tokens)
        logits = model.decide(hidden)
    hooks.check()
    return rows, logits


def _writes(cells: Sequence[Cell], representations: dict[Read | None, Tensor]) -> list[Write]:
    """The writes of a batch, by row."""
    found = []
    for row, cell in enumerate(cells):
        found += [replace(write, row=row) for write in cell.also]
        if cell.source is not None and cell.site is not None:
            value = cell.mapping.intervention(representations[cell.source], cell.source.site, cell.site)
            found.append(Write(cell.site, value, cell.positions, row))
    return found


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The allocator of CPU tensors raises a plain RuntimeError.
    return "allocate memory" in str(error) or "not enough memory" in str(error)
