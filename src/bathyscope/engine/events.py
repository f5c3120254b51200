"""What an execution tells while it happens, and how it is stopped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from bathyscope.engine.cells import Cell
from bathyscope.engine.plan import Plan
from bathyscope.errors import BathyscopeError
from bathyscope.generation import Progress
from bathyscope.readouts import Reading


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

Listener = Callable[[Plan, Event], None]
"""What is told every event of a plan as it passes: a page that fills in while cells are computed."""


def watched(
    events: Iterator[Event],
    plan: Plan,
    progress: Progress | None,
    finished: int = 0,
    listen: Listener | None = None,
) -> Iterator[Event]:
    """Events, told to `progress` as they pass: the tokens that are there, and those there may be.

    Args:
        events: of an execution.
        plan: its plan.
        progress: what is told, or None.
        finished: tokens that were there before.
        listen: what is told the events themselves, or None.
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
        if listen is not None:
            listen(plan, event)
        yield event


def tokens_of(cell: Cell) -> int:
    """How many tokens a cell may write; one where only its next token is read."""
    return cell.readout.n_passes
