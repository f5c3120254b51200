"""Places: where in a model a coder belongs, and which positions of a window are attention sinks there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.fitting.collecting import Side
from bathyscope.forward import Activations
from bathyscope.model import Model, Tokens
from bathyscope.sae.coder import SparseCoder
from bathyscope.sites import Site

CLASSES: Final = ("first", "sink", "special", "first half", "second half")
"""What a position of a window can be: its first; another sink; another special token; else in one of its halves."""

USED: Final = CLASSES[3:]
"""Those that a coder is measured on, unless said: those that it is trained on."""


@dataclass(frozen=True, eq=False)
class Place:
    """A coder where it belongs.

    Args:
        coder: the coder.
        site: what it reads.
        target: what it reconstructs.
        side: reads both, and tells where sinks are.
    """

    coder: SparseCoder
    site: Site
    target: Site
    side: Side

    @classmethod
    def of(cls, model: Model, coder: SparseCoder) -> "Place":
        """Where a coder belongs in a model.

        Raises:
            UsageError: it is for another model, or for what is no vector inside of it.
        """
        site, target = coder.check(model)
        for one in (site, target):
            if one.layer is None or one.component == "pattern":
                raise UsageError(f"a coder at {one} was to be measured", "one inside the blocks, or at the embedding")
        return cls(coder, site, target, Side(model, (site, target)))

    @property
    def reads(self) -> frozenset[Site]:
        """All sites that are needed to measure a reconstruction."""
        return frozenset({*self.side.streams(), self.site, self.target})

    def usable(self, read: Activations, windows: Sequence[Tokens]) -> Tensor:
        """Which positions of windows of one length are measured, (windows, positions): see `Side.ordinary`."""
        return torch.stack([self.side.ordinary(read, row, window) for row, window in enumerate(windows)])

    def classes(self, read: Activations, windows: Sequence[Tokens]) -> Tensor:
        """The number in `CLASSES` of each position of windows of one length, (windows, positions)."""
        kept = self.usable(read, windows)
        no_sink = torch.stack([self.side.usable(read, row) for row in range(len(windows))])
        left_out = torch.where(no_sink, CLASSES.index("special"), CLASSES.index("sink"))
        place = torch.arange(kept.shape[1]).expand_as(kept)
        half = torch.where(place < kept.shape[1] / 2, CLASSES.index("first half"), CLASSES.index("second half"))
        return torch.where(kept, half, torch.where(place == 0, CLASSES.index("first"), left_out))
