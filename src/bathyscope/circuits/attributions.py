"""Attributions of features: what gradients say of the effect of each on a logit difference, for all at once.

At a site, what a feature holds in the clean run is compared with what it holds in the corrupted one. Its attribution is
that change times the metric's gradient by what the feature writes: in the clean run (attribution patching), there by
other rules (RelP, arXiv 2508.21258), or averaged on the straight way between the runs (integrated gradients, arXiv
2403.19647). A straight way of features and error is
that of the activation itself, so that one gradient a site and step serves every basis.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Feature, flat
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.runs import gradients_at, totals
from bathyscope.engine import Stop
from bathyscope.engine.events import CancelledError
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.relevance import relevance
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import Start, read_starts, start_layer

Method = Literal["integrated-gradients", "relp", "attribution-patching"]
STEPS = 8


@dataclass(frozen=True, eq=False)
class Attributions:
    """Attributions of every feature, by pair and position: positive where the clean value helps the answer.

    Args:
        method: how they were found.
        examples: on which pairs.
        bases: what each site was taken apart in.
        by_site: (pairs, positions, n_features + 1), the last entry the error's.
        gradients: by each site, (pairs, positions, width): what the attributions are made of.
        totals: each pair's clean less corrupted logit difference, measured, (pairs,), float64.
        seconds: they took.
    """

    method: Method
    examples: Examples
    bases: Mapping[Site, Basis]
    by_site: Mapping[Site, Tensor]
    gradients: Mapping[Site, Tensor]
    totals: Tensor
    seconds: float

    def mean(self, site: Site) -> Tensor:
        """Over pairs, (positions, n_features + 1)."""
        return self.by_site[site].mean(0)

    def of(self, feature: Feature) -> float:
        """A feature's mean over pairs."""
        index = -1 if feature.index is None else feature.index
        return float(self.mean(Site.parse(feature.site))[feature.position, index])

    def sums(self, site: Site) -> Tensor:
        """What all features and errors of a site add up to in each pair, (pairs,), float64.

        Of the residual stream this is the pair's total as steps grow, since nothing goes past it; of other sites it
        is no such thing.
        """
        return self.by_site[site].double().sum((1, 2))

    def error_share(self, site: Site) -> float:
        """What share of a site's mean sum is the errors'."""
        whole = self.mean(site).double()
        return float(whole[:, -1].sum() / whole.sum())

    def top(self, n: int, sites: Sequence[Site] | None = None, *, errors: bool = True) -> list[tuple[Feature, float]]:
        """The features of the largest mean attributions, of either sign, with these.

        Args:
            n: how many.
            sites: of which sites; None for all.
            errors: whether errors are among them.
        """
        found: list[tuple[Feature, float]] = []
        for site in self.by_site if sites is None else sites:
            mean = self.mean(site) if errors else self.mean(site)[:, :-1]
            flat = mean.flatten()
            for place in flat.abs().topk(min(n, int((flat != 0).sum()))).indices.tolist():
                position, index = divmod(place, mean.shape[1])
                is_error = index == self.bases[site].n_features
                found.append((Feature(str(site), position, None if is_error else index), float(flat[place])))
        return sorted(found, key=lambda one: (-abs(one[1]), one[0].site, one[0].position))[:n]


def feature_attributions(
    model: Model,
    examples: Examples,
    bases: Mapping[Site, Basis] | Mapping[Site | str, Basis],
    *,
    method: Method = "integrated-gradients",
    steps: int = STEPS,
    kept: Kept | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Attributions:
    """Attribute the difference between the runs to every feature of some sites, each site on its own.

    Args:
        model: the model.
        examples: pairs of one length.
        bases: what each site is taken apart in.
        method: integrated gradients, or in the clean run one gradient, or one by the rules of relevance (RelP).
        steps: points between the runs, at the middles of equal steps.
        kept: where finished sites' gradients are kept, for going on after a stop.
        progress: called with the sites that are done and those there are.
        stop: looked at between sites.

    Raises:
        UsageError: no site, no step, a basis of another width.
        CancelledError: `stop` said so.
    """
    began = time.perf_counter()
    by_site = {model.site(site): basis for site, basis in bases.items()}
    _check(by_site, method, steps)
    layers = {site: start_layer(model, site) for site in by_site}
    clean, read = read_starts(model, examples.clean, list(layers.values()), list(by_site))
    _, read_corrupted = read_starts(model, examples.corrupted, [EMBEDDING_LAYER], list(by_site))
    found: dict[Site, Tensor] = {}
    gradients: dict[Site, Tensor] = {}
    for done, (site, basis) in enumerate(by_site.items()):
        if stop is not None and (stop.now or stop.soon):
            raise CancelledError("the attributions were stopped", f"{done} of {len(by_site)} sites are done")
        end, start = (flat(one[site], basis, site) for one in (read, read_corrupted))
        find = partial(_mean_gradient, model, examples, site, (start, end), clean[layers[site]], method, steps)
        gradient = find() if kept is None else kept.tensor(f"gradient {site}", find)
        found[site] = basis.attributions(gradient, basis.split(end) - basis.split(start))
        gradients[site] = gradient
        if progress is not None:
            progress(done + 1, len(by_site))
    whole = totals(model, examples)
    return Attributions(method, examples, by_site, found, gradients, whole, time.perf_counter() - began)


def attributions_in(model: Model, attributions: Attributions, bases: Mapping[Site | str, Basis]) -> Attributions:
    """The same sites' attributions in other bases, of the same gradients: no pass but two to read activations.

    Args:
        model: the model.
        attributions: those that are known.
        bases: what each site is taken apart in now; no other sites than there are attributions of.

    Raises:
        UsageError: another site, or a basis of another width.
    """
    began = time.perf_counter()
    by_site = {model.site(site): basis for site, basis in bases.items()}
    if strange := [site for site in by_site if site not in attributions.gradients]:
        known = ", ".join(map(str, attributions.gradients))
        raise UsageError(f"attributions at {strange[0]} were asked for", f"gradients are known at {known}")
    examples = attributions.examples
    clean, corrupted = (
        read_starts(model, rows, [EMBEDDING_LAYER], list(by_site))[1] for rows in (examples.clean, examples.corrupted)
    )
    found = {}
    for site, basis in by_site.items():
        end, start = (basis.split(flat(one[site], basis, site)) for one in (clean, corrupted))
        found[site] = basis.attributions(attributions.gradients[site], end - start)
    gradients = {site: attributions.gradients[site] for site in by_site}
    seconds = time.perf_counter() - began
    return Attributions(attributions.method, examples, by_site, found, gradients, attributions.totals, seconds)


def _mean_gradient(
    model: Model, examples: Examples, site: Site, ends: tuple[Tensor, Tensor], start: Start, method: Method, steps: int
) -> Tensor:
    """The metric's gradient by a site, (pairs, positions, width): in the clean run, or the mean on the way."""
    corrupted, clean = ends
    if method == "attribution-patching":
        return gradients_at(model, examples.clean, examples.answers, site, clean, start)[1]
    if method == "relp":
        with relevance(model, model.n_layers - 1 - start.layer):
            return gradients_at(model, examples.clean, examples.answers, site, clean, start)[1]
    shares = (torch.arange(steps) + 0.5) / steps
    n = len(examples)
    rows = torch.arange(n).repeat(steps)
    values = torch.lerp(corrupted[rows], clean[rows], shares.repeat_interleave(n)[:, None, None].to(clean))
    _, found = gradients_at(
        model, examples.clean * steps, examples.answers.repeat(steps, 1), site, values, start.rows(rows)
    )
    return found.unflatten(0, (steps, n)).mean(0)


def _check(bases: Mapping[Site, Basis], method: str, steps: int) -> None:
    if not bases:
        raise UsageError("no site was given", "a basis for at least one", '{"resid_post.12": Latents(coder)}')
    if method not in get_args(Method):
        raise UsageError(f"method={method!r} was given", f"it is one of {', '.join(get_args(Method))}")
    if steps < 1:
        raise UsageError(f"{steps} steps were asked for", "at least 1", "steps=8")
