"""What rules are chosen and measured by: how often each latent is active with each token at each offset.

Knows blocks of active latents, and no model.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from bathyscope.sae.reading.passes import Block
from bathyscope.sae.reading.rules import WHERE, Agreement, Rule
from bathyscope.sae.reading.shapes import SHAPES

OFFSETS: Final = tuple(WHERE)
GATHERED: Final = 4_000_000
"""Pairs of latent and token that are gathered before equal ones are counted together."""


@dataclass
class Pairs:
    """How often each latent was active with each token, where that ever happened; at one offset.

    Args:
        n_tokens: size of the vocabulary.
        keys: latent times `n_tokens` plus token, ascending.
        counts: how often.
    """

    n_tokens: int
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    counts: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _waiting: list[Tensor] = field(default_factory=list)

    def add(self, latents: Tensor, tokens: Tensor) -> None:
        """Take in pairs; a token of -1 is none."""
        there = tokens >= 0
        self._waiting.append(latents[there] * self.n_tokens + tokens[there])
        if sum(map(len, self._waiting)) > GATHERED:
            self.settle()

    def settle(self) -> "Pairs":
        """Count what was taken in."""
        if self._waiting:
            new, counts = torch.cat(self._waiting).unique(return_counts=True)
            self.keys, place = torch.cat([self.keys, new]).unique(return_inverse=True)
            self.counts = torch.zeros_like(self.keys).index_add_(0, place, torch.cat([self.counts, counts]))
            self._waiting = []
        return self

    @property
    def latents(self) -> Tensor:
        """The latent of each pair."""
        return self.keys // self.n_tokens

    @property
    def tokens(self) -> Tensor:
        """The token of each pair."""
        return self.keys % self.n_tokens


@dataclass
class Counts:
    """Everything that rules are chosen by, of the documents to fit on.

    Args:
        n_latents: how many there are.
        n_tokens: size of the vocabulary.
        active: at how many positions each latent is active, (latents,).
        pairs: by offset, with which tokens.
        totals: by offset, at how many positions each token stands there, (tokens,).
    """

    n_latents: int
    n_tokens: int
    active: Tensor = field(init=False)
    pairs: dict[int, Pairs] = field(init=False)
    totals: dict[int, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.active = torch.zeros(self.n_latents, dtype=torch.int64)
        self.pairs = {offset: Pairs(self.n_tokens) for offset in OFFSETS}
        self.totals = {offset: torch.zeros(self.n_tokens, dtype=torch.int64) for offset in OFFSETS}

    def add(self, block: Block, latents: Tensor, places: Tensor) -> None:
        """Take in which latents are active where, (entries,)."""
        self.active += torch.bincount(latents, minlength=self.n_latents)
        for offset in OFFSETS:
            self.pairs[offset].add(latents, block.tokens(places, offset))
            self.totals[offset] += _totals(block, offset, self.n_tokens)

    def settle(self) -> None:
        """Count what was taken in."""
        for pairs in self.pairs.values():
            pairs.settle()


class Measuring:
    """How rules that are chosen already agree with latents, on documents that they were not chosen on.

    Args:
        rules: of each latent, or None.
        shapes: which shapes each token has, (tokens, shapes).
    """

    def __init__(self, rules: list[Rule | None], shapes: Tensor) -> None:
        self._rules, self._shapes, self._n_tokens = rules, shapes, len(shapes)
        n = len(rules)
        self._offset = torch.tensor([rule.offset if rule else 0 for rule in rules])
        names = list(SHAPES)
        self._shape = torch.tensor([names.index(rule.shape) if rule and rule.shape else -1 for rule in rules])
        keys = [latent * self._n_tokens + one for latent, rule in enumerate(rules) if rule for one in rule.tokens]
        self._keys = torch.tensor(sorted(keys) or [-1], dtype=torch.int64)
        self._hits, self._active = (torch.zeros(n, dtype=torch.int64) for _ in range(2))
        self._totals = {offset: torch.zeros(self._n_tokens, dtype=torch.int64) for offset in OFFSETS}

    def add(self, block: Block, latents: Tensor, places: Tensor) -> None:
        """Take in which latents are active where, (entries,)."""
        tokens = torch.empty_like(places)
        for offset in OFFSETS:
            looked = self._offset[latents] == offset
            tokens[looked] = block.tokens(places[looked], offset)
            self._totals[offset] += _totals(block, offset, self._n_tokens)
        holds = self._holds(latents, tokens)
        self._hits += torch.bincount(latents[holds], minlength=len(self._hits))
        self._active += torch.bincount(latents, minlength=len(self._active))

    def agreements(self) -> list[Agreement | None]:
        """Of each latent's rule; None where it has none."""
        found: list[Agreement | None] = []
        for latent, rule in enumerate(self._rules):
            if rule is None:
                found.append(None)
                continue
            totals = self._totals[rule.offset]
            chosen = self._shapes[:, self._shape[latent]] if rule.shape else torch.tensor(rule.tokens)
            found.append(Agreement(int(self._hits[latent]), int(totals[chosen].sum()), int(self._active[latent])))
        return found

    def _holds(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Whether each entry's rule holds there."""
        key = latents * self._n_tokens + tokens
        listed = self._keys[torch.searchsorted(self._keys, key).clamp_max(len(self._keys) - 1)] == key
        shape = self._shape[latents]
        shaped = self._shapes[tokens.clamp_min(0), shape.clamp_min(0)] & (shape >= 0)
        return (listed | shaped) & (tokens >= 0)


def shuffled(places: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The places of a block's entries after its positions have exchanged their codes."""
    order = rows[torch.randperm(len(rows), generator=generator)]
    return order[torch.searchsorted(rows, places)]


def _totals(block: Block, offset: int, n_tokens: int) -> Tensor:
    tokens = block.tokens(block.rows, offset)
    return torch.bincount(tokens[tokens >= 0], minlength=n_tokens)
