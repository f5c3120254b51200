"""Which columns of a left-padded batch a pass computes, and which of them a write touches.

A write names a prompt's own positions; here they become rows and columns of one pass. Knows neither modules nor
tensors of a model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.interventions import Write


@dataclass
class Window:
    """The columns of a left-padded batch that the current pass computes.

    Args:
        pads: how many columns of padding each row begins with, (rows,).
        prompt: columns of the whole prompt, padding included.
        start: first column of this pass.
        length: columns of this pass.

    Example:
        >>> from bathyscope.interventions import Ablate, Write
        >>> from bathyscope.window import Window
        >>> window = Window(pads=(2, 0), prompt=5, start=0, length=5)
        >>> [(rows.tolist(), columns.tolist()) for rows, columns in window.find(Write("attn_out.3", Ablate(), 0))]
        [([0], [2]), ([1], [0])]
    """

    pads: tuple[int, ...]
    prompt: int
    start: int
    length: int

    def find(self, write: Write) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns, within this pass, that a write touches: one pair for each row that it touches.

        Each row is written by itself, so that a row of a batch gets what it would get alone; one intervention of
        `together` is given all rows at once, and has to see to that itself.
        """
        found = []
        for row in range(len(self.pads)) if write.row is None else (write.row,):
            if self.start >= self.prompt:
                columns = [] if write.when == "prompt" else [0]
            elif write.when == "generated":
                columns = []
            else:
                columns = [column - self.start for column in self._columns(write, row)]
            inside = torch.tensor([column for column in columns if 0 <= column < self.length], dtype=torch.long)
            if len(inside):
                found.append((torch.full_like(inside, row), inside))
        if write.intervention.together and found:
            return [(torch.cat([rows for rows, _ in found]), torch.cat([columns for _, columns in found]))]
        return found

    def _columns(self, write: Write, row: int) -> list[int]:
        pad = self.pads[row]
        return [pad + index for index in write.indices(self.prompt - pad)]
