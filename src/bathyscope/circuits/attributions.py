"""Attributions of features: what gradients say of the effect of each on a logit difference, for all at once.

At a site, what a feature holds in the clean run is compared with what it holds at the other end: in the corrupted run,
on average, or not at all. Its attribution is that change times the metric's gradient by what the feature writes: in the
clean run (attribution patching), there by other rules (RelP, arXiv 2508.21258), or averaged on the straight way between
the ends (integrated gradients, arXiv 2403.19647). That way is one of activations, so that one gradient a site and step
serves every basis, and only gradients and activations are kept: features of all pairs would be many times as much.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from bathyscope.circuits.ends import Baseline, Ends
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Feature, flat
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.runs import Watch, gradients_at, gradients_through, measured, measured_at
from bathyscope.engine import Stop
from bathyscope.engine.events import CancelledError
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
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
        ends: by each site, what it holds in the clean run and what that is compared with, and in which basis.
        gradients: by each site, (pairs, positions, width): what the attributions are made of.
        totals: by each site, each pair's logit difference in the clean run less that with the whole site at the other
            end, measured, (pairs,), float64. At a residual stream it is the clean less the corrupted run's.
        seconds: they took.
    """

    method: Method
    examples: Examples
    ends: Mapping[Site, Ends]
    gradients: Mapping[Site, Tensor]
    totals: Mapping[Site, Tensor]
    seconds: float
    _means: dict[Site, Tensor] = field(default_factory=dict, repr=False)

    @property
    def sites(self) -> list[Site]:
        """Where attributions are known."""
        return list(self.ends)

    @property
    def baseline(self) -> Baseline:
        """What the clean run is compared with."""
        return next(iter(self.ends.values())).baseline

    def basis(self, site: Site) -> Basis:
        """What a site is taken apart in."""
        return self.ends[site].basis

    def pairs(self, site: Site, rows: slice = slice(None)) -> Tensor:
        """By pair and position, (pairs, positions, n_features + 1), the last entry the error's.

        Args:
            site: which site.
            rows: of which pairs; all of them are many numbers.
        """
        ends = self.ends[site]
        return ends.basis.attributions(self.gradients[site][rows], ends.change(rows))

    def mean(self, site: Site) -> Tensor:
        """Over pairs, (positions, n_features + 1)."""
        if site not in self._means:
            whole = sum(self.pairs(site, rows).sum(0) for rows in self.ends[site].blocks())
            self._means[site] = torch.as_tensor(whole) / len(self.examples)
        return self._means[site]

    def changing(self, site: Site) -> Tensor:
        """Whether a feature has an attribution in any pair, (positions, n_features + 1)."""
        return torch.stack([(self.pairs(site, rows) != 0).any(0) for rows in self.ends[site].blocks()]).any(0)

    def of(self, feature: Feature) -> float:
        """A feature's mean over pairs."""
        index = -1 if feature.index is None else feature.index
        return float(self.mean(Site.parse(feature.site))[feature.position, index])

    def sums(self, site: Site) -> Tensor:
        """What all features and errors of a site add up to in each pair, (pairs,), float64.

        As steps grow, this is the site's total: of the residual stream the pair's whole difference, since nothing goes
        past it; of other sites what goes through them in the clean run, and totals of several sites add up to nothing.
        """
        return torch.cat([self.pairs(site, rows).double().sum((1, 2)) for rows in self.ends[site].blocks()])

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
        for site in self.sites if sites is None else sites:
            mean = self.mean(site) if errors else self.mean(site)[:, :-1]
            flat = mean.flatten()
            for place in flat.abs().topk(min(n, int((flat != 0).sum()))).indices.tolist():
                position, index = divmod(place, mean.shape[1])
                is_error = index == self.basis(site).n_features
                found.append((Feature(str(site), position, None if is_error else index), float(flat[place])))
        return sorted(found, key=lambda one: (-abs(one[1]), one[0].site, one[0].position))[:n]

    def in_bases(self, bases: Mapping[Site | str, Basis]) -> "Attributions":
        """The same sites' attributions in other bases, of the same gradients: no pass is run.

        Args:
            bases: what sites are taken apart in now; no other sites than there are attributions of.

        Raises:
            UsageError: another site, a basis of another width, or attributions that compare with zero: what is left
                where all features are zero depends on the basis.
        """
        if self.baseline == "zero":
            raise UsageError(
                "attributions that compare with zero were to be taken apart anew", "gradients of each basis"
            )
        found = {}
        for text, basis in bases.items():
            site = self.examples.model.site(text)
            if site not in self.ends:
                known = ", ".join(map(str, self.sites))
                raise UsageError(f"attributions at {site} were asked for", f"gradients are known at {known}")
            flat(self.ends[site].clean, basis, site)
            found[site] = replace(self.ends[site], basis=basis)
        gradients, totals = ({site: one[site] for site in found} for one in (self.gradients, self.totals))
        return Attributions(self.method, self.examples, found, gradients, totals, 0.0)


def feature_attributions(
    examples: Examples,
    bases: Mapping[Site, Basis] | Mapping[Site | str, Basis],
    *,
    method: Method = "integrated-gradients",
    baseline: Baseline = "corrupted",
    steps: int = STEPS,
    kept: Kept | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Attributions:
    """Attribute what a site does to every feature of it, each site on its own.

    Args:
        examples: pairs of one length.
        bases: what each site is taken apart in.
        method: integrated gradients, or in the clean run one gradient, or one by the rules of relevance (RelP).
        baseline: what the clean run is compared with: the corrupted run, its mean over pairs, or zero; see `Ends`.
        steps: points between the ends, at the middles of equal steps.
        kept: where finished sites' gradients are kept, for going on after a stop.
        progress: called with the sites that are done and those there are.
        stop: looked at between sites.

    Raises:
        UsageError: no site, no step, a basis of another width.
        CancelledError: `stop` said so.
    """
    began, model = time.perf_counter(), examples.model
    by_site = {model.site(site): basis for site, basis in bases.items()}
    _check(by_site, method, baseline, steps)
    layers = {site: start_layer(model, site) for site in by_site}
    starts, read = read_starts(model, examples.clean, list(layers.values()), list(by_site))
    _, read_corrupted = read_starts(model, examples.corrupted, [EMBEDDING_LAYER], list(by_site))
    lowest = starts[min(layers.values())]
    clean = measured(model, examples.clean, examples.answers, lowest)
    found = {
        site: Ends(basis, flat(read[site], basis, site), flat(read_corrupted[site], basis, site), baseline)
        for site, basis in by_site.items()
    }
    gradients = {} if method == "integrated-gradients" else one_pass_gradients(examples, list(found), method)
    site_totals: dict[Site, Tensor] = {}
    for done, (site, ends) in enumerate(found.items()):
        if stop is not None and (stop.now or stop.soon):
            raise CancelledError("the attributions were stopped", f"{done} of {len(by_site)} sites are done")
        start = starts[layers[site]]
        if method == "integrated-gradients":
            find = partial(mean_gradient, examples, site, ends, start, steps)
            gradients[site] = find() if kept is None else kept.tensor(f"gradient {site}", find)
        site_totals[site] = clean - measured_at(model, examples.clean, examples.answers, site, ends.other, start)
        if progress is not None:
            progress(done + 1, len(by_site))
    return Attributions(method, examples, found, gradients, site_totals, time.perf_counter() - began)


def one_pass_gradients(examples: Examples, sites: Sequence[Site], method: Method) -> dict[Site, Tensor]:
    """The metric's gradients by all sites in the clean run, (pairs, positions, width) each, from the same pass.

    Args:
        examples: the pairs.
        sites: which.
        method: "attribution-patching", or "relp" for gradients by the rules of relevance.
    """
    model = examples.model
    with relevance(model, model.n_layers) if method == "relp" else nullcontext():
        return gradients_through(model, examples.clean, examples.answers, sites)


def mean_gradient(
    examples: Examples, site: Site, ends: Ends, start: Start, steps: int, watch: Watch | None = None
) -> Tensor:
    """The metric's mean gradient by a site on the way between its ends, (pairs, positions, width).

    Args:
        examples: the pairs.
        site: which site.
        ends: what it holds at both.
        start: where the prompts are run from: at the site itself or below it.
        steps: points between the ends, at the middles of equal steps.
        watch: of each pass; there are `steps` prompts to each pair.
    """
    shares = (torch.arange(steps) + 0.5) / steps
    n = len(examples)
    rows = torch.arange(n).repeat(steps)
    values = torch.lerp(ends.other[rows], ends.clean[rows], shares.repeat_interleave(n)[:, None, None].to(ends.clean))
    answers = examples.answers.repeat(steps, 1)
    _, found = gradients_at(examples.model, examples.clean * steps, answers, site, values, start.rows(rows), watch)
    return found.unflatten(0, (steps, n)).mean(0)


def _check(bases: Mapping[Site, Basis], method: str, baseline: str, steps: int) -> None:
    if not bases:
        raise UsageError("no site was given", "a basis for at least one", '{"resid_post.12": Latents(coder)}')
    for name, given, known in (("method", method, Method), ("baseline", baseline, Baseline)):
        if given not in get_args(known):
            raise UsageError(f"{name}={given!r} was given", f"it is one of {', '.join(get_args(known))}")
    if steps < 1:
        raise UsageError(f"{steps} steps were asked for", "at least 1", "steps=8")
