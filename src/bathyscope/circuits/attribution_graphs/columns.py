"""Columns: the parts of a prompt's residual stream, numbered: features first, constants last."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor

from bathyscope.circuits.attribution_graphs.mlp import FrozenMLP


@dataclass(frozen=True, eq=False)
class Columns:
    """Where each kind of part stands.

    In this order: features of each layer by position, errors of each layer by position, tokens, learned positions;
    then constants, which nothing earlier causes: MLPs at sinks of each layer by position, attention's biases of each
    layer, decoder biases of each layer, and what a target has of its own.

    Args:
        features: of each layer.
        errors: of each layer, its positions that are no sinks.
        tokens: of each position.
        positions: of each position, or of none.
        sinks: of each layer, its sinks.
        attention_biases: of each layer.
        decoder_biases: of each layer.
        own: the last column.
        feature_layers: the layer of each feature.
    """

    features: tuple[slice, ...]
    errors: tuple[slice, ...]
    tokens: slice
    positions: slice
    sinks: tuple[slice, ...]
    attention_biases: slice
    decoder_biases: slice
    own: int
    feature_layers: Tensor

    @classmethod
    def of(cls, mlps: Sequence[FrozenMLP], n: int, learned: bool) -> Self:
        """Number the parts.

        Args:
            mlps: of every block.
            n: how many positions there are.
            learned: whether there are learned positions.
        """
        first = mlps[0].first
        counts = [len(mlp.latents) for mlp in mlps]
        sizes = [*counts, *[n - first] * len(mlps), n, n * learned, *[first] * len(mlps), len(mlps), len(mlps), 1]
        ends = list(accumulate(sizes))
        found = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        layers, rest = found[: len(mlps)], found[len(mlps) :]
        errors, (tokens, positions, *sinks, attention, decoders, own) = rest[: len(mlps)], rest[len(mlps) :]
        numbers = torch.arange(len(mlps)).repeat_interleave(torch.tensor(counts))
        return cls(
            tuple(layers), tuple(errors), tokens, positions, tuple(sinks), attention, decoders, own.start, numbers
        )

    def __len__(self) -> int:
        return self.own + 1

    @property
    def n_features(self) -> int:
        """How many columns are features."""
        return len(self.feature_layers)

    @property
    def n_counted(self) -> int:
        """How many columns are no constants: those that scores are made of."""
        return self.positions.stop

    def times(self) -> Tensor:
        """When each part is added, as `stream_time` counts, (columns,); constants at -1."""
        found = torch.full((len(self),), -1)
        for layer, (features, errors) in enumerate(zip(self.features, self.errors, strict=True)):
            found[features] = found[errors] = 2 * layer + 2
        found[self.tokens] = found[self.positions] = 0
        return found
