"""The partition of cells into batches: what can run together, where it starts, and when each row wakes.

It depends on the cells, the model and the budget alone, never on what has been computed already.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bathyscope.engine.cells import Cell
from bathyscope.engine.costs import KEPT_APART, row_bytes
from bathyscope.interventions import Write
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model
from bathyscope.sites import GLOBAL, Site

PASS_OVERHEAD = 48
"""What starting one more pass costs, in tokens that could have been computed instead; measured on a laptop CPU."""

MOST_ROWS = 4096
"""Rows of the largest batch: more make nothing quicker, and an interruption would cost more."""


@dataclass(frozen=True)
class PlannedBatch:
    """Cells that run together.

    Args:
        cells: their indices, in the order of the batch's rows.
        start: the first column of the target prompt that is computed.
        wake: for each row the first block that computes it.
        tail: whether every row needs the final norm and the unembedding only, and no pass at all.
    """

    cells: tuple[int, ...]
    start: int
    wake: tuple[int, ...]
    tail: bool = False


def partition(cells: Sequence[Cell], model: Model, budget: int, *, bypass: bool) -> list[PlannedBatch]:
    """Batches of all cells.

    Args:
        cells: the cells.
        model: the target model.
        budget: bytes that one batch may take.
        bypass: whether rows may sleep through blocks.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        tail = bypass and needs_tail_only(cell, model.n_layers)
        # What a tail gives depends on no prompt; other rows of a batch share theirs.
        groups.setdefault((tail, cell.readout, None if tail else (cell.target.ids, cell.common)), []).append(index)
    found, n_layers = [], model.n_layers
    for (tail, *_), rows in groups.items():
        wakes = {row: n_layers if tail else _wake(cells[row], n_layers, bypass=bypass) for row in rows}
        columns = [(0, rows)] if tail else _columns(cells, rows, wakes)
        found += [batch for start, part in columns for batch in _split(cells, part, start, model, budget, wakes, tail)]
    return found


def needs_tail_only(cell: Cell, n_layers: int) -> bool:
    """Whether all that a cell measures follows from what it writes behind the last block at the last position."""
    return (
        cell.source is not None
        and cell.site == Site("resid_post", n_layers - 1)
        and cell.positions == (len(cell.target) - 1,)
        and not (cell.also or cell.more or cell.common)
        and not cell.readout.new_tokens
        # Any other intervention may depend on what it replaces, which no pass computes here.
        and type(cell.mapping).intervention is RepresentationMapping.intervention
    )


def wake_block(site: Site | None, n_layers: int) -> int:
    """The first block whose work a write at a site changes.

    Example:
        >>> from bathyscope.engine.partition import wake_block
        >>> from bathyscope.sites import Site
        >>> [wake_block(Site.parse(name), 4) for name in ("embed", "z.2", "resid_post.2", "resid_post.3")]
        [0, 2, 3, 4]
    """
    if site is None or site.component == "final_norm":
        return n_layers
    if site.component in GLOBAL or site.layer is None:
        return 0
    return site.layer + 1 if site.component == "resid_post" else site.layer


def again(write: Write, wake: int, start: int, n_tokens: int) -> bool:
    """Whether a common write has to happen again in a row that wakes at a block and starts at a column.

    What lies before either is taken from the run that the cells have in common, in which it has happened.
    """
    layer = write.site.layer
    done = layer is not None and (layer < wake if layer >= 0 else wake > 0)
    return not done and any(index >= start for index in write.indices(n_tokens))


def _wake(cell: Cell, n_layers: int, *, bypass: bool) -> int:
    """The first block that a cell's row has to be computed in."""
    if not bypass:
        return 0
    during = [write for write in cell.also if write.when != "generated"]
    sites = [patch.site for patch in cell.patches] + [write.site for write in during]
    # A write that depends on another site is made again only by a row that meets both.
    sites += [write.intervention.reads for write in (*during, *cell.common)]
    return min((wake_block(site, n_layers) for site in sites), default=n_layers)


def _first_column(cell: Cell) -> int:
    """The first column that a cell's writes change; the last of the prompt where nothing is written."""
    n_tokens = len(cell.target)
    columns = [n_tokens - 1]
    for patch in cell.patches:
        columns += patch.positions
    for write in cell.also:
        if write.when != "generated":
            columns += write.indices(n_tokens)
    return min(columns)


def _columns(cells: Sequence[Cell], rows: Sequence[int], wakes: Mapping[int, int]) -> list[tuple[int, list[int]]]:
    """Rows by the column that they start at, columns that are close together made one."""
    by_column: dict[int, list[int]] = {}
    for index in rows:
        by_column.setdefault(_first_column(cells[index]), []).append(index)
    n_passes = cells[rows[0]].readout.n_passes
    merged: list[tuple[int, list[int]]] = []
    for column in sorted(by_column):
        joining = by_column[column]
        # Rows that join an earlier start compute columns for nothing; a batch of their own costs its passes.
        if merged and len(joining) * (column - merged[-1][0]) <= PASS_OVERHEAD * n_passes:
            merged[-1][1].extend(joining)
        else:
            merged.append((column, list(joining)))
    return [(_whole(column, cells[part[0]], {wakes[index] for index in part}), part) for column, part in merged]


def _whole(start: int, cell: Cell, wakes: Iterable[int]) -> int:
    """A start that cuts no common write in two: noise is drawn for all positions of a write together."""
    n_tokens, first = len(cell.target), start
    for write in cell.common:
        if write.when != "generated" and any(again(write, wake, first, n_tokens) for wake in wakes):
            first = min(first, *write.indices(n_tokens))
    return first if first == start else _whole(first, cell, wakes)


def _split(
    cells: Sequence[Cell],
    rows: Sequence[int],
    start: int,
    model: Model,
    budget: int,
    wakes: Mapping[int, int],
    tail: bool,
) -> list[PlannedBatch]:
    """Batches of rows that start together, within the budget, rows that wake together side by side."""
    room = max(budget // 4, budget - KEPT_APART)
    size = min(MOST_ROWS, max(1, room // row_bytes(cells[rows[0]], start, model, tail=tail)))
    ordered = sorted(rows, key=lambda index: (wakes[index], index))
    parts = (ordered[first : first + size] for first in range(0, len(ordered), size))
    return [PlannedBatch(tuple(part), start, tuple(wakes[index] for index in part), tail) for part in parts]
