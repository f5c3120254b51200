"""Effects of features on a logit difference, measured one at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

from bathyscope.attribution.ranks import rank_correlation
from bathyscope.circuits.attributions import Attributions
from bathyscope.circuits.features import Feature
from bathyscope.circuits.runs import measured, measured_at
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.sites import Site
from bathyscope.starts import read_starts, start_layer


@dataclass(frozen=True)
class Comparison:
    """Effects beside attributions.

    Args:
        features: which.
        attributions: mean over pairs.
        effects: mean over pairs of the clean run's logit difference less that with the other end's value written.
        rank_correlation: Spearman's, of both; None where one of them is the same everywhere.
    """

    features: tuple[Feature, ...]
    attributions: tuple[float, ...]
    effects: tuple[float, ...]
    rank_correlation: float | None


def feature_effects(
    attributions: Attributions, features: Sequence[Feature], *, progress: Progress | None = None
) -> Comparison:
    """Measure what features do in the clean run, one at a time: each holds its value at the attributions' other end.

    Args:
        attributions: of which pairs, against what, and what each site is taken apart in.
        features: which; `attributions.top(50)` without their numbers, for example.
        progress: called with the features that are done and those there are.
    """
    if not features:
        raise UsageError("no feature was given", "at least one is needed")
    examples = attributions.examples
    model = examples.model
    by_site: dict[Site, list[Feature]] = {}
    for one in features:
        by_site.setdefault(model.site(one.site), []).append(one)
    found: dict[Feature, float] = {}
    for site, ones in by_site.items():
        ends, layer = attributions.ends[site], start_layer(model, site)
        start = read_starts(model, examples.clean, [layer])[0][layer]
        clean = measured(model, examples.clean, examples.answers, start)
        for one, written in zip(ones, ends.written(ones).unbind(1), strict=True):
            value = ends.clean.clone()
            value[:, one.position] -= written
            after = measured_at(model, examples.clean, examples.answers, site, value, start)
            found[one] = float((clean - after).mean())
            if progress is not None:
                progress(len(found), len(features))
    measures = [found[one] for one in features]
    estimated = [attributions.of(one) for one in features]
    return Comparison(tuple(features), tuple(estimated), tuple(measures), rank_correlation(estimated, measures))
