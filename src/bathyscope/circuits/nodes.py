"""Nodes: what is known of each feature of a circuit, in numbers that anybody can check and words that follow from them.

Knows features and the prompts that they are seen in; what a text says of them is for `labels`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

from bathyscope.attribution.ranks import ranked
from bathyscope.circuits.attributions import Attributions
from bathyscope.circuits.effects import Comparison, feature_effects
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Feature, Latents, Parts, flat
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.sae import promoted_tokens
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import read_starts

NAMED = 8
"""Tokens that are named of each latent, at either end."""
ERROR_LABEL = "what no feature explains"


@dataclass(frozen=True)
class Node:
    """A feature of a circuit.

    Args:
        feature: which, and where.
        token: what stands at its position, or how many different tokens do.
        attribution: mean over the pairs that the circuit was found on, in units of the logit difference.
        effect: measured on the same pairs, this feature alone holding what its attribution compares with.
        clean, corrupted: its mean activation in either run; of an error or a head, its length.
        by_kind: its mean activation in the clean prompts of each kind of pair ("singular", "plural").
        separates: how often it is more active in a pair of one kind than in one of the other, for the kind of the
            larger mean: .5 is not at all, 1 always; None where there are not two kinds.
        promotes, suppresses: tokens whose logits a latent's direction raises and lowers most.
        label: what a picture says of it.
        reading: what a text says of it (`label_circuit`); empty before.
    """

    feature: Feature
    token: str
    attribution: float
    effect: float
    clean: float
    corrupted: float
    by_kind: Mapping[str, float]
    separates: float | None
    promotes: tuple[str, ...]
    suppresses: tuple[str, ...]
    label: str
    reading: Mapping[str, Any] = field(default_factory=dict)

    def named(self, label: str) -> "Node":
        """With another label."""
        return replace(self, label=label)

    @property
    def has_own_label(self) -> bool:
        """Whether a person gave its label: it is made neither of promoted tokens nor of what a text says."""
        return self.label not in (_label(self.feature, self.promotes), self.reading.get("label"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the parts of the feature's name beside it."""
        one = self.feature
        return {
            **vars(self),
            "feature": str(one),
            "site": one.site,
            "position": one.position,
            "index": one.index,
            "by_kind": dict(self.by_kind),
            "promotes": list(self.promotes),
            "suppresses": list(self.suppresses),
            "reading": dict(self.reading),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The node that was written."""
        names = {one.name for one in fields(cls)} - {"feature", "promotes", "suppresses"}
        return cls(
            feature=Feature.parse(data["feature"]),
            promotes=tuple(data["promotes"]),
            suppresses=tuple(data["suppresses"]),
            **{name: data[name] for name in names},
        )


def circuit_nodes(
    attributions: Attributions,
    features: Sequence[Feature],
    *,
    seen: Examples | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[Node, ...], Comparison | None]:
    """What is known of features, the largest attributions first, and how attributions compare with effects.

    Args:
        attributions: of the pairs that the circuit was found on.
        features: the circuit's; none gives no node.
        seen: pairs whose prompts activations are read in, such as held-out ones; those of the attributions unless said.
        progress: called with the features whose effect is measured, and all of them.
    """
    if not features:
        return (), None
    order = sorted(features, key=lambda one: (-abs(attributions.of(one)), str(one)))
    compared = feature_effects(attributions, order, progress=progress)
    model, seen = attributions.examples.model, seen or attributions.examples
    there = {one.site for one in order}
    by_site = {site: attributions.basis(site) for site in attributions.sites if str(site) in there}
    clean, corrupted = (_activations(model, rows, by_site) for rows in (seen.clean, seen.corrupted))
    texts = attributions.examples.positions()
    found = []
    for one, attribution, effect in zip(order, compared.attributions, compared.effects, strict=True):
        site = model.site(one.site)
        place = (slice(None), one.position, -1 if one.index is None else one.index)
        values = clean[site][place]
        up, down = _named(model, by_site[site], one.index)
        by_kind, separates = told_apart(values, seen.kinds)
        found.append(
            Node(
                feature=one,
                token=texts[one.position],
                attribution=attribution,
                effect=effect,
                clean=float(values.mean()),
                corrupted=float(corrupted[site][place].mean()),
                by_kind=by_kind,
                separates=separates,
                promotes=up,
                suppresses=down,
                label=_label(one, up),
            )
        )
    return tuple(found), compared


def told_apart(values: Tensor, kinds: Sequence[str]) -> tuple[dict[str, float], float | None]:
    """The mean of each kind, and how well two kinds are told apart: see `Node.separates`.

    Example:
        >>> import torch
        >>> from bathyscope.circuits.nodes import told_apart
        >>> told_apart(torch.tensor([0.0, 2.0, 1.0, 3.0]), ["one", "many", "one", "many"])
        ({'one': 0.5, 'many': 2.5}, 1.0)
    """
    rows = {kind: torch.tensor([one == kind for one in kinds]) for kind in dict.fromkeys(kinds)}
    means = {kind: float(values[own].mean()) for kind, own in rows.items()}
    if len(means) != 2:
        return means, None
    upper = rows[max(means, key=lambda kind: means[kind])]
    n, m = int(upper.sum()), int((~upper).sum())
    ranks = ranked(values.double())
    return means, float((ranks[upper].sum() - n * (n - 1) / 2) / (n * m))


def _activations(model: Model, rows: Sequence[Any], bases: Mapping[Site, Basis]) -> dict[Site, Tensor]:
    """Each feature's activation, (prompts, positions, n_features + 1); of an error and of a head, its length."""
    _, read = read_starts(model, rows, [EMBEDDING_LAYER], list(bases))
    found = {}
    for site, basis in bases.items():
        parts: Parts = basis.split(flat(read[site], basis, site))
        values = parts.features.unflatten(-1, (basis.n_features, basis.size))
        own = values[..., 0] if basis.size == 1 else values.norm(dim=-1)
        found[site] = torch.cat([own, parts.error.norm(dim=-1, keepdim=True)], -1)
    return found


def _named(model: Model, basis: Basis, index: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if index is None or not isinstance(basis, Latents):
        return (), ()
    found = promoted_tokens(model, basis.coder, torch.tensor([index]), k=NAMED)
    return tuple(model.token_texts(found.up[0].tolist())), tuple(model.token_texts(found.down[0].tolist()))


def _label(feature: Feature, promotes: Sequence[str]) -> str:
    if feature.index is None:
        return ERROR_LABEL
    if not promotes:
        return f"{Site.parse(feature.site).component} {feature.index}"
    return "promotes " + " ".join(repr(one) for one in promotes[:3])
