"""Edges: what a feature does by way of each later feature of a circuit, and by way of none.

For each site as an end, the clean run goes on from the sites before it as from leaves: a gradient that is taken at
the end stops at them, so that what reaches a leaf went past all others. So blocks whose attention and MLP follow one
another and those where they stand side by side need no rules of their own (arXiv 2403.19647 has some for each).

An edge's weight is the change of the upstream feature between the runs, times the Jacobian of the downstream one,
times the metric's gradient by that. All edges into a feature, those of errors included, add up to its own linearised
effect; all edges out of a feature, with that to the metric, to the feature's.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.circuits.attributions import Attributions
from bathyscope.circuits.features import Feature
from bathyscope.circuits.runs import differences
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.interventions import Intervention, Write
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import Start, read_starts, start_layer

ORDER: Final = ("embed", "resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
"""Components as a block computes them; where attention and MLP stand side by side, neither depends on the other."""


def site_order(site: str) -> tuple[int, int]:
    """What sites are sorted by: as a model computes them, the embedding first.

    Example:
        >>> from bathyscope.circuits.edges import site_order
        >>> sorted(["mlp_out.3", "embed", "resid_post.2", "attn_out.3"], key=site_order)
        ['embed', 'resid_post.2', 'attn_out.3', 'mlp_out.3']
    """
    found = Site.parse(site)
    place = ORDER.index(found.component) if found.component in ORDER else len(ORDER)
    return (sys.maxsize if found.layer is None else found.layer), place


@dataclass(frozen=True)
class Edge:
    """What one feature does by way of another.

    Args:
        source: upstream.
        target: downstream; None for the metric itself.
        weight: mean over pairs, in units of the logit difference.
    """

    source: Feature
    target: Feature | None
    weight: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        target = None if self.target is None else str(self.target)
        return {"source": str(self.source), "target": target, "weight": self.weight}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The edge that was written."""
        target = data["target"]
        return cls(Feature.parse(data["source"]), None if target is None else Feature.parse(target), data["weight"])


def feature_edges(
    attributions: Attributions, features: Sequence[Feature], *, progress: Progress | None = None
) -> tuple[Edge, ...]:
    """Edges between features, and from each to the metric.

    Args:
        attributions: at all sites of the features; the gradients in it weigh the downstream ends. Its pairs are run
            together in one pass, with its graph.
        features: the nodes.
        progress: called with the features that are done as ends, and all of them.

    Returns:
        All edges whose weight is not 0, by target and source.

    Raises:
        UsageError: a feature of a site without attributions, or at `resid_pre`, which is the block's below
        `resid_post`.
    """
    by_site = _by_site(attributions, features)
    model, clean = attributions.examples.model, attributions.examples.clean
    starts, _ = read_starts(model, clean, [EMBEDDING_LAYER, *(start_layer(model, site) for site in by_site)])
    written = {site: attributions.ends[site].written(ones) for site, ones in by_site.items()}
    found: list[Edge] = []
    done = 0
    for site in (*by_site, None):
        run = _Run(attributions, by_site, site, starts)
        for target, scalar in run.scalars():
            for source, weight in run.into(scalar, written):
                found.append(Edge(source, target, weight))
            done += 1
            if progress is not None:
                progress(done, len(features) + 1)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Leaf(Intervention):
    """Keep what is met; go on with it as a new leaf, or as it is."""

    together: ClassVar[bool] = True

    cut: bool
    kept: list[Tensor] = field(default_factory=list)

    @override
    def apply(self, activation: Tensor) -> Tensor:
        if self.cut:
            activation = activation.detach().clone().requires_grad_()
        self.kept.append(activation)
        return activation


class _Run:
    """A run up to one site, or to the metric, that goes on from leaves at the sites right before it."""

    def __init__(
        self,
        attributions: Attributions,
        by_site: Mapping[Site, Sequence[Feature]],
        site: Site | None,
        starts: Mapping[int, Start],
    ) -> None:
        self.attributions, self.by_site, self.site = attributions, by_site, site
        self.examples = examples = attributions.examples
        model = examples.model
        sites = list(by_site)
        before = sites if site is None else sites[: sites.index(site)]
        cuts = [number for number, one in enumerate(before) if one.component == "resid_post"]
        lowest = cuts[-1] if cuts else 0
        inner = before[lowest + 1 :] if cuts else before
        self.leaves: dict[Site, Tensor] = {}
        layer = start_layer(model, before[lowest]) if before else EMBEDDING_LAYER
        start = starts[layer]
        if cuts and start_layer(model, before[lowest]) == before[lowest].layer:
            self.leaves[before[lowest]] = start.residuals.detach().clone().requires_grad_()
            start = start.of(self.leaves[before[lowest]])
        else:
            inner = before[lowest:]
        met = {one: _Leaf(cut=True) for one in inner}
        if site is not None:
            met[site] = _Leaf(cut=False)
        with torch.enable_grad():
            writes = [Write(one, leaf) for one, leaf in met.items()]
            self.metric = differences(model, examples.clean, examples.answers, start, writes)
        self.leaves |= {one: met[one].kept[0] for one in inner}
        self.met = None if site is None else met[site].kept[0]

    def scalars(self) -> Iterator[tuple[Feature | None, Tensor]]:
        """Each end with what is differentiated: it times the metric's gradient by it, over all pairs."""
        if self.site is None or self.met is None:
            yield None, self.metric.sum()
            return
        basis, gradient = self.attributions.basis(self.site), self.attributions.gradients[self.site]
        with torch.enable_grad():
            parts = basis.split(self.met.reshape(len(self.examples), self.examples.length, -1))
            pulled = basis.pulled(gradient).to(parts.features)
            for one in self.by_site[self.site]:
                if one.index is None:
                    yield one, (parts.error[:, one.position] * gradient[:, one.position].to(parts.error)).sum()
                    continue
                own = slice(one.index * basis.size, (one.index + 1) * basis.size)
                yield one, (parts.features[:, one.position, own] * pulled[:, one.position, own]).sum()

    def into(self, scalar: Tensor, written: Mapping[Site, Tensor]) -> Iterator[tuple[Feature, float]]:
        """Edges into an end, from the features at its leaves."""
        if not self.leaves or not scalar.requires_grad:
            return
        gradients = torch.autograd.grad(scalar, list(self.leaves.values()), retain_graph=True, allow_unused=True)
        for site, gradient in zip(self.leaves, gradients, strict=True):
            if gradient is None:
                continue
            at = gradient.reshape(len(self.examples), self.examples.length, -1)
            positions = [one.position for one in self.by_site[site]]
            weights = (at[:, positions] * written[site]).sum(-1).mean(0).tolist()
            yield from ((one, weight) for one, weight in zip(self.by_site[site], weights, strict=True) if weight)


def _by_site(attributions: Attributions, features: Sequence[Feature]) -> dict[Site, list[Feature]]:
    """Features by site, sites as the model computes them."""
    found: dict[Site, list[Feature]] = {}
    for one in features:
        site = attributions.examples.model.site(one.site)
        if site not in attributions.ends or site.component not in ORDER or site.component == "resid_pre":
            known = ", ".join(map(str, attributions.sites))
            raise UsageError(
                f"edges of {one} were asked for", f"attributions are known at {known}", "resid_post, not resid_pre"
            )
        found.setdefault(site, []).append(one)
    return dict(sorted(found.items(), key=lambda entry: (entry[0].layer or 0, ORDER.index(entry[0].component))))
