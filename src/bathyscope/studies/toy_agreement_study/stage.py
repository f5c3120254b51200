"""Stage: two neighbouring columns of a graph, and three estimates of what each node and each edge does to a metric.

A node is one value or several that are written together, such as a coder's error. Knows functions of tensors only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Estimates:
    """What is said of each node or edge.

    Args:
        effect: by exact patch: the metric with the corrupted value written, less the clean metric.
        attribution: the change of the value times the gradient in the clean run.
        integrated: that with the gradient's mean on the way from the clean to the corrupted run.
    """

    effect: Tensor
    attribution: Tensor
    integrated: Tensor


@dataclass(frozen=True, eq=False)
class Stage:
    """Sources, targets that are made of them, and a metric of the targets.

    Args:
        clean: all sources in the clean run, (width,).
        corrupted: all sources in the corrupted run, (width,).
        sizes: how many of these values make each source.
        forward: the targets of sources, (rows, width) to (rows, width of the targets).
        target_sizes: how many values make each target.
        metric: of targets, (rows, width of the targets) to (rows,).
        steps: points between the runs at which gradients are taken for `Estimates.integrated`.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.stage import Stage
        >>> clean, corrupted = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> stage = Stage(clean, corrupted, (1, 1), torch.relu, (1, 1), lambda rows: rows @ torch.tensor([2.0, 5.0]))
        >>> found = stage.nodes()  # the second gate is closed in the clean run: its gradient there is 0
        >>> found.effect.tolist(), found.attribution.tolist(), found.integrated.tolist()
        ([-2.0, 5.0], [-2.0, 0.0], [-2.0, 5.0])
    """

    clean: Tensor
    corrupted: Tensor
    sizes: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    target_sizes: tuple[int, ...]
    metric: Callable[[Tensor], Tensor]
    steps: int = 100

    def edges(self) -> Estimates:
        """Of every edge, (sources, targets): what a source does by way of one target, the others left clean."""
        made, base = self.forward(self._written), self.forward(self.clean[None])
        of_target = _members(self.target_sizes)
        rows = torch.where(of_target[None], made[:, None], base[None])
        effect = self.metric(rows.flatten(0, 1)).view(rows.shape[:2]) - self.metric(base)
        return Estimates(effect, self._slopes(self.clean[None]), self._slopes(self._between))

    def nodes(self) -> Estimates:
        """Of every source, (sources,): what it does by way of all targets."""
        edges = self.edges()  # gradients add up over targets; effects need not
        effect = self.metric(self.forward(self._written)) - self.metric(self.forward(self.clean[None]))
        return Estimates(effect, edges.attribution.sum(-1), edges.integrated.sum(-1))

    @cached_property
    def _written(self) -> Tensor:
        """The clean sources with one node of them from the corrupted run, a row each."""
        return torch.where(_members(self.sizes), self.corrupted, self.clean)

    @cached_property
    def _between(self) -> Tensor:
        # The midpoint of each step. Gradients at the steps' left ends leave out the corrupted run's own.
        shares = (torch.arange(self.steps).to(self.clean) + 0.5) / self.steps
        return torch.lerp(self.clean, self.corrupted, shares[:, None])

    def _slopes(self, points: Tensor) -> Tensor:
        """Mean gradient through each target at some points, times the sources' change, (sources, targets)."""
        points = points.detach().requires_grad_()
        made = self.forward(points)
        targets = made.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.metric(targets).sum(), targets)
        found = []
        for members in _members(self.target_sizes):
            through = (slope * made)[:, members].sum()
            (gradient,) = torch.autograd.grad(through, points, retain_graph=True)
            found.append(gradient.mean(0) * (self.corrupted - self.clean))
        return torch.stack([_members(self.sizes).to(one) @ one for one in found], dim=-1)


def _members(sizes: tuple[int, ...]) -> Tensor:
    """Which values belong to each node, (nodes, width), bool."""
    return torch.eye(len(sizes), dtype=torch.bool).repeat_interleave(torch.tensor(sizes), dim=1)
