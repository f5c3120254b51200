"""The table of the next-token study: from what each window gave to one record a method and layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy
from numpy.typing import NDArray

from bathyscope.studies.bootstrap import Bootstrap
from bathyscope.studies.next_token_study.asked import Asked
from bathyscope.studies.next_token_study.portions import Found, Portion
from bathyscope.studies.next_token_study.tallies import MEASURES, Values, difference, tally
from bathyscope.studies.next_token_study.ways import LOGIT_LENS, PROMPTED


@dataclass(frozen=True, eq=False)
class Table:
    """All that was measured.

    Args:
        asked: the call.
        values: for each method and measure a row a layer, and behind them the control's, (rows, places).
        bootstrap: of the places.
    """

    asked: Asked
    values: Mapping[str, Mapping[str, NDArray[numpy.float64]]]
    bootstrap: Bootstrap

    @classmethod
    def of(cls, asked: Asked, portions: Sequence[Portion], found: Sequence[Found]) -> Self:
        """From portions and what each of them gave."""
        parts: dict[str, list[Found]] = {}
        for portion, given in zip(portions, found, strict=True):
            parts.setdefault(portion.way.method, []).append(given)
        values = {
            method: {name: numpy.concatenate([numpy.array(one[name]) for one in given], 1) for name in MEASURES}
            for method, given in parts.items()
        }
        return cls(asked, values, Bootstrap.of([place.window for place in asked.places], seed=asked.seed))

    def records(self) -> Iterator[dict[str, Any]]:
        """One a method and layer."""
        for method in self.asked.methods:
            for row, layer in enumerate(self.asked.layers):
                column = self._column(method, row)
                record = {"layer": layer, "method": method, **tally(column, self.bootstrap)}
                if LOGIT_LENS in self.asked.methods and method != LOGIT_LENS:
                    record |= difference(column, self._column(LOGIT_LENS, row), "logit_lens", self.bootstrap)
                yield record

    def controls(self) -> Iterator[dict[str, Any]]:
        """One a prompt: what it says with nothing written into it."""
        for method in self.asked.methods:
            if method in PROMPTED:
                column = self._column(method, len(self.asked.layers))
                yield {"control": "unpatched prompt", "method": method, **tally(column, self.bootstrap)}

    def _column(self, method: str, row: int) -> Values:
        return {name: values[row] for name, values in self.values[method].items()}
