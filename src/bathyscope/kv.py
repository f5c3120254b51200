"""Key-value caches: a prefix that many rows share, and rows with their room taken in advance.

The only file that knows the cache classes of transformers. Every layer keeps all its keys and values:
a sliding window is in the attention mask, so that a prefix can be shared whatever the family.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from bathyscope.architectures import Architecture

__all__ = ["Cache", "prefix_cache", "row_bytes", "rows_cache"]


class _RowsLayer(DynamicLayer):
    """One layer's keys and values in a buffer with room for every token to come.

    A cache that grows by concatenation copies itself at every decoding step; this one never does.
    """

    def __init__(self, capacity: int, prefix: tuple[Tensor, Tensor] | None) -> None:
        super().__init__()
        self.capacity, self.prefix, self.length = capacity, prefix, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = self.length + key_states.shape[-2]
        self.keys[..., self.length : stop, :] = key_states
        self.values[..., self.length : stop, :] = value_states
        self.length = stop
        return self.keys[..., :stop, :], self.values[..., :stop, :]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        rows, heads = key_states.shape[:2]
        self.keys = key_states.new_empty(rows, heads, self.capacity, key_states.shape[-1])
        self.values = value_states.new_empty(rows, heads, self.capacity, value_states.shape[-1])
        if self.prefix is not None:
            shared = self.prefix[0].shape[-2]
            self.keys[..., :shared, :], self.values[..., :shared, :] = self.prefix
        self.is_initialized = True

    def get_seq_length(self) -> int:
        return self.length


def prefix_cache() -> Cache:
    """An empty cache for a prefix that is run once."""
    return DynamicCache()


def rows_cache(n_layers: int, capacity: int, prefix: Cache | None = None) -> Cache:
    """A cache for rows of up to `capacity` tokens, which all begin with `prefix` (one row) if it is given."""
    layers = []
    for index in range(n_layers):
        if prefix is None:
            layers.append(_RowsLayer(capacity, None))
            continue
        keys, values = prefix.layers[index].keys, prefix.layers[index].values
        assert isinstance(keys, Tensor) and isinstance(values, Tensor)
        layer = _RowsLayer(capacity, (keys, values))
        # The length counts from the start: masks and positions are made from it before the first update.
        layer.length = keys.shape[-2]
        layers.append(layer)
    return Cache(layers=layers)


def row_bytes(architecture: Architecture, dtype: torch.dtype, capacity: int) -> int:
    """Bytes that one row of `capacity` tokens takes in the cache."""
    return 2 * architecture.n_layers * architecture.n_kv_heads * architecture.d_head * capacity * dtype.itemsize
