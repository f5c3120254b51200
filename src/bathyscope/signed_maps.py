"""Maps of numbers with signs, as rows and columns: what pages and the terminal draw. Knows numbers only."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from bathyscope import pages
from bathyscope.pages import Heat

DIGITS: Final = 3
MOST_DECIMALS: Final = 6
"""What needs more is written with a power of ten."""


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


def number(value: float, largest: float) -> str:
    """A number with its sign, to a precision that all numbers of a map share.

    Example:
        >>> from bathyscope.signed_maps import number
        >>> number(1.25, 20.0), number(-0.00312, 0.02), number(3.1e-9, 2e-8)
        ('+1.2', '-0.0031', '+3.1e-09')
    """
    decimals = max(0, DIGITS - 1 - math.floor(math.log10(largest))) if largest > 0 else 0
    if decimals > MOST_DECIMALS:
        return f"{value:+.{DIGITS - 2}e}" if value else "0"
    text = f"{value:+.{decimals}f}"
    return text if float(text) else f"{0:.{decimals}f}"


def token_name(position: int, token: str) -> str:
    """The head of a token's column: its position, and its text without the space that most begin with.

    Example:
        >>> from bathyscope.signed_maps import token_name
        >>> token_name(3, " France"), token_name(4, " ")
        ('3 France', "4 ' '")
    """
    return f"{position} {token.strip() or repr(token)}"


def heats(one: SignedMap) -> dict[str, list[Heat]]:
    """A map's squares for a page: blue above 0, red below, the largest in full colour."""
    return {
        name: [
            Heat("", None, "")
            if value is None
            else Heat(number(value, one.largest), value / one.largest, f"{value:.6g}")
            for value in row
        ]
        for name, row in one.rows.items()
    }


def drawn(
    heading: str,
    facts: Mapping[str, str],
    maps: Iterable[SignedMap],
    largest: Sequence[Mapping[str, str]],
) -> str:
    """Maps as the body of a page: what was asked, a map each, what the colours mean, and the largest numbers.

    Args:
        heading: what made them.
        facts: what was asked and came out, by name.
        maps: any number.
        largest: a record a number, the largest first.
    """
    found = [
        pages.heat_map(f"{heading}: {one.heading}", {} if index else facts, one.corner, one.columns, heats(one))
        for index, one in enumerate(maps)
    ]
    scale = [Heat(f"{share:+.0%}" if share else "0", share, "") for share in (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)]
    found.append(pages.heat_map("Colours", {}, "of the largest of a map", [""] * len(scale), {"": scale}))
    if largest:
        columns = list(largest[0])
        rows = {str(rank): [one[name] for name in columns] for rank, one in enumerate(largest, 1)}
        found.append(pages.grid("The largest", {}, "", columns, rows))
    return "".join(found)
