"""Attention patterns of one prompt, under any attention: read where it makes them, else asked for.

Where attention never hands its probabilities out, values are written that say which key they belong to: what a head
mixes of them is its pattern. What attention then adds is put back, so that one pass asks every block. Knows no graphs.
"""

import torch
from torch import Tensor

from bathyscope.forward import Activations, capture, run
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site

ROWS = 8
"""Copies of the prompt in one pass, each of which asks for as many keys as a head is wide."""


def attention_patterns(model: Model, tokens: Tokens, read: Activations) -> list[Tensor]:
    """Attention probabilities of every block, each (n_heads, queries, keys).

    Args:
        model: the model.
        tokens: the prompt.
        read: `v` and `attn_out` of every block for that prompt.

    Example:
        >>> import bathyscope
        >>> from bathyscope.circuits.attribution_graphs.patterns import attention_patterns
        >>> model = bathyscope.load()
        >>> sites = [f"{name}.{layer}" for layer in range(30) for name in ("v", "attn_out")]
        >>> read = bathyscope.capture(model, "The keys", sites)
        >>> found = attention_patterns(model, model.tokenize("The keys"), read)
        >>> tuple(found[5].shape), bool((found[5].sum(-1) - 1).abs().max() < 1e-5)
        ((9, 2, 2), True)
    """
    layers = range(model.n_layers)
    if model.attention == "eager":
        sites = [Site("pattern", layer) for layer in layers]
        found = capture(model, tokens, sites)
        return [found[site][0].transpose(0, 1) for site in sites]
    n, width = len(tokens), read[Site("v", 0)][0].shape[-1]
    firsts = range(0, n, width)
    parts: list[list[Tensor]] = [[] for _ in layers]
    for start in range(0, len(firsts), ROWS):
        asked = firsts[start : start + ROWS]
        writes = [write for row, first in enumerate(asked) for write in _question(model, read, first, row)]
        sites = [Site("z", layer) for layer in layers]
        answered = run(model, [tokens] * len(asked), reads=sites, writes=writes, batch_size=ROWS).activations
        for layer, site in zip(layers, sites, strict=True):
            parts[layer] += answered[site]
    return [torch.cat(ones, -1)[..., :n].transpose(0, 1) for ones in parts]


def _question(model: Model, read: Activations, first: int, row: int) -> list[Write]:
    """Writes after which column i of a head's mixed values is what it takes from key `first` + i."""
    writes = []
    for layer in range(model.n_layers):
        values, added = (Site(name, layer) for name in ("v", "attn_out"))
        marked = torch.zeros_like(read[values][0])
        keys = range(first, min(first + marked.shape[-1], len(marked)))
        for column, key in enumerate(keys):
            marked[key, :, column] = 1
        writes += [Write(values, Replace(marked), row=row), Write(added, Replace(read[added][0]), row=row)]
    return writes
