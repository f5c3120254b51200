"""What cells take from the source model: representations, and what it says next itself.

Each prompt runs once, whatever the number of cells that read it, and to the last site that any of them reads.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bathyscope.engine.cells import Cell, Given, Patch, Read
from bathyscope.engine.events import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.interventions import Replace, Write
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
    def of(cls, cells: Iterable[Cell], model: Model, stop: Stop) -> Self:
        """Read all that cells need.

        Raises:
            CancelledError: `stop` said so between two prompts.
        """
        wanted: dict[tuple[int, ...], dict[Read, None]] = {}
        compared: dict[Place, None] = {}
        last = Site("resid_post", model.n_layers - 1)
        for cell in cells:
            for read in cell.reads:
                wanted.setdefault(read.prompt.ids, {})[read] = None
            if cell.readout.compares:
                other = _compared(cell)
                compared[other.prompt.ids, other.position] = None
                wanted.setdefault(other.prompt.ids, {})[Read(other.prompt, last, other.position)] = None
        found: dict[Read, Tensor] = {}
        for reads in wanted.values():
            if stop.now or stop.soon:
                raise CancelledError("the run was stopped before its first batch", "what was stored before is kept")
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
        return None if cell.source is None else self._held(cell.source)

    def _held(self, source: Read | Given) -> Tensor:
        return source.value if isinstance(source, Given) else self.representations[source]

    def original_of(self, cells: Sequence[Cell]) -> Original | None:
        """What the source says next for each of some cells of one readout, where it compares."""
        if self.original is None or not cells[0].readout.compares:
            return None
        places = [_compared(cell) for cell in cells]
        return self.original[torch.tensor([self.rows[one.prompt.ids, one.position] for one in places])]

    def values(self, cells: Sequence[Cell]) -> list[tuple[Tensor, ...]]:
        """What each cell writes, (...site shape) each: its representations, mapped."""
        patches = [patch for cell in cells for patch in cell.patches]
        groups: dict[tuple[int, Site, Site], list[int]] = {}
        for index, patch in enumerate(patches):
            # By identity: comparing a fitted mapping reads all its bytes.
            groups.setdefault((id(patch.mapping), patch.source.site, patch.site), []).append(index)
        found: dict[int, Tensor] = {}
        for (_, source, target), indices in groups.items():
            read = torch.stack([self._held(patches[index].source) for index in indices])
            found |= zip(indices, patches[indices[0]].mapping.apply(read, source, target), strict=True)
        values = (found[index] for index in range(len(patches)))
        return [tuple(next(values) for _ in cell.patches) for cell in cells]

    def writes(self, cells: Sequence[Cell]) -> list[list[Write]]:
        """What writes each cell's values, positions of one site in one write."""
        return [_together(cell.patches, row) for cell, row in zip(cells, self.values(cells), strict=True)]


def _together(patches: Sequence[Patch], values: Sequence[Tensor]) -> list[Write]:
    """Writes of one row: neighbouring plain ones of one site at one position each become one, which is much quicker."""
    found: list[Write] = []
    plain: list[tuple[int, Tensor]] = []
    for number, (patch, value) in enumerate(zip(patches, values, strict=True)):
        one = patch.mapping.intervention(value)
        if type(one) is not Replace or one.match_norm or len(patch.positions) != 1:
            found.append(Write(patch.site, one, patch.positions))
            continue
        plain.append((patch.positions[0], one.value))
        after = patches[number + 1] if number + 1 < len(patches) else None
        if after is None or (after.site, after.mapping, len(after.positions)) != (patch.site, patch.mapping, 1):
            positions, held = zip(*plain, strict=True)
            found.append(Write(patch.site, Replace(torch.stack(held)), positions))
            plain = []
    return found


def _compared(cell: Cell) -> Read:
    if cell.compared is None:
        raise UsageError(
            f"a cell with the readout {type(cell.readout).__name__} has nothing to compare with",
            "a source that is read, or `against`",
        )
    return cell.compared
