"""The local replacement model of one prompt: all that is added to its residual stream, and how it goes on from there.

Patterns and norm scales are held where the model had them, and transcoders stand for MLPs. The residual stream is then
a sum of parts, each of which reaches a later feature or a logit along fixed linear maps (Ameisen et al. 2025, "Circuit
tracing"). What transcoders miss is among the parts, so that the sum is the model's own. Knows no targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bathyscope.circuits.attribution_graphs.attention import READ, FrozenAttention
from bathyscope.circuits.attribution_graphs.columns import Columns
from bathyscope.circuits.attribution_graphs.mlp import FrozenMLP, place_coders
from bathyscope.circuits.attribution_graphs.patterns import attention_patterns
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.model import Model, Tokens
from bathyscope.sae import SparseCoder
from bathyscope.sites import Site

FELT = 1e-6
"""Learned positions are parts where they are at least this share of the embedding."""


@dataclass(frozen=True, eq=False)
class LocalModel:
    """One prompt's replacement model.

    Args:
        model: the model.
        tokens: the prompt.
        attention: of every block.
        mlps: of every block.
        embed: what each token adds, (positions, d_model).
        positions: what learned positions add, (positions, d_model), or None where there are none.
        last: the residual stream after the last block, (positions, d_model).
        sinks: how many first positions no transcoder stands at.
        columns: the parts, numbered.
    """

    model: Model
    tokens: Tokens
    attention: tuple[FrozenAttention, ...]
    mlps: tuple[FrozenMLP, ...]
    embed: Tensor
    positions: Tensor | None
    last: Tensor
    sinks: int
    columns: Columns

    @classmethod
    def of(cls, model: Model, tokens: Tokens, coders: Sequence[SparseCoder], *, sinks: int = 1) -> Self:
        """Freeze a model at one prompt; three passes at most, under eager attention two.

        Args:
            model: the model.
            tokens: the prompt.
            coders: transcoders of some MLPs, or of all.
            sinks: how many first positions are left out: transcoders are not trained on attention sinks, and what
                MLPs add there is a constant.

        Raises:
            SiteError: the family norms its sums, so that nothing is added to the residual stream as it is.
            UsageError: a coder that does not fit, or a family that does more than is known here.
        """
        if sinks < 0:
            raise UsageError(f"sinks={sinks} was given", "a number of first positions, from 0", "sinks=1")
        places = place_coders(model, coders)
        layers = range(model.n_layers)
        wanted = [Site("embed"), Site("resid_post", model.n_layers - 1)]
        wanted += [Site(name, layer) for layer in layers for name in (*READ, "mlp_out")]
        wanted += [place.site for place in places.values()]
        read = capture(model, tokens, list(dict.fromkeys(wanted)))
        dtype, device = torch.promote_types(model.dtype, torch.float32), model.device
        patterns = attention_patterns(model, tokens, read)

        def parts(site: Site) -> Tensor:
            return read[site][0].to(device, dtype)

        mlps = []
        for layer in layers:
            place = places.get(layer)
            stream = None if place is None else parts(place.site)
            mlps.append(FrozenMLP.of(place, stream, parts(Site("mlp_out", layer)), min(sinks, len(tokens))))
        attention = []
        for layer in layers:
            frozen = FrozenAttention.of(model, layer, read, patterns[layer], dtype)
            # Rounding of the stream's own sums, which is felt in half precision.
            drift = parts(_after(model, layer)) - parts(Site("resid_pre", layer))
            drift -= parts(Site("attn_out", layer)) + parts(Site("mlp_out", layer))
            attention.append(replace(frozen, constant=frozen.constant + drift))
        embed, start = parts(Site("embed")), parts(Site("resid_pre", 0))
        learned = bool((start - embed).norm() > FELT * embed.norm())
        embed, positions = (embed, start - embed) if learned else (start, None)
        return cls(
            model,
            tokens,
            tuple(attention),
            tuple(mlps),
            embed,
            positions,
            parts(Site("resid_post", model.n_layers - 1)),
            min(sinks, len(tokens)),
            Columns.of(mlps, len(tokens), learned),
        )

    @property
    def n_features(self) -> int:
        """How many features are active, over all positions of the prompt that are no sinks."""
        return self.columns.n_features


def _after(model: Model, layer: int) -> Site:
    """Where the stream after a block is read already."""
    return Site("resid_post", layer) if layer == model.n_layers - 1 else Site("resid_pre", layer + 1)
