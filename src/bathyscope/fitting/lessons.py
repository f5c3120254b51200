"""Lessons: what a model goes on to say after many prefixes, with the representation that stood at each one's end."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.batches import Batch
from bathyscope.errors import UsageError
from bathyscope.fitting.sinks import usable
from bathyscope.hooks import Hooks
from bathyscope.model import Model, Tokens
from bathyscope.sites import residual_site
from bathyscope.texts import Texts, windows

ROWS: Final = 32
"""Prefixes that are read together."""

SHORTEST: Final = 4
"""Tokens of the shortest prefix."""


@dataclass(frozen=True)
class Lessons:
    """What is to be repeated from a representation alone.

    Args:
        states: the representation at the end of each prefix, (n, d_model).
        ids: the tokens that the model itself writes after it, greedily, (n, n_ahead).
        hidden: what the unembedding was given after the prefix and after each of those tokens,
            (n, n_ahead + 1, width).
    """

    states: Tensor
    ids: Tensor
    hidden: Tensor

    def __len__(self) -> int:
        return len(self.states)

    def some(self, chosen: Tensor | slice) -> "Lessons":
        """Some of them."""
        return Lessons(self.states[chosen], self.ids[chosen], self.hidden[chosen])

    def others(self) -> "Lessons":
        """The same continuations with each other's representations: nothing can be learned from them but habits."""
        return Lessons(self.states.roll(1, 0), self.ids, self.hidden)


def lessons(
    model: Model,
    texts: Texts,
    *,
    layer: int,
    n_ahead: int,
    n_positions: int,
    length: int,
    seed: int,
    tick: Callable[[int], None],
) -> Lessons:
    """Let the model go on from prefixes of random length, one of each window of a text.

    Args:
        model: the model.
        texts: what is read.
        layer: where the representation is read.
        n_ahead: tokens that are written after each prefix.
        n_positions: prefixes; where there are fewer windows, as many.
        length: tokens of the longest prefix.
        seed: decides how long each prefix is.
        tick: called with the prefixes that were read, after each batch.

    Raises:
        UsageError: the text has not two windows.
    """
    found: list[Lessons] = []
    prefixes = _prefixes(model, texts, length, random.Random(seed))
    left = n_positions
    while rows := list(islice(prefixes, min(ROWS, left))):
        found.append(_read(model, rows, layer, n_ahead))
        left -= len(found[-1])
        tick(len(rows))
    n = sum(map(len, found))
    if n < 2:
        raise UsageError(f"the text has {n} windows of {length} tokens", "at least 2 are needed", "more text")
    return Lessons(*(torch.cat(parts) for parts in zip(*((a.states, a.ids, a.hidden) for a in found), strict=True)))


def _prefixes(model: Model, texts: Texts, length: int, draw: random.Random) -> Iterator[Tokens]:
    for window in windows(model, texts, length=length):
        if len(window) > SHORTEST:
            yield Tokens("", window.ids[: draw.randint(SHORTEST, len(window))], ())


def _read(model: Model, rows: Sequence[Tokens], layer: int, n_ahead: int) -> Lessons:
    """Lessons of some prefixes; those that end in an attention sink are left out."""
    site = residual_site(layer)
    cache = kv.rows_cache(model.n_layers, len(rows), max(map(len, rows)) + n_ahead)
    batch = Batch(model, rows, cache=cache)
    with torch.no_grad():
        with Hooks(model, batch.window, reads=[site]) as hooks:
            hidden = [batch.last()]
        hooks.check()
        read = hooks.activations(site)
        ids = []
        for _ in range(n_ahead):
            ids.append(model.choose(hidden[-1]))
            batch.advance()
            hidden.append(batch.last(ids[-1][:, None]))
    kept = torch.tensor([bool(usable(residual)[-1]) for residual in read], device=read[0].device)
    states = torch.stack([residual[-1] for residual in read])
    written = torch.stack(ids, 1) if ids else torch.empty(len(rows), 0, dtype=torch.long, device=kept.device)
    return Lessons(states[kept], written[kept], torch.stack(hidden, 1)[kept])
