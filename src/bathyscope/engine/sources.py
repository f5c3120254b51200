"""What cells take from the source model: representations, and what it says next itself.

Each prompt runs once, whatever the number of cells that read it, and to the last site that any of them reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bathyscope.engine.cells import Cell, Given, Read
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.interventions import Intervention
from bathyscope.model import Model
from bathyscope.readouts import Original
from bathyscope.sites import Site

Place = tuple[tuple[int, ...], int]
"""A prompt's token ids and a position in it."""


@dataclass(frozen=True)
class Sources:
    """What the cells of an execution take from the source model.

    Args:
        representations: what was read, (...site shape) each.
        original: the source's own next-token distributions, a row for each place that is compared with.
        rows: the row of each place.
    """

    representations: Mapping[Read, Tensor]
    original: Original | None
    rows: Mapping[Place, int]

    @classmethod
    def of(cls, cells: Iterable[Cell], model: Model) -> Self:
        """Read all that cells need."""
        wanted: dict[tuple[int, ...], dict[Read, None]] = {}
        compared: dict[Place, None] = {}
        last = Site("resid_post", model.n_layers - 1)
        for cell in cells:
            if isinstance(cell.source, Read):
                wanted.setdefault(cell.source.prompt.ids, {})[cell.source] = None
            if cell.readout.compares:
                other = _compared(cell)
                compared[other.prompt.ids, other.position] = None
                wanted.setdefault(other.prompt.ids, {})[Read(other.prompt, last, other.position)] = None
        found: dict[Read, Tensor] = {}
        for reads in wanted.values():
            sites = sorted({read.site for read in reads}, key=str)
            activations = capture(model, next(iter(reads)).prompt, sites)
            found |= {read: activations[read.site][0][read.position].clone() for read in reads}
        finals = {(read.prompt.ids, read.position): value for read, value in found.items() if read.site == last}
        original = None
        if compared:
            with torch.no_grad():
                original = Original.of(model, torch.stack([finals[place] for place in compared]))
        return cls(found, original, {place: row for row, place in enumerate(compared)})

    def representation(self, cell: Cell) -> Tensor | None:
        """What a cell's source holds, or None for a control."""
        source = cell.source
        return source.value if isinstance(source, Given) else None if source is None else self.representations[source]

    def original_of(self, cells: Sequence[Cell]) -> Original | None:
        """What the source says next for each of some cells of one readout, where it compares."""
        if self.original is None or not cells[0].readout.compares:
            return None
        places = [_compared(cell) for cell in cells]
        return self.original[torch.tensor([self.rows[one.prompt.ids, one.position] for one in places])]

    def values(self, cells: Sequence[Cell]) -> list[Tensor | None]:
        """What each cell writes, (...site shape): its representation, mapped; None where nothing is written."""
        groups: dict[tuple[int, Site, Site], list[int]] = {}
        for row, cell in enumerate(cells):
            if cell.source is not None and cell.site is not None:
                # By identity: comparing a fitted mapping reads all its bytes.
                groups.setdefault((id(cell.mapping), cell.source.site, cell.site), []).append(row)
        found: list[Tensor | None] = [None] * len(cells)
        for (_, source, target), rows in groups.items():
            read = torch.stack([value for row in rows if (value := self.representation(cells[row])) is not None])
            for row, value in zip(rows, cells[rows[0]].mapping.apply(read, source, target), strict=True):
                found[row] = value
        return found

    def interventions(self, cells: Sequence[Cell]) -> list[Intervention | None]:
        """What writes each cell's value."""
        values = self.values(cells)
        return [
            None if value is None else cell.mapping.intervention(value)
            for cell, value in zip(cells, values, strict=True)
        ]


def _compared(cell: Cell) -> Read:
    if cell.compared is None:
        raise UsageError(
            f"a cell with the readout {type(cell.readout).__name__} has nothing to compare with",
            "a source that is read, or `against`",
        )
    return cell.compared
