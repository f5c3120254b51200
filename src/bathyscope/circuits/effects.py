"""Effects of features on a logit difference, measured one at a time, in the clean run with one corrupted value."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.attribution.ranks import rank_correlation
from bathyscope.circuits.attributions import Attributions
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Feature, Parts, flat
from bathyscope.circuits.runs import measured, measured_at
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import read_starts, start_layer


@dataclass(frozen=True)
class Comparison:
    """Effects beside attributions.

    Args:
        features: which.
        attributions: mean over pairs.
        effects: mean over pairs of the clean run's logit difference less that with the corrupted value written.
        rank_correlation: Spearman's, of both; None where one of them is the same everywhere.
    """

    features: tuple[Feature, ...]
    attributions: tuple[float, ...]
    effects: tuple[float, ...]
    rank_correlation: float | None


def feature_effects(
    model: Model,
    examples: Examples,
    attributions: Attributions,
    features: Sequence[Feature],
    *,
    progress: Progress | None = None,
) -> Comparison:
    """Measure what features do, one at a time: each holds its corrupted value in the clean run.

    Args:
        model: the model.
        examples: the pairs.
        attributions: of the same pairs, and what each site is taken apart in.
        features: which; `attributions.top(50)` without their numbers, for example.
        progress: called with the features that are done and those there are.
    """
    if not features:
        raise UsageError("no feature was given", "at least one is needed")
    by_site: dict[Site, list[Feature]] = {}
    for one in features:
        by_site.setdefault(model.site(one.site), []).append(one)
    found: dict[Feature, float] = {}
    for site, ones in by_site.items():
        basis, layer = attributions.bases[site], start_layer(model, site)
        starts, read = read_starts(model, examples.clean, [layer], [site])
        _, other = read_starts(model, examples.corrupted, [EMBEDDING_LAYER], [site])
        x = flat(read[site], basis, site)
        change = basis.split(flat(other[site], basis, site)) - basis.split(x)
        clean = measured(model, examples.clean, examples.answers, starts[layer])
        for one in ones:
            value = x + _alone(basis, change, one)
            after = measured_at(model, examples.clean, examples.answers, site, value, starts[layer])
            found[one] = float((clean - after).mean())
            if progress is not None:
                progress(len(found), len(features))
    measures = [found[one] for one in features]
    estimated = [attributions.of(one) for one in features]
    return Comparison(tuple(features), tuple(estimated), tuple(measures), rank_correlation(estimated, measures))


def _alone(basis: Basis, change: Parts, feature: Feature) -> Tensor:
    """What one feature's change writes, (pairs, positions, width)."""
    if feature.index is None:
        only = torch.zeros_like(change.error)
        only[:, feature.position] = change.error[:, feature.position]
        return only
    own = slice(feature.index * basis.size, (feature.index + 1) * basis.size)
    only = torch.zeros_like(change.features)
    only[:, feature.position, own] = change.features[:, feature.position, own]
    return basis.written(only)
