"""Where nodes stand: a row a layer, a column a token, and in each cell as many lines as it needs. Knows no circuit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

PITCH, LINE = 96.0, 62.0
"""From a node to the next in its line, and from a line to the next."""
EMPTY = 64.0
"""The width of a column without nodes."""
BESIDE, BETWEEN = 28.0, 46.0
"""Room between columns, and between rows, where edges are seen."""
LEFT, TOP, BOTTOM = 100.0, 20.0, 20.0


@dataclass(frozen=True)
class Layout:
    """Lengths are pixels from the upper left corner.

    Args:
        nodes: where each node stands.
        columns: the middle of each column.
        rows: the middle of each row, the lowest first.
        width, height: of everything.
    """

    nodes: tuple[tuple[float, float], ...]
    columns: tuple[float, ...]
    rows: tuple[float, ...]
    width: float
    height: float


def placed(cells: Sequence[tuple[int, int]], n_rows: int, n_columns: int) -> Layout:
    """Place nodes in the order in which they are given, from the left of their cell's first line on.

    Args:
        cells: the row, counted from below, and the column of each node.
        n_rows: how many rows there are.
        n_columns: how many columns; those with a token only are narrow.

    Example:
        >>> from bathyscope.circuits.viewer.layout import placed
        >>> found = placed([(0, 0), (1, 0), (1, 0)], 2, 1)
        >>> [y > found.nodes[1][1] for _, y in found.nodes], found.nodes[0][0] == found.columns[0]
        ([True, False, False], True)
    """
    counts: dict[tuple[int, int], int] = {}
    for cell in cells:
        counts[cell] = counts.get(cell, 0) + 1
    across = {cell: _across(count) for cell, count in counts.items()}
    lines = {cell: math.ceil(count / across[cell]) for cell, count in counts.items()}
    wide, high = [EMPTY] * n_columns, [1] * n_rows
    for (row, column), count in across.items():
        # In the lowest row stands a token in every column, and those that have no more are kept narrow.
        wide[column] = max(wide[column], PITCH * count if row or count > 1 else EMPTY)
        high[row] = max(high[row], lines[row, column])
    middles, right = _stacked(wide, BESIDE, LEFT)
    from_top, bottom = _stacked([LINE * n for n in reversed(high)], BETWEEN, TOP)
    rows = from_top[::-1]
    nodes, met = [], dict.fromkeys(counts, 0)
    for row, column in cells:
        cell = row, column
        line, place = divmod(met[cell], across[cell])
        met[cell] += 1
        in_line = min(across[cell], counts[cell] - line * across[cell])
        x = middles[column] + PITCH * (place - (in_line - 1) / 2)
        nodes.append((x, rows[row] + LINE * (line - (lines[cell] - 1) / 2)))
    return Layout(tuple(nodes), tuple(middles), tuple(rows), right, bottom + BOTTOM)


def _across(count: int) -> int:
    """How many stand in a line: cells are wider than high, since screens are."""
    return min(count, math.ceil(math.sqrt(2 * count)))


def _stacked(sizes: Sequence[float], gap: float, start: float) -> tuple[list[float], float]:
    """The middle of each of several things side by side, and where they end."""
    middles = []
    for size in sizes:
        middles.append(start + gap / 2 + size / 2)
        start += size + gap
    return middles, start
