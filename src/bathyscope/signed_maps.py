"""Maps of numbers with signs, as rows and columns: what pages and the terminal draw. Knows numbers only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from bathyscope.pages import Heat


@dataclass(frozen=True)
class SignedMap:
    """Numbers in rows and columns.

    Args:
        heading: what they are.
        corner: what the rows are.
        columns: their names.
        rows: for each row's name a number for each column, None where there is none; uppermost first.

    Example:
        >>> from bathyscope.signed_maps import SignedMap
        >>> SignedMap.of("h", "layer", [("0", "a", 1.0), ("0", "a", 2.0), ("1", "b", -1.0)]).rows
        {'1': (None, -1.0), '0': (3.0, None)}
    """

    heading: str
    corner: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float | None, ...]]

    @classmethod
    def of(cls, heading: str, corner: str, numbers: Iterable[tuple[str, str, float]]) -> Self:
        """From rows, columns and numbers; those that meet are added up, and the last row stands uppermost."""
        cells: dict[str, dict[str, float]] = {}
        columns: dict[str, None] = {}
        for row, column, number in numbers:
            columns[column] = None
            own = cells.setdefault(row, {})
            own[column] = own.get(column, 0.0) + number
        rows = {row: tuple(own.get(column) for column in columns) for row, own in reversed(cells.items())}
        return cls(heading, corner, tuple(columns), rows)

    @property
    def largest(self) -> float:
        """The size of the largest number, which has the full colour; 1 where all are 0."""
        return max((abs(one) for row in self.rows.values() for one in row if one is not None), default=0.0) or 1.0


def heats(one: SignedMap) -> dict[str, list[Heat]]:
    """A map's squares for a page: blue above 0, red below, the largest in full colour."""
    return {
        name: [
            Heat("", None, "") if number is None else Heat(f"{number:.3g}", number / one.largest, f"{number:.6g}")
            for number in row
        ]
        for name, row in one.rows.items()
    }
