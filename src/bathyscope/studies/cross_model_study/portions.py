"""What the cross-model study measures and keeps together: one window, or one name, with all layers and controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

from typing_extensions import override

from bathyscope.engine import Cell, Plan, collect, plan
from bathyscope.engine.keys import stored_spec
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.readouts import Reading
from bathyscope.studies.cross_model_study.asked import NAMES
from bathyscope.studies.cross_model_study.cells import Crossed, Label
from bathyscope.studies.measuring import WINDOWS, Measuring
from bathyscope.studies.next_token_study.tallies import MEASURES


@dataclass(frozen=True, eq=False)
class WindowPortion:
    """The places of one window: what is said next, for every label of `Crossed.compared`.

    Args:
        crossed: the call.
        numbers: of the places.
    """

    crossed: Crossed
    numbers: tuple[int, ...]

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return len(self.numbers) * len(self.crossed.compared)

    def cells(self) -> list[Cell]:
        """By label and then by place."""
        return [self.crossed.cell(label, number) for label in self.crossed.compared for number in self.numbers]

    def spec(self, source: Model) -> dict[str, Any]:
        """What is measured, as JSON values: what the controls are follows from seed and places."""
        asked = self.crossed.asked
        mapped = next(label for label in self.crossed.compared if label.written == "mapped")
        return {
            "study": "cross-model",
            "pairs": [list(pair) for pair in asked.pairs],
            "places": [
                [asked.places[number].position, list(asked.places[number].target.ids)] for number in self.numbers
            ],
            "numbers": list(self.numbers),
            "all_places": asked.places_fingerprint,
            "seed": asked.seed,
            "first": stored_spec(self.crossed.cell(mapped, self.numbers[0]), source, asked.target),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """For each measure a row a label, of a value a place."""
        n = len(self.numbers)
        return {
            name: [[one.values[name] for one in readings[row : row + n]] for row in range(0, len(readings), n)]
            for name in MEASURES
        }


@dataclass(frozen=True, eq=False)
class NamePortion:
    """One name: what is written of it, for every label of `Crossed.described`.

    Args:
        crossed: the call.
        name: what is described; None for the prompt with nothing written into it.
    """

    crossed: Crossed
    name: str | None

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return 1 if self.name is None else len(self.crossed.described)

    def cells(self) -> list[Cell]:
        """By label."""
        return self.crossed.words(self.name)

    def spec(self, source: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        asked = self.crossed.asked
        pairs = [] if self.name is None else [list(pair) for pair in asked.pairs]
        return {
            "study": "cross-model",
            "pairs": pairs,
            "seed": asked.seed,
            "first": stored_spec(self.cells()[0], source, asked.target),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """A text a label."""
        return {"texts": [reading.text for reading in readings]}


CrossPortion = WindowPortion | NamePortion


@dataclass(frozen=True, eq=False)
class CrossMeasuring(Measuring):
    """Portions whose cells are read in one model and written into another.

    Args:
        target: the model that is written to; `model` is the one that is read.
    """

    target: Model = field(kw_only=True)

    @property
    @override
    def models(self) -> tuple[Model, ...]:
        return (self.model, self.target)

    @override
    def plan(self, portions: Sequence[Any]) -> Plan:
        cells = [cell for portion in portions for cell in portion.cells()]
        return plan(cells, self.model, self.target, budget=self.budget)

    @override
    def _measure(self, portions: Sequence[Any], done: int) -> list[Any]:
        whole, count = self.plan(portions), sum(portion.n_cells for portion in portions)
        tick = None if self.progress is None else _scaled(self.progress, done, count, self.n_cells)
        readings = iter(collect(whole, self.model, self.target, progress=tick, stop=self.stop).readings)
        return [portion.values(list(islice(readings, portion.n_cells))) for portion in portions]


def groups_of(crossed: Crossed) -> Iterator[list[CrossPortion]]:
    """What is measured and kept together: a few windows at a time, and then all names."""
    numbers = range(len(crossed.asked.places))
    by_window = groupby(numbers, key=lambda number: crossed.asked.places[number].window)
    windows = iter([WindowPortion(crossed, tuple(some)) for _, some in by_window])
    while group := list(islice(windows, WINDOWS)):
        yield [*group]
    if names := crossed.asked.choices.get("names", NAMES):
        yield [NamePortion(crossed, None), *(NamePortion(crossed, name) for name in names)]


def _scaled(progress: Progress, before: int, count: int, n_cells: int) -> Progress:
    """What of all cells is done, from the tokens of one group; a text has several."""
    return lambda done, total: progress(before + count * done // max(1, total), n_cells)


def values_by_label(crossed: Crossed, windows: Sequence[Mapping[str, Any]]) -> dict[Label, dict[str, list[float]]]:
    """For each label and measure a value a place, in the places' order."""
    return {
        label: {name: [value for window in windows for value in window[name][row]] for name in MEASURES}
        for row, label in enumerate(crossed.compared)
    }
