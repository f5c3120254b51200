"""Choosing a rule for each latent: the simplest of those that fit about as well as the best.

Of sets of at most so many tokens the one of highest F1 is found exactly, for all latents at once. F1 is
2 hits / (active + fires), and hits / (active + fires) is at least x just where hits - x fires is at least
x active: so the best set for x is that of the largest hits - x fires, and x is raised until it stays
(Dinkelbach 1967). Knows counts only.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.sae.reading.examples import ranks
from bathyscope.sae.reading.rule_counts import OFFSETS, Counts
from bathyscope.sae.reading.rules import Agreement, Rule
from bathyscope.sae.reading.shapes import SHAPES

SIZES: Final = (1, 3, 8)
"""How many tokens a set may have, the simplest first."""

SEEN: Final = 2
"""A token is in a set only if the latent was active with it so often: once is no rule."""

SLACK: Final = 0.02
"""By how much a simpler rule's F1 may be below the best."""


@dataclass(frozen=True)
class Candidates:
    """One rule for each latent, all of one kind.

    Args:
        offset: where they look.
        size: tokens that a set may have; 0 for a shape.
        hits, fires: of each latent's, (latents,).
        chosen: the sets as pairs of latent and token, (pairs, 2); or of latent and shape.
    """

    offset: int
    size: int
    hits: Tensor
    fires: Tensor
    chosen: Tensor


def choose_rules(counts: Counts, shapes: Tensor) -> list[tuple[Rule, Agreement] | None]:
    """A rule for each latent, with how it agrees where it was chosen; None for a latent that no rule ever hits.

    Args:
        counts: of the documents to fit on, settled.
        shapes: which shapes each token has, (tokens, shapes).
    """
    candidates = [best_shapes(counts, shapes)]
    candidates += [best_sets(counts, offset, size) for size in SIZES for offset in OFFSETS]
    scores = torch.stack([2 * one.hits / (counts.active + one.fires).clamp_min(1) for one in candidates])
    good = scores >= scores.amax(0) - SLACK
    first = good.to(torch.uint8).argmax(0)  # the first of equal ones is the simplest
    found: list[tuple[Rule, Agreement] | None] = [None] * counts.n_latents
    for number, one in enumerate(candidates):
        members: dict[int, list[int]] = {}
        for latent, member in one.chosen[first[one.chosen[:, 0]] == number].tolist():
            members.setdefault(latent, []).append(member)
        for latent, chosen in members.items():
            rule = Rule(one.offset, tuple(chosen)) if one.size else Rule(0, shape=list(SHAPES)[chosen[0]])
            agreement = Agreement(int(one.hits[latent]), int(one.fires[latent]), int(counts.active[latent]))
            found[latent] = (rule, agreement)
    return found


def best_sets(counts: Counts, offset: int, size: int) -> Candidates:
    """For each latent the set of at most `size` tokens at an offset that has the highest F1."""
    pairs, totals = counts.pairs[offset], counts.totals[offset]
    often = pairs.counts >= SEEN
    latents, tokens, hits = pairs.latents[often], pairs.tokens[often], pairs.counts[often]
    fires, least = totals[tokens], torch.zeros(counts.n_latents, dtype=torch.float64)
    chosen = torch.zeros(0, dtype=torch.int64)
    while True:
        gains = hits.double() - least[latents] * fires
        order = gains.argsort(descending=True, stable=True)
        order = order[latents[order].argsort(stable=True)]
        better = order[(ranks(latents[order]) < size) & (gains[order] > 0)]
        all_hits, all_fires = (_sums(latents[better], one[better], counts.n_latents) for one in (hits, fires))
        reached = all_hits.double() / (counts.active + all_fires).clamp_min(1)
        if not bool((reached > least + 1e-12).any()):
            # What has no gain left at what was reached stays as it was found.
            chosen = better if not len(chosen) else chosen
            break
        chosen, least = better, reached
    all_hits, all_fires = (_sums(latents[chosen], one[chosen], counts.n_latents) for one in (hits, fires))
    return Candidates(offset, size, all_hits, all_fires, torch.stack([latents[chosen], tokens[chosen]], 1))


def best_shapes(counts: Counts, shapes: Tensor) -> Candidates:
    """For each latent the shape of its own token that has the highest F1."""
    pairs, n = counts.pairs[0], len(SHAPES)
    hits = torch.zeros(counts.n_latents, n, dtype=torch.int64)
    hits.index_add_(0, pairs.latents, pairs.counts[:, None] * shapes[pairs.tokens])
    fires = (counts.totals[0][:, None] * shapes).sum(0)
    best = (2 * hits / (counts.active[:, None] + fires).clamp_min(1)).argmax(1)
    latent = torch.arange(counts.n_latents)
    hit = hits[latent, best]
    chosen = torch.stack([latent, best], 1)[hit > 0]
    return Candidates(0, 0, hit, torch.where(hit > 0, fires[best], 0), chosen)


def _sums(latents: Tensor, values: Tensor, n_latents: int) -> Tensor:
    return torch.zeros(n_latents, dtype=torch.int64).index_add_(0, latents, values)
