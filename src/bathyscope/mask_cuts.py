"""Attention edges that are cut in the mask: which are open, and a mask in which some are closed besides.

A pattern is read when attention has already used it; the mask it is given is what can still be changed. Knows no hooks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.errors import InterventionError
from bathyscope.interventions import CutEdges, Write
from bathyscope.window import Window


@dataclass
class Cut:
    """Edges that are cut, and whether any of them was there.

    Args:
        write: where and when.
        edges: the intervention of that write.
        fired: whether an edge that was open has been closed, or need not have been there.

    Example:
        >>> from bathyscope.interventions import CutEdges, Write
        >>> from bathyscope.mask_cuts import Cut
        >>> edges = CutEdges((0, 1))
        >>> str(Cut(Write("pattern.3", edges, position=4), edges))
        'the cut at pattern.3 of keys [0, 1] from positions 4 (no such edge was open)'
    """

    write: Write
    edges: CutEdges
    fired: bool = False

    def __str__(self) -> str:
        keys, queries = list(self.edges.keys), self.write.position
        return f"the cut at {self.write.site} of keys {keys} from positions {queries} (no such edge was open)"


def cut_mask(
    mask: Tensor | None, is_open: Tensor, cuts: Sequence[Cut], window: Window, *, n_rows: int, n_heads: int
) -> Tensor | None:
    """The mask with edges closed; where nothing of this pass is cut, the mask itself.

    Args:
        mask: what the attention module is given.
        is_open: the edges that this mask leaves open, as `open_edges` says.
        cuts: what is cut at this module; each notes whether it closed an edge.
        window: the pass in progress.
        n_rows: rows that the module computes.
        n_heads: heads of the model.

    Raises:
        InterventionError: a query would be left no key to attend to.

    Example:
        >>> import torch
        >>> from bathyscope.interventions import CutEdges, Write
        >>> from bathyscope.mask_cuts import Cut, cut_mask, open_edges
        >>> from bathyscope.window import Window
        >>> window, edges = Window(pads=(0,), prompt=3, start=0, length=3), CutEdges((0,))
        >>> cuts = [Cut(Write("pattern.0", edges, position=2), edges)]
        >>> is_open = open_edges(torch.nn.Identity(), None, window)
        >>> cut_mask(None, is_open, cuts, window, n_rows=1, n_heads=1)[0, 0].int().tolist(), cuts[0].fired
        ([[1, 0, 0], [1, 1, 0], [0, 1, 1]], True)
    """
    found = [(cut, rows, columns) for cut in cuts for rows, columns in window.find(cut.write)]
    if not found:
        return mask
    by_head = is_open.shape[1] > 1 or any(cut.write.site.head is not None for cut, _, _ in found)
    is_open = is_open.expand(n_rows, n_heads if by_head else 1, -1, -1).clone()
    for cut, rows, columns in found:
        row, pad, head = int(rows[0]), window.pads[int(rows[0])], cut.write.site.head
        heads = slice(None) if head is None else slice(head, head + 1)
        before = is_open[row, heads][:, columns, pad:]
        after = cut.edges.apply(before)
        cut.fired |= cut.edges.missing_ok or bool((after != before).any())
        if not (kept := after.any(-1).all(0)).all():
            starved = columns[~kept] + window.start - pad
            raise InterventionError(
                f"the cuts at {cut.write.site} leave the query at position {', '.join(map(str, starved.tolist()))} "
                "no key to attend to",
                "attention must go somewhere; a token may always attend to itself",
                "fewer keys",
            )
        is_open[row, heads][:, columns, pad:] = after
    if mask is None or mask.dtype == torch.bool:
        return is_open
    return mask.expand_as(is_open).masked_fill(~is_open, torch.finfo(mask.dtype).min)


def open_edges(module: nn.Module, mask: Tensor | None, window: Window) -> Tensor:
    """Which keys each query of a pass may attend to, (rows or 1, heads or 1, queries, keys).

    Args:
        module: the attention module.
        mask: what it is given; None where it knows by itself that it is causal.
        window: the pass in progress.

    Example:
        >>> import torch
        >>> from bathyscope.mask_cuts import open_edges
        >>> from bathyscope.window import Window
        >>> open_edges(torch.nn.Identity(), None, Window(pads=(0,), prompt=3, start=1, length=2))[0, 0].int().tolist()
        [[1, 1, 0], [1, 1, 1]]
    """
    columns = slice(window.start, window.start + window.length)
    if mask is None:
        keys = torch.arange(columns.stop)
        return (keys <= keys[columns, None])[None, None]
    is_open = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    # GPT-Neo closes what is beyond its local window inside the module, where no mask shows it.
    own = getattr(module, "bias", None)
    if isinstance(own, Tensor) and own.dtype == torch.bool and own.ndim == 4:
        is_open = is_open & own[:, :, columns, : columns.stop]
    return is_open
