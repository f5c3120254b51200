"""The only file that bypasses blocks: rows of a batch sleep through the blocks below their write.

A write at layer l of a target prompt changes nothing at or below l but itself. A row that waits for
such a write need not be computed until then: it wakes at the block after it, with the clean target's
residual stream. A block computes the rows that are awake, which stand first in the batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from bathyscope.model import Model


class Sleepers:
    """Rows that join a pass late, in force inside a `with` block.

    Args:
        model: the model.
        wake: for each row the first block that computes it, in ascending order; n_layers for a row
            that no block computes.
        residuals: the clean residual stream after the blocks that rows wake behind, (columns, d_model).
        tuples: whether blocks return a tuple.
    """

    def __init__(self, model: Model, wake: Sequence[int], residuals: Mapping[int, Tensor], *, tuples: bool) -> None:
        if list(wake) != sorted(wake):
            raise ValueError("rows must be ordered by the block that they wake at")
        self.wake, self.residuals, self.tuples = tuple(wake), residuals, tuples
        self._blocks: list[nn.Module] = list(model.blocks)

    def __enter__(self) -> Self:
        for layer, block in enumerate(self._blocks):
            if any(at > layer for at in self.wake):
                block.forward = self._staggered(layer, block.forward)
        return self

    def __exit__(self, *error: object) -> None:
        for block in self._blocks:
            block.__dict__.pop("forward", None)

    def _staggered(self, layer: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        n_rows = len(self.wake)
        awake = sum(at <= layer for at in self.wake)
        joining = slice(awake, sum(at <= layer + 1 for at in self.wake))

        def staggered(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            after, rest = torch.empty_like(hidden_states), (None,)
            if awake:
                kept = {name: _cut(value, n_rows, awake) for name, value in kwargs.items()}
                output = forward(hidden_states[:awake], *(_cut(value, n_rows, awake) for value in args), **kept)
                after[:awake] = output[0] if self.tuples else output
                rest = output[1:] if self.tuples else ()
            if joining.stop > joining.start:
                after[joining] = self.residuals[layer].to(after)
            return (after, *rest) if self.tuples else after

        return staggered


def can_bypass(model: Model) -> bool:
    """Whether blocks can be bypassed: not those that carry somebody else's hook or replaced forward."""
    return not any(
        block._forward_hooks or block._forward_pre_hooks or "forward" in block.__dict__ for block in model.blocks
    )


def _cut(value: Any, n_rows: int, awake: int) -> Any:
    """The part of a block's argument that belongs to the rows that are awake.

    A tensor with a row axis has the rows first, or, in models with alibi, rows times heads.
    """
    if isinstance(value, tuple):
        return tuple(_cut(one, n_rows, awake) for one in value)
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] > 1 and value.shape[0] % n_rows == 0:
        return value[: value.shape[0] // n_rows * awake]
    return value
