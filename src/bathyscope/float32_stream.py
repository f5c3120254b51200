"""A residual stream in float32 beside weights in half precision.

In half precision every block would round the residual stream to its dtype anew. Here only what a module with weights
is given is rounded; the sums of the residual stream are float32. Replaces the forward of modules, as `bypass` does.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from bathyscope.bypass import is_foreign, restore
from bathyscope.model import HALF, Model


class Float32Stream:
    """A residual stream in float32 beside weights in half precision, in force inside a `with` block.

    The first block is given float32, and sums of float32 and half precision are float32. Whatever has
    weights of its own is given the model's dtype, as its kernels need it. Without effect in other
    dtypes, and where somebody else's hook or replaced forward expects the model's own.

    Args:
        model: the model, before any hook of ours is registered.

    Example:
        >>> import bathyscope
        >>> from bathyscope.float32_stream import Float32Stream
        >>> model = bathyscope.load()
        >>> with Float32Stream(model):
        ...     bathyscope.capture(model, "hello", ["resid_post.0"])["resid_post.0"][0].dtype
        torch.float32
    """

    def __init__(self, model: Model) -> None:
        self._first: nn.Module | None = None
        self._former: Callable[..., Any] | None = None
        self._weighted: list[tuple[nn.Module, Callable[..., Any]]] = []
        if can_widen(model):
            self._first, blocks = model.blocks[0], set(model.blocks)
            for module in model.hf.modules():
                if module not in blocks and any(one is not None for one in module._parameters.values()):
                    self._weighted.append((module, _given(model.dtype, module.forward)))

    def __enter__(self) -> Self:
        if self._first is not None:
            self._former = self._first.__dict__.get("forward")  # it may have rows that sleep
            self._first.forward = _given(torch.float32, self._first.forward)
        # Not as attributes: a module's own way to set and delete one takes some milliseconds a pass for all of them.
        for module, forward in self._weighted:
            module.__dict__["forward"] = forward
        return self

    def __exit__(self, *error: object) -> None:
        for module, _ in self._weighted:
            module.__dict__.pop("forward", None)
        if self._first is not None:
            restore(self._first, self._former)


def can_widen(model: Model) -> bool:
    """Whether a model is in half precision and its residual stream can be kept in float32."""
    return model.dtype in HALF and not any(is_foreign(module) for module in model.hf.modules())


def _given(dtype: torch.dtype, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that is given its first argument in a dtype, unless that is token ids."""

    def given(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            args = (args[0].to(dtype), *args[1:])
        return forward(*args, **kwargs)

    return given
