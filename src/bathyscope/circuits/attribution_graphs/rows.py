"""Rows of a graph as they are computed: of each the few entries that are most of it, the rest as one sum.

A prompt has thousands of active features and as many columns; most entries are next to nothing. Knows numbers only.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

TAIL: Final = 1e-4
"""The share of a row's absolute sum that is kept as one sum, not entry by entry."""


@dataclass
class Rows:
    """Entries so far, of targets and sources that are numbered alike.

    Args:
        n_counted: sources from this number on are constants, which are kept whole and are in no mass.
        tail: the share of a row's mass that need not be kept entry by entry.
    """

    n_counted: int
    tail: float = TAIL
    _parts: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    _sums: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, targets: Tensor, found: Tensor, values: Tensor) -> None:
        """Add whole rows.

        Args:
            targets: their numbers, (targets,).
            found: (targets, sources).
            values: what each row adds up to, (targets,).

        Example:
            >>> import torch
            >>> from bathyscope.circuits.attribution_graphs.rows import Rows
            >>> rows = Rows(n_counted=3, tail=0.1)
            >>> rows.add(torch.tensor([7]), torch.tensor([[9.0, -0.5, 0.4, 3.0]]), torch.tensor([11.9]))
            >>> targets, sources, weights = rows.entries()
            >>> sources.tolist(), [round(one, 3) for one in rows.sums(8)[0][7:].tolist()]
            ([0, 3], [-0.1])
        """
        found = found.cpu()
        sizes, order = found[:, : self.n_counted].abs().sort(descending=True)
        mass = sizes.sum(-1, dtype=torch.float64)
        before = sizes.cumsum(-1, dtype=torch.float64) - sizes
        few = (before < (1 - self.tail) * mass[:, None]) & (sizes > 0)
        kept = found != 0
        kept[:, : self.n_counted] = torch.zeros_like(few).scatter_(1, order, few)
        remainder = found.masked_fill(kept, 0).sum(-1, dtype=torch.float64)
        rows, sources = kept.nonzero(as_tuple=True)
        self._parts.append((targets[rows], sources, found[rows, sources]))
        self._sums.append((targets, remainder, mass, values.cpu().double()))

    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """Target, source and weight of every entry that is kept, each (entries,)."""
        targets, sources, weights = (torch.cat(one) for one in zip(*self._parts, strict=True))
        return targets, sources, weights

    def sums(self, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """For each of n numbers the sum of what was not kept, the absolute sum, and the value; nan where no row is."""
        targets, remainder, mass, values = (torch.cat(one) for one in zip(*self._sums, strict=True))
        found = torch.zeros(3, n, dtype=torch.float64)
        found[2] = torch.nan
        found[:, targets] = torch.stack([remainder, mass, values])
        return found[0], found[1], found[2]
