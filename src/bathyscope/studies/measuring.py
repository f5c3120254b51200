"""Measuring: a study's portions carried out a few at a time, with a store or without.

A study has far more cells than are worth a row of the store each, so that it keeps portions, which it defines itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any, Final, Generic, Protocol, TypeVar

from bathyscope.engine import CancelledError, Cell, Plan, Stop, check_storable, collect, plan
from bathyscope.errors import StorageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.readouts import Reading
from bathyscope.store import FinishedCell, Store

CELLS_AT_ONCE: Final = 2_000
"""About how many cells are measured and kept together: an interruption costs at most so many."""

WINDOWS: Final = 16
"""Windows that are measured together: fewer would run the prompts for little, more would cost an interruption more."""

Found = Any
"""What a portion makes of its readings, as JSON values."""


class Portion(Protocol):
    """What a study measures and keeps together."""

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        ...

    def cells(self) -> list[Cell]:
        """Its measurements, in the order of their readings."""
        ...

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values: the key that it is kept by."""
        ...

    def values(self, readings: Sequence[Reading]) -> Found:
        """What is kept of the readings."""
        ...


@dataclass(frozen=True)
class Measured:
    """What portions gave.

    Args:
        values: of each portion, in order.
        computed: how many cells were computed now.
        run: the run's id, where there is a store.
    """

    values: tuple[Found, ...]
    computed: int
    run: str | None = None


P = TypeVar("P", bound=Portion)


@dataclass(frozen=True)
class Measuring(Generic[P]):
    """Portions to be measured on a model.

    Args:
        model: the model.
        groups: portions that are measured and kept together, one plan each; of any study that has its own kind.
        budget: bytes that one batch may take above the loaded model.
        progress: called with the cells that are done and those there are.
        stop: looked at after every batch; what a group had so far is lost, and groups before it are not.
    """

    model: Model
    groups: Sequence[Sequence[P]]
    budget: int
    progress: Progress | None = None
    stop: Stop | None = None

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that are run."""
        return (self.model,)

    @property
    def n_cells(self) -> int:
        """How many measurements there are."""
        return sum(map(_count, self.groups))

    def plan(self, portions: Sequence[P]) -> Plan:
        """The plan of some portions."""
        cells = [cell for portion in portions for cell in portion.cells()]
        return plan(cells, self.model, self.model, budget=self.budget)

    def run(self) -> Measured:
        """Measure all, and keep nothing.

        Raises:
            CancelledError: `stop` said so.
        """
        found: list[Found] = []
        for number, group in enumerate(self.groups):
            found += self._measure(group, sum(map(_count, self.groups[:number])))
            self._look_at_stop(last=number == len(self.groups) - 1)
        return Measured(tuple(found), self.n_cells)

    def run_stored(self, store: Store, *, kind: str, spec: Mapping[str, Any]) -> Measured:
        """Measure what a store lacks, and keep it, a group at a time.

        Args:
            store: where it is kept.
            kind: the kind of result.
            spec: what was asked, as JSON values.

        Raises:
            CancelledError: `stop` said so; the same call goes on from there.
            UsageError: the model carries somebody else's hook or replaced forward.
            StorageError: the store failed, or another process is measuring this.
        """
        check_storable(*self.models)
        empty = [[FinishedCell.of(portion.spec(self.model), {}) for portion in group] for group in self.groups]
        keys = [[record.key for record in group] for group in empty]
        run = store.create_run(kind, spec, self.plan(self.groups[0]).to_dict(), list(chain(*keys)))
        computed = 0
        with store.lease(run):
            whole = store.get(chain(*keys)).keys()
            pending = [number for number, group in enumerate(keys) if not whole >= set(group)]
            done = self.n_cells - sum(_count(self.groups[number]) for number in pending)
            for number in pending:
                there = store.stored(keys[number])
                lacking = [row for row, key in enumerate(keys[number]) if key not in there]
                portions = [self.groups[number][row] for row in lacking]
                found = self._measure(portions, done)
                records = [replace(empty[number][row], result=one) for row, one in zip(lacking, found, strict=True)]
                store.commit(run, records)
                done, computed = done + _count(self.groups[number]), computed + _count(portions)
                self._look_at_stop(last=number == pending[-1])
            stored = store.get(chain(*keys))
        if lost := [key for key in chain(*keys) if key not in stored]:
            raise StorageError(f"{len(lost)} records of run {run} were damaged meanwhile", "", "the same command again")
        return Measured(tuple(stored[key].result for key in chain(*keys)), computed, run)

    def _measure(self, portions: Sequence[P], done: int) -> list[Found]:
        tick = None if self.progress is None else partial(self._tick, self.progress, done, _count(portions))
        readings = iter(collect(self.plan(portions), self.model, self.model, progress=tick, stop=self.stop).readings)
        return [portion.values(list(islice(readings, portion.n_cells))) for portion in portions]

    def _tick(self, progress: Progress, before: int, count: int, done: int, total: int) -> None:
        # What is done is told in steps of decoding, of which a cell that writes a text has several.
        progress(before + done * count // max(1, total), self.n_cells)

    def _look_at_stop(self, *, last: bool) -> None:
        if self.stop is not None and (self.stop.now or self.stop.soon) and not last:
            raise CancelledError("the study was stopped", "what was finished is kept where there is a store")


def _count(portions: Sequence[Portion]) -> int:
    return sum(portion.n_cells for portion in portions)
