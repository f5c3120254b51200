"""Portions: what a study measures and keeps together, so that any number of positions takes little room.

A study has far more cells than are worth a row of the store each. Its record is one window by one
method: all places and layers. Windows are measured a few at a time, all methods in one plan, so that
each window is read once; what is finished is kept before the next few begin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bathyscope.engine import Cell
from bathyscope.engine.keys import stored_spec
from bathyscope.model import Model
from bathyscope.readouts import Reading
from bathyscope.studies.next_token_study.tallies import MEASURES
from bathyscope.studies.next_token_study.ways import Way
from bathyscope.studies.places import Place

VERSION: Final = 1
"""Version of what a record means; a change of meaning finds no old record."""
Found = Mapping[str, list[list[float]]]
"""For each measure a row a layer, and behind them the control's where there is one, of a value a place."""


@dataclass(frozen=True)
class Portion:
    """One method at the places of one window.

    Args:
        way: the method.
        places: where, all in one window.
        layers: after which layers.
    """

    way: Way
    places: tuple[Place, ...]
    layers: tuple[int, ...]

    @property
    def n_cells(self) -> int:
        """How many measurements it is, the control's among them."""
        return len(self.places) * (len(self.layers) + self.way.controlled)

    def cells(self) -> list[Cell]:
        """By layer and then by place, those of the control last."""
        found = [self.way.cell(place, layer) for layer in self.layers for place in self.places]
        return found + ([self.way.control(place) for place in self.places] if self.way.controlled else [])

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "next-token",
            "version": VERSION,
            "method": self.way.method,
            "positions": [place.position for place in self.places],
            "layers": list(self.layers),
            # Its window, models, mapping and readout, as the engine itself knows them.
            "first": stored_spec(self.way.cell(self.places[0], self.layers[0]), model, model),
        }

    def values(self, readings: Sequence[Reading]) -> Found:
        """What the cells gave, in their order."""
        n = len(self.places)
        return {
            name: [[one.values[name] for one in readings[row : row + n]] for row in range(0, len(readings), n)]
            for name in MEASURES
        }
