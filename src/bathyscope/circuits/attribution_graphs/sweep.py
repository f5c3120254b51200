"""The sweep: what every part of the residual stream adds to many targets at once, without autograd.

Gradients of the targets go down the blocks together, from where each target reads. They meet every part where it is
added, and pass attention by its transposed maps: two products with weights and one with patterns a block, no tape and
no second forward pass. Targets are sorted by when they read, and positions behind the last target are left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.circuits.attribution_graphs.attention import FrozenAttention
from bathyscope.circuits.attribution_graphs.local import LocalModel
from bathyscope.circuits.attribution_graphs.mlp import FrozenMLP


@dataclass(frozen=True, eq=False)
class Targets:
    """What is taken apart: linear readings of the residual stream.

    Args:
        times: when each reads, as `stream_time` counts, (targets,).
        positions: where, (targets,).
        vectors: along what, (targets, d_model).
        own: what it adds to the product by itself, (targets,).
        values: what it was in the model, (targets,).
    """

    times: Tensor
    positions: Tensor
    vectors: Tensor
    own: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.times)

    def take(self, which: Tensor) -> "Targets":
        """Some of them, (taken,)."""
        parts = (self.times, self.positions, self.vectors, self.own, self.values)
        return Targets(*(part[which.to(part.device)] for part in parts))

    @classmethod
    def features(cls, local: LocalModel, columns: Tensor) -> "Targets":
        """Active features as targets.

        Args:
            local: the replacement model.
            columns: which features, (targets,), in any order.
        """
        layers, first = local.columns.feature_layers[columns], local.columns.features
        empty = local.embed.new_zeros(len(columns))
        times, positions = torch.zeros_like(columns), torch.zeros_like(columns)
        vectors, own, values = local.embed.new_zeros(len(columns), local.embed.shape[1]), empty, empty.clone()
        for layer in layers.unique().tolist():
            mine, mlp = (layers == layer).nonzero()[:, 0], local.mlps[layer]
            assert mlp.place is not None
            within = (columns[mine] - first[layer].start).to(mlp.latents.device)
            times[mine], positions[mine] = mlp.place.time, mlp.positions[within].to(positions.device)
            vectors[mine], own[mine] = mlp.readers(within)
            values[mine] = mlp.values[within]
        return cls(times, positions, vectors, own, values)


def sweep(local: LocalModel, targets: Targets) -> Tensor:
    """Every part's contribution to every target.

    Args:
        local: the replacement model.
        targets: what is taken apart.

    Returns:
        (targets, columns) as `Columns` numbers them; each row adds up to its target's own value.
    """
    return _Sweep(local, targets).run()


class _Sweep:
    """Gradients on their way down: (positions, targets, d_model), the targets sorted by when they read, latest first.

    The first `joined` of them have been met. Of those, the first `spread` have passed attention, which spreads them
    over positions; a linear path does not.
    """

    def __init__(self, local: LocalModel, targets: Targets) -> None:
        self.local, self.targets, self.columns = local, targets, local.columns
        # By position as well, so that nothing depends on the order that targets are given in.
        self.order = (targets.times * (len(local.embed) + 1) + targets.positions).argsort(descending=True)
        self.times, self.positions = targets.times[self.order].tolist(), targets.positions[self.order].tolist()
        self.joined = self.spread = 0
        self.length = max(self.positions) + 1
        self.gradient = local.embed.new_zeros(self.length, len(targets), local.embed.shape[1])
        self.found = local.embed.new_zeros(len(targets), len(local.columns))
        self.waiting: dict[int, list[Tensor]] = {}

    def run(self) -> Tensor:
        columns, local = self.columns, self.local
        for layer in reversed(range((max(self.times) + 1) // 2)):
            self._arrive(2 * layer + 2)
            if self.joined:
                self._mlp(layer, local.mlps[layer])
            self._arrive(2 * layer + 1)
            if self.joined:
                self._attention(layer, local.attention[layer])
            self._arrive(2 * layer)
        self._arrive(0)
        self.found[:, columns.tokens][:, : self.length] = self._each(local.embed)
        if local.positions is not None:
            self.found[:, columns.positions][:, : self.length] = self._each(local.positions)
        result = torch.empty_like(self.found)
        result[self.order.to(result.device)] = self.found
        result[:, columns.own] = self.targets.own
        return result

    def _arrive(self, time: int) -> None:
        """Targets that read now, and what linear paths bring from later on."""
        for brought in self.waiting.pop(time, ()):
            self.gradient[:, : brought.shape[1]] += brought
        while self.joined < len(self.times) and self.times[self.joined] == time:
            row = self.joined
            self.gradient[self.positions[row], row] += self.targets.vectors[self.order[row]]
            self.joined += 1

    def _attention(self, layer: int, attention: FrozenAttention) -> None:
        self._meet(self.columns.attention_biases, layer, attention.constant)
        spread, single = self.gradient[:, : self.spread], slice(self.spread, self.joined)
        if self.spread:
            spread += attention.pull_back(spread)
        if self.joined > self.spread:
            positions = torch.tensor(self.positions[single], device=self.gradient.device)
            rows = torch.arange(single.start, single.stop, device=self.gradient.device)
            own = self.gradient[positions, rows]
            self.gradient[:, single] += attention.pull_back_one(own, positions, self.length)
        self.spread = self.joined

    def _mlp(self, layer: int, mlp: FrozenMLP) -> None:
        columns, first = self.columns, mlp.first
        active, found = self.gradient[:, : self.joined], self.found[: self.joined]
        features = found[:, columns.features[layer]]
        ends = torch.searchsorted(mlp.positions, torch.arange(self.length + 1, device=mlp.positions.device)).tolist()
        for position in range(first, self.length):
            own = slice(ends[position], ends[position + 1])
            if own.start < own.stop:
                features[:, own] = active[position] @ mlp.vectors[own].T
        if first:
            found[:, columns.sinks[layer]][:, : self.length] = self._each(mlp.sink)[:, :first]
        found[:, columns.errors[layer]][:, : max(self.length - first, 0)] = self._each(mlp.error)[:, first:]
        self._meet(columns.decoder_biases, layer, mlp.bias)
        if mlp.skip is not None:
            assert mlp.place is not None
            brought = active @ mlp.skip.T
            brought[:first] = 0
            self.waiting.setdefault(mlp.place.time, []).append(brought)

    def _meet(self, biases: slice, layer: int, constant: Tensor) -> None:
        """A constant at every position, added up over them."""
        self.found[: self.joined, biases.start + layer] = self._each(constant).sum(-1)

    def _each(self, parts: Tensor) -> Tensor:
        """The product with one vector a position, (targets so far, positions so far)."""
        return torch.einsum("ntd,nd->tn", self.gradient[:, : self.joined], parts[: self.length])
