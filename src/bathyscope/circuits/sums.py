"""Sums: what the attributions of each site add up to, beside its measured total, and how well they rank.

Integrated gradients close as steps grow; one gradient, and one pass by the rules of relevance, need not come near.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.ranks import rank_correlation
from bathyscope.circuits.attributions import Attributions, one_pass_gradients
from bathyscope.circuits.effects import feature_effects
from bathyscope.circuits.ends import Ends
from bathyscope.generation import Progress
from bathyscope.sites import Site

QUANTILES = (0.1, 0.5, 0.9)
NEAR = 0.2
"""An attribution is near an effect that it misses by no more than this share of it."""


def site_sums(
    attributions: Attributions, *, effects: int = 0, progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """A record of each site, as JSON values.

    "total" is measured, "sum" is of all attributions, means over pairs; "gap" what the sum is off, as a share of the
    total, and "gap_q10" to "gap_q90" what pairs are. "one_gradient" and "relp" are the sums of these as shares of the
    total, "error_share" is what errors have of the sum.

    Args:
        attributions: of some sites.
        effects: of how many of a site's largest attributions the effect is measured; "rank_correlation" is then of the
            sizes of both (Spearman's), and "near" the share that is within a fifth of its effect.
        progress: called with the sites that are done and those there are.
    """
    single, relp = (
        one_pass_gradients(attributions.examples, attributions.sites, method)
        for method in ("attribution-patching", "relp")
    )
    for done, site in enumerate(attributions.sites, 1):
        sums, total = attributions.sums(site), attributions.totals[site]
        gaps = ((sums - total) / total.mean()).quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
        yield {
            "site": str(site),
            "total": float(total.mean()),
            "sum": float(sums.mean()),
            "gap": float(sums.mean() / total.mean() - 1),
            **{f"gap_q{100 * q:.0f}": gap for q, gap in zip(QUANTILES, gaps, strict=True)},
            "one_gradient": _share(attributions.ends[site], single[site], total),
            "relp": _share(attributions.ends[site], relp[site], total),
            "error_share": attributions.error_share(site),
            **(_ranked(attributions, site, effects) if effects else {}),
        }
        if progress is not None:
            progress(done, len(attributions.sites))


def _share(ends: Ends, gradients: Tensor, total: Tensor) -> float:
    """What gradients say that the whole change does, as a share of what it does: of features no need, it is linear."""
    return float((gradients * (ends.clean - ends.other)).double().sum() / total.sum())


def _ranked(attributions: Attributions, site: Site, n: int) -> dict[str, Any]:
    """How the largest attributions of a site compare with effects."""
    compared = feature_effects(attributions, [one for one, _ in attributions.top(n, [site])])
    estimates, measures = compared.attributions, compared.effects
    return {
        "effects": len(measures),
        "rank_correlation": rank_correlation(_sizes(estimates), _sizes(measures)),
        "near": sum(abs(one - other) <= NEAR * abs(other) for one, other in zip(estimates, measures, strict=True))
        / len(measures),
    }


def _sizes(values: Sequence[float]) -> list[float]:
    return [abs(one) for one in values]
