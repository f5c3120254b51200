"""What is said of each feature of a circuit: numbers that anybody can check, and words that follow from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bathyscope.attribution.ranks import ranked
from bathyscope.circuits import Attributions, Basis, Circuit, Comparison, Latents, feature_effects
from bathyscope.circuits.attributions import flat
from bathyscope.model import Model
from bathyscope.sae import promoted_tokens
from bathyscope.sites import Site
from bathyscope.starts import read_starts
from bathyscope.studies.agreement_study.items import Items

PROMOTED = 8
"""Tokens that are named of each latent."""


def node_records(
    model: Model, items: Items, attributions: Attributions, circuit: Circuit, labels: Mapping[str, str]
) -> tuple[list[dict[str, Any]], Comparison]:
    """A record a feature, the largest attributions first, and how attributions compare with effects.

    A record has the feature's place, its "attribution" and its measured "effect" on the train pairs (one feature at
    a time), its mean activation with the noun in the singular and in the plural, on held-out nouns; "auc": how well it
    tells one from the other there (.5 is not at all); the tokens that it promotes, and a person's own label.

    Args:
        model: the model.
        items: the pairs.
        attributions: on the train pairs.
        circuit: the features.
        labels: a person's own, by feature.
    """
    features = sorted(circuit.features, key=lambda one: -abs(attributions.of(one)))
    compared = feature_effects(model, items.train, attributions, features)
    activations = _activations(model, items, attributions.bases)
    plural = torch.tensor([one == "plural" for one in items.held_out_numbers])
    texts = items.train.positions()
    records = []
    for one, attribution, effect in zip(features, compared.attributions, compared.effects, strict=True):
        site = model.site(one.site)
        basis = attributions.bases[site]
        values = activations[site][:, one.position, -1 if one.index is None else one.index]
        tokens = _promoted(model, basis, one.index)
        records.append(
            {
                "feature": str(one),
                "site": one.site,
                "position": one.position,
                "token": texts[one.position],
                "index": one.index,
                "attribution": attribution,
                "effect": effect,
                "singular": float(values[~plural].mean()),
                "plural": float(values[plural].mean()),
                "auc": auc(values, plural),
                "promotes": tokens,
                "label": labels.get(str(one)) or labels.get(f"{one.site}/{one.index}") or _label(one.index, tokens),
            }
        )
    return records, compared


def auc(values: Tensor, positive: Tensor) -> float:
    """How often a positive one's value is above a negative one's, ties counted half.

    Example:
        >>> import torch
        >>> from bathyscope.studies.agreement_study.nodes import auc
        >>> auc(torch.tensor([0.0, 2.0, 1.0, 3.0]), torch.tensor([False, True, False, True]))
        1.0
    """
    n, m = int(positive.sum()), int((~positive).sum())
    ranks = ranked(values.double())
    return float((ranks[positive].sum() - n * (n - 1) / 2) / (n * m)) if n and m else float("nan")


def _activations(model: Model, items: Items, bases: Mapping[Site, Basis]) -> dict[Site, Tensor]:
    """Each feature's activation on the held-out clean prompts; of an error, its length."""
    _, read = read_starts(model, items.held_out.clean, [-1], list(bases))
    found = {}
    for site, basis in bases.items():
        parts = basis.split(flat(read[site], basis, site))
        found[site] = torch.cat([parts.features, parts.error.norm(dim=-1, keepdim=True)], -1)
    return found


def _promoted(model: Model, basis: Basis, index: int | None) -> list[str]:
    if index is None or not isinstance(basis, Latents):
        return []
    found = promoted_tokens(model, basis.coder, torch.tensor([index]), k=PROMOTED)
    return list(model.token_texts(found.up[0].tolist()))


def _label(index: int | None, tokens: Sequence[str]) -> str:
    return "what no latent explains" if index is None else "promotes " + " ".join(repr(one) for one in tokens[:3])
