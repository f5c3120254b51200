"""Key-value caches: a prefix that many rows share, and rows with their room taken in advance.

The only file that knows the cache classes of transformers. Every layer keeps all its keys and values:
a sliding window is in the attention mask, so that a prefix can be shared whatever the family.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer
from typing_extensions import override

from bathyscope import attention
from bathyscope.architectures import Architecture
from bathyscope.errors import InterventionError

__all__ = ["Cache", "keep_rows", "prefix_cache", "row_bytes", "rows_cache", "set_length"]


class _RowsLayer(DynamicLayer):
    """One layer's keys and values of many rows, in a buffer with room for every token to come.

    A cache that grows by concatenation copies itself at every decoding step; this one never does. A
    pass over its first rows only leaves the others as they are.

    Args:
        rows: how many rows.
        capacity: columns that there is room for.
        start: the column that the next pass computes.
        known: keys and values that every row begins with, of one row.
        shared: whether what stands before `start` is kept once for all rows; attention must then be
            `attention.attend_shared`, which finds it on the keys.
    """

    def __init__(
        self, rows: int, capacity: int, start: int, known: tuple[Tensor, Tensor] | None, *, shared: bool = False
    ) -> None:
        super().__init__()
        # Masks and positions are made from the length before the first update.
        self.rows, self.capacity, self.length = rows, capacity, start
        self.first = start if shared else 0
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.buffers: tuple[Tensor, ...] = ()
        if known is not None:
            self.lazy_initialization(*known)
            for buffer, states in zip(self.buffers, known, strict=True):
                own = states[..., self.first :, :]
                buffer[..., : own.shape[-2], :] = own
            if self.first:
                keys, values = (states[0, :, : self.first].to(attention.PRECISION) for states in known)
                self.prefix = keys.transpose(-1, -2).contiguous(), values.contiguous()

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        del args, kwargs
        if not self.buffers:
            self.lazy_initialization(key_states, value_states)
        rows, stop = key_states.shape[0], self.length + key_states.shape[-2]
        own = slice(self.length - self.first, stop - self.first)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[:rows, :, own] = states
        self.length = stop
        keys, values = (buffer[:rows, :, : own.stop] for buffer in self.buffers)
        if self.prefix is not None:
            attention.attach_prefix(keys, self.prefix)
        return keys, values

    @override
    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        # Beside a shared prefix they are kept as attention computes with them, not converted at every step.
        dtype = attention.PRECISION if self.first else None
        self.buffers = tuple(
            states.new_empty(self.rows, states.shape[1], self.capacity - self.first, states.shape[-1], dtype=dtype)
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    @override
    def get_seq_length(self) -> int:
        return self.length


def prefix_cache() -> Cache:
    """An empty cache for a prefix that is run once."""
    return DynamicCache()


def rows_cache(
    n_layers: int, rows: int, capacity: int, *, known: Cache | None = None, start: int = 0, shared: bool = False
) -> Cache:
    """A cache for rows of up to `capacity` tokens.

    Args:
        n_layers: number of blocks.
        rows: how many rows.
        capacity: tokens that there is room for.
        known: a cache of one row whose keys and values every row begins with.
        start: the column that the next pass computes; `known` may reach further, and what it holds
            there stays in the rows and layers that the pass does not compute.
        shared: keep what stands before `start` once for all rows (inside `attention.sharing` only).
    """
    if known is None:
        return Cache(layers=[_RowsLayer(rows, capacity, start, None) for _ in range(n_layers)])
    layers = [layer for layer in known.layers if isinstance(layer, DynamicLayer)]
    return Cache(layers=[_RowsLayer(rows, capacity, start, _states(layer), shared=shared) for layer in layers])


def set_length(cache: Cache, length: int) -> None:
    """Say how many columns are known, in the layers that no row passed through as well."""
    for layer in cache.layers:
        if isinstance(layer, _RowsLayer):
            layer.length = length


def keep_rows(cache: Cache, rows: Tensor) -> None:
    """Let go of all other rows of a cache that `rows_cache` made."""
    for layer in cache.layers:
        if isinstance(layer, _RowsLayer):
            layer.buffers = tuple(buffer[rows] for buffer in layer.buffers)


def row_bytes(architecture: Architecture, dtype: torch.dtype, capacity: int) -> int:
    """Bytes that one row of `capacity` tokens takes in the cache."""
    return 2 * architecture.n_layers * architecture.n_kv_heads * architecture.d_head * capacity * dtype.itemsize


def _states(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    if layer.keys is None or layer.values is None:
        raise InterventionError("the shared prefix left no keys and values", "every block must fill the cache")
    return layer.keys, layer.values
