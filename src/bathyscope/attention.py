"""Attention over a prefix that all rows share: one large product instead of a small one for each row.

The keys and values of the prefix are kept once. An attention function registered with transformers
finds them on the keys that the cache returns; without them it is transformers' own. Scores and sums
are float32 whatever the model's dtype.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from bathyscope.model import Model

NAME = "bathyscope_shared"

PRECISION = torch.float32
"""What scores and sums are computed in, and what keys and values of rows that share a prefix are kept in."""
_PREFIX = "_bathyscope_prefix"


def attach_prefix(keys: Tensor, prefix: tuple[Tensor, Tensor]) -> None:
    """Let keys that are about to be attended to carry what stands before them.

    Args:
        keys: (rows, n_kv_heads, own keys, d_head).
        prefix: keys, (n_kv_heads, d_head, prefix), and values, (n_kv_heads, prefix, d_head), in `PRECISION`.
    """
    setattr(keys, _PREFIX, prefix)


def can_share(model: Model) -> bool:
    """Whether a model's attention can be told to share: where it goes through transformers' interface, as sdpa."""
    coarser = model.dtype != torch.float64
    return coarser and model.attention == "sdpa" and model.architecture.attention_interface


@contextmanager
def sharing(model: Model, *, shared: bool = True) -> Iterator[None]:
    """Have a model attend with `attend_shared` inside a `with` block; without effect where not `shared`."""
    if not shared:
        yield
        return
    former = model.hf.config._attn_implementation
    model.hf.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.hf.config._attn_implementation = former


def attend_shared(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers' interface asks for it.

    Args:
        module: the attention module.
        query: (rows, n_heads, queries, d_head).
        key: (rows, n_kv_heads, own keys, d_head), with the prefix attached or not.
        value: as `key`.
        attention_mask: boolean or added, (rows or 1, 1, queries, prefix + own keys).
        dropout: 0.0; models are in evaluation mode.
        scaling: of the scores.
        kwargs: for transformers' own.

    Returns:
        The mixed values, (rows, queries, n_heads, d_head), and no weights.
    """
    prefix = getattr(key, _PREFIX, None)
    if prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    rows, n_heads, queries, d_head = query.shape
    n_kv_heads, shared = key.shape[1], prefix[0].shape[-1]
    scale = d_head**-0.5 if scaling is None else scaling
    grouped = (query.to(PRECISION) * scale).reshape(rows, n_kv_heads, -1, d_head)
    # All rows at once against the prefix: (n_kv_heads, rows x group x queries, d_head) with (d_head, prefix).
    gathered = grouped.transpose(0, 1).reshape(n_kv_heads, -1, d_head)
    before = torch.matmul(gathered, prefix[0])
    before = before.view(n_kv_heads, rows, -1, shared).transpose(0, 1)
    scores = torch.cat([before, torch.matmul(grouped, key.transpose(-1, -2))], -1)
    if attention_mask is not None:
        scores = _masked(scores.view(rows, n_heads, queries, -1), attention_mask).view_as(scores)
    weights = torch.softmax(scores, -1)
    over_prefix = weights[..., :shared].transpose(0, 1).reshape(n_kv_heads, -1, shared)
    mixed = torch.matmul(over_prefix, prefix[1]).view(n_kv_heads, rows, -1, d_head).transpose(0, 1)
    mixed = mixed + torch.matmul(weights[..., shared:], value)
    return mixed.reshape(rows, n_heads, queries, d_head).transpose(1, 2).to(query.dtype), None


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    mask = mask[..., : scores.shape[-1]]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


AttentionInterface.register(NAME, attend_shared)
AttentionMaskInterface.register(NAME, sdpa_mask)
