"""Examples: for each latent the few positions that rank highest, each with what stands around it, kept as text streams.

What is kept does not depend on how the text is cut into blocks: it is what one would find by sorting everything.
Knows blocks of active latents, and neither models nor coders.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.sae.reading.passes import Block, Entries

SAME: Final = 8
"""Contexts whose last so many tokens are the same, the one that ranks included, are one context."""


@dataclass(frozen=True)
class Examples:
    """Positions of each latent, the first rank first.

    Args:
        places: in the text of all windows, (latents, examples); -1 where there are fewer.
        values: how active the latent is there, (latents, examples).
        scores: what they are ranked by, (latents, examples).
        contexts: how active it is around there, (latents, examples, context); 0 outside the window and at sinks.
        before: how many tokens of a context stand before its place.
    """

    places: Tensor
    values: Tensor
    scores: Tensor
    contexts: Tensor
    before: int

    def __getitem__(self, rows: Tensor) -> "Examples":
        return Examples(self.places[rows], self.values[rows], self.scores[rows], self.contexts[rows], self.before)

    def in_parts(self, parts: int, each: int) -> "Examples":
        """A few of each part of the values, the largest first: quantile samples of what is a random sample.

        Args:
            parts: as many equal parts, by value.
            each: at most so many are taken of each.
        """
        rows = len(self.places)
        order = torch.where(self.places >= 0, self.values, -1.0).argsort(dim=1, descending=True, stable=True)
        n_there = (self.places >= 0).sum(1, keepdim=True)
        steps = (torch.arange(parts * each) + 0.5) / (parts * each)
        # Of fewer than are asked for, each is taken once.
        taken = torch.where(
            n_there >= parts * each, (steps * n_there).long(), torch.arange(parts * each).expand(rows, -1)
        )
        missing = taken >= n_there
        chosen = order.gather(1, taken.clamp_max(order.shape[1] - 1))
        row = torch.arange(rows)[:, None]
        return Examples(
            self.places[row, chosen].masked_fill(missing, -1),
            self.values[row, chosen].masked_fill(missing, 0.0),
            self.scores[row, chosen].masked_fill(missing, -torch.inf),
            self.contexts[row, chosen].masked_fill(missing[..., None], 0.0),
            self.before,
        )


class Best:
    """Keeps for each latent the entries of highest score: one a window and one of each context, unless said.

    Takes 4 x `n` x (`before` + `after` + 7) bytes a latent, however long the text.

    Args:
        n_latents: how many latents there are.
        n: how many entries are kept of each.
        before, after: how much of what stands around them is kept.
        distinct: whether a window gives one at most, and contexts that are the same are one. A sample of all entries
            is one of those that are left only where nothing is left out.
    """

    def __init__(self, n_latents: int, n: int, before: int, after: int, *, distinct: bool = True) -> None:
        self.n, self.before, self.after, self.distinct = n, before, after, distinct
        self.places = torch.full((n_latents, n), -1)
        self.keys = torch.zeros((n_latents, n), dtype=torch.int64)
        self.values, self.scores = torch.zeros(n_latents, n), torch.full((n_latents, n), -torch.inf)
        self.contexts = torch.zeros(n_latents, n, before + 1 + after)

    def add(self, block: Block, entries: Entries) -> None:
        """Take in a block.

        Args:
            block: what was read.
            entries: its active latents, with the scores that these examples are ranked by.
        """
        better = entries[entries.scores > self.scores[entries.latents, -1]]
        if not len(better):
            return
        if self.distinct:
            window = block.windows(better.places)
            better = better[_first_of_each(better.latents * len(block.starts) + window, better.scores)]
        keys = _context_keys(block, better) if self.distinct else _mixed(_mixed(better.latents) + better.places)
        touched = better.latents.unique()
        row, rank = (self.places[touched] >= 0).nonzero(as_tuple=True)
        kept = touched[row]
        latents = torch.cat([kept, better.latents])
        scores = torch.cat([self.scores[kept, rank], better.scores])
        order = _best_of_each(latents, torch.cat([self.keys[kept, rank], keys]), scores, self.n)
        slots = ranks(latents[order])
        self._rewrite(block, entries, better, keys, (kept, rank), order, slots, touched)

    def examples(self) -> Examples:
        """What is kept."""
        return Examples(self.places, self.values, self.scores, self.contexts, self.before)

    def _rewrite(
        self,
        block: Block,
        entries: Entries,
        new: Entries,
        keys: Tensor,
        old: tuple[Tensor, Tensor],
        order: Tensor,
        slots: Tensor,
        touched: Tensor,
    ) -> None:
        """Put what was chosen, of what was there and what is new, in the places of the latents that it concerns."""
        n_old = len(old[0])
        is_old = order < n_old
        stay, come = order[is_old], order[~is_old] - n_old
        was = old[0][stay], old[1][stay]
        moved = {name: getattr(self, name)[was] for name in ("places", "keys", "values", "scores", "contexts")}
        self.places[touched], self.scores[touched] = -1, -torch.inf
        self.values[touched], self.keys[touched], self.contexts[touched] = 0.0, 0, 0.0
        arrived = {
            "places": new.places[come],
            "keys": keys[come],
            "values": new.values[come],
            "scores": new.scores[come],
            "contexts": _contexts(block, entries, new[come], self.before, self.after),
        }
        for name in moved:
            kept = getattr(self, name)
            kept[was[0], slots[is_old]] = moved[name]
            kept[new.latents[come], slots[~is_old]] = arrived[name]


def at_random(entries: Entries, seed: int) -> Entries:
    """The same entries, each with a score of its own that nothing but its latent, its place and the seed decide."""
    mixed = _mixed(_mixed(entries.latents * 0x632BE5AB + seed) + entries.places)
    return Entries(entries.latents, entries.places, entries.values, (mixed & (2**52 - 1)).double().div(2**52).float())


def _contexts(block: Block, entries: Entries, around: Entries, before: int, after: int) -> Tensor:
    """How active each entry's latent is around it, (entries, context)."""
    places = around.places[:, None] + torch.arange(-before, after + 1)
    window = block.windows(around.places)[:, None]
    inside = (places >= block.starts[window]) & (places < block.starts[window + 1])
    span = len(block.ids)
    known, order = (entries.latents * span + entries.places - block.first).sort()
    if not len(known):
        return torch.zeros(places.shape)
    wanted = around.latents[:, None] * span + (places - block.first)
    found = torch.searchsorted(known, wanted).clamp_max(len(known) - 1)
    return torch.where(inside & (known[found] == wanted), entries.values[order[found]], 0.0)


def _context_keys(block: Block, entries: Entries) -> Tensor:
    """A number for each latent and context; equal ones are the same context, but for one chance in 2**64."""
    keys = _mixed(entries.latents)
    for offset in range(-SAME + 1, 1):
        keys = _mixed(keys + block.tokens(entries.places, offset) + 1)
    return keys


def _mixed(x: Tensor) -> Tensor:
    """Numbers spread over all of int64 (splitmix64's finishing steps, with shifts that keep the sign)."""
    x = x + -7046029254386353131
    x = (x ^ (x >> 30)) * -4658895280553007687
    x = (x ^ (x >> 27)) * -7723592293110705685
    return x ^ (x >> 31)


def _first_of_each(groups: Tensor, scores: Tensor) -> Tensor:
    """Where the highest score of each group is, the first of equal ones; ascending."""
    order = scores.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    return order[ranks(groups[order]) == 0].sort().values


def _best_of_each(latents: Tensor, keys: Tensor, scores: Tensor, n: int) -> Tensor:
    """Where the `n` highest scores of each latent are, one of each key; by latent, then by score."""
    distinct = _first_of_each(keys, scores)
    order = distinct[scores[distinct].argsort(descending=True, stable=True)]
    order = order[latents[order].argsort(stable=True)]
    return order[ranks(latents[order]) < n]


def ranks(groups: Tensor) -> Tensor:
    """How many of the same group stand before each, of groups that stand together."""
    index = torch.arange(len(groups))
    begins = torch.ones(len(groups), dtype=torch.bool)
    begins[1:] = groups[1:] != groups[:-1]
    return index - torch.where(begins, index, 0).cummax(0).values if len(groups) else index
