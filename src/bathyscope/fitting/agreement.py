"""How far the read-outs of a linear lens agree with what the model itself says, beside those of the logit lens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.fitting.sinks import usable
from bathyscope.forward import capture
from bathyscope.mappings import Term
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site

POSITIONS: Final = 500
"""Positions that are enough to tell lenses apart, and take seconds a layer less than a fit."""


def agreement(
    model: Model,
    windows: Iterable[Tokens],
    terms: Mapping[tuple[Site, Site], Term],
    *,
    ahead: int = 0,
    first: int = 1,
    n_positions: int = POSITIONS,
) -> dict[str, dict[str, float]]:
    """Compare read-outs with the model's own next-token distribution, exactly.

    Args:
        model: the model.
        windows: text that the lens was not fitted on.
        terms: what stands between each source site and the last block's output.
        ahead: compare with what the model says so many tokens later.
        first: the first position of a window that counts; attention sinks never do.
        n_positions: at most so many.

    Returns:
        For each pair of sites, "SOURCE>TARGET": "kl" of the read-out from the model's distribution in nats,
        "precision_at_1", the share of positions where both have the same likeliest token, the same two of the logit
        lens ("logit_lens_kl", "logit_lens_precision_at_1"), and "n", the number of positions.

    Raises:
        UsageError: no window has such a position.
    """
    last = Site("resid_post", model.n_layers - 1)
    tallies = {pair: _Tally() for pair in terms}
    room = n_positions
    for window in windows:
        read = capture(model, window, [*{last, *(source for source, _ in terms)}])
        final = read[last][0]
        kept = torch.arange(first, len(window) - ahead, device=final.device)
        kept = kept[usable(final).to(final.device)[kept]][:room] if len(kept) else kept
        if not len(kept):
            continue
        with torch.no_grad():
            own = log_probabilities(model.unembed(final[kept + ahead]))
            for (source, target), term in terms.items():
                state = read[source][0][kept]
                lens = model.unembed(term.apply(state).to(state))
                tallies[source, target].add(own, lens, model.unembed(state))
        room -= len(kept)
        if not room:
            break
    if room == n_positions:
        raise UsageError(
            f"the held-out text has no position from {first} on, {ahead} before the end of a window",
            "text to measure the fit on is needed",
            "more text",
        )
    return {f"{source}>{target}": tally.means() for (source, target), tally in tallies.items()}


@dataclass
class _Tally:
    """Sums over positions."""

    n: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, own: Tensor, lens: Tensor, plain: Tensor) -> None:
        """Compare logits, (positions, d_vocab), with the model's own log probabilities."""
        self.n += len(own)
        for name, logits in (("", lens), ("logit_lens_", plain)):
            for what, values in zip(("kl", "precision_at_1"), kl_and_hits(own, logits), strict=True):
                self.sums[name + what] = self.sums.get(name + what, 0.0) + float(values.sum())

    def means(self) -> dict[str, float]:
        """Per position."""
        return {**{name: total / self.n for name, total in self.sums.items()}, "n": self.n}


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax, in float32 or finer, (..., d_vocab)."""
    return logits.to(torch.promote_types(torch.float32, logits.dtype)).log_softmax(-1)


def kl_and_hits(own: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """KL(own || read-out) in nats, and whether the likeliest token is the same.

    Args:
        own: log probabilities, (..., d_vocab).
        logits: of the read-out, (..., d_vocab).

    Returns:
        Two tensors, (...).
    """
    # Of two log-softmaxes, so that rounding leaves nothing where both are the same.
    kl = (own.exp() * (own - log_probabilities(logits))).sum(-1)
    return kl, logits.argmax(-1) == own.argmax(-1)
