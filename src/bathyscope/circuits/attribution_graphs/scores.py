"""Scores of an attribution graph: influence, which nodes and edges are most of it, and how much features explain.

Definitions are circuit-tracer's. Every edge leads from what is added earlier to what is added later, so that influence
is one pass over the edges, latest targets first: the solution of a triangular system, where a power series would go
over all edges once for each step of the longest path. Knows numbers only.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from bathyscope.errors import UsageError


@dataclass(frozen=True, eq=False)
class Shares:
    """Of each target's incoming edges the share that one source has, by absolute value.

    Args:
        targets: the node that each edge leads to, (edges,).
        sources: the node that it comes from, (edges,).
        shares: of each edge, from 0 to 1, (edges,), float64.
        ranks: of each node, (nodes,): a source's is below its target's.
    """

    targets: Tensor
    sources: Tensor
    shares: Tensor
    ranks: Tensor

    @classmethod
    def of(cls, targets: Tensor, sources: Tensor, weights: Tensor, ranks: Tensor, mass: Tensor | None = None) -> Self:
        """Norm edges.

        Args:
            targets: the node that each edge leads to, (edges,).
            sources: the node that it comes from, (edges,).
            weights: of each edge, (edges,).
            ranks: of each node, (nodes,).
            mass: what each target's shares are of, (nodes,); its edges' absolute sum unless said.

        Raises:
            UsageError: an edge leads to a node of no higher rank.

        Example:
            >>> import torch
            >>> from bathyscope.circuits.attribution_graphs.scores import Shares
            >>> targets, sources = torch.tensor([2, 2]), torch.tensor([0, 1])
            >>> Shares.of(targets, sources, torch.tensor([3.0, -1.0]), torch.tensor([0, 0, 1])).shares.tolist()
            [0.75, 0.25]
        """
        if bool((ranks[sources] >= ranks[targets]).any()):
            edge = int((ranks[sources] >= ranks[targets]).nonzero()[0])
            raise UsageError(
                f"an edge from node {int(sources[edge])} to node {int(targets[edge])} was given",
                "edges lead from what is added earlier to what is added later",
            )
        sizes = weights.abs().double()
        if mass is None:
            mass = torch.zeros(len(ranks), dtype=torch.float64).index_add_(0, targets, sizes)
        return cls(targets, sources, sizes / mass.clamp_min(1e-300)[targets], ranks)

    def influence(self, weights: Tensor) -> Tensor:
        """How much of the targets' weight comes to each node, over all paths, (nodes,).

        Args:
            weights: of the nodes that are explained, (nodes,), such as logits' probabilities.

        Example:
            >>> import torch
            >>> from bathyscope.circuits.attribution_graphs.scores import Shares
            >>> targets, sources = torch.tensor([2, 2, 1]), torch.tensor([0, 1, 0])
            >>> shares = Shares.of(targets, sources, torch.tensor([1.0, 1.0, 5.0]), torch.tensor([0, 1, 2]))
            >>> shares.influence(torch.tensor([0.0, 0.0, 1.0])).tolist()
            [1.0, 0.5, 0.0]
        """
        found, weights = torch.zeros(len(self.ranks), dtype=torch.float64), weights.double()
        ranks = self.ranks[self.targets]
        order = ranks.argsort(descending=True)
        counts = ranks[order].unique_consecutive(return_counts=True)[1].tolist()
        for edges in order.split(counts):
            targets = self.targets[edges]
            found.index_add_(0, self.sources[edges], self.shares[edges] * (found + weights)[targets])
        return found

    def edge_scores(self, weights: Tensor) -> Tensor:
        """How much of the targets' weight goes along each edge, (edges,)."""
        return self.shares * (self.influence(weights) + weights.double())[self.targets]

    def missing(self, has_row: Tensor) -> Tensor:
        """The share of each node's edges that is not here, (nodes,); 0 where a node has no row, as `has_row` says."""
        there = torch.zeros(len(self.ranks), dtype=torch.float64).index_add_(0, self.targets, self.shares)
        return torch.where(has_row, 1 - there, 0).clamp_min(0)


def most_of(scores: Tensor, share: float) -> Tensor:
    """Which are the fewest that together have a share of the sum, those as large as the least of them too.

    Args:
        scores: from 0, (n,).
        share: from 0 to 1.

    Example:
        >>> import torch
        >>> from bathyscope.circuits.attribution_graphs.scores import most_of
        >>> most_of(torch.tensor([5.0, 1.0, 4.0]), 0.8).tolist()
        [True, False, True]
    """
    if not 0 < share <= 1:
        raise UsageError(f"a threshold of {share} was given", "a share above 0 and up to 1", "0.8")
    if not len(scores) or not bool(scores.any()):
        return torch.zeros(len(scores), dtype=torch.bool)
    ordered = scores.sort(descending=True).values
    sums = ordered.cumsum(0)
    needed = int((sums < share * sums[-1] * (1 - 1e-12)).sum())
    return (scores >= ordered[needed]) & (scores > 0)


@dataclass(frozen=True)
class Explained:
    """How much of the targets features explain.

    Args:
        replacement: the share of influence that ends in the prompt, and not in what transcoders miss.
        completeness: the share of all nodes' incoming edges that comes from features and the prompt, by influence.
    """

    replacement: float
    completeness: float


def explained(shares: Shares, weights: Tensor, inputs: Tensor, errors: Tensor, has_row: Tensor) -> Explained:
    """Replacement and completeness score.

    What a row has and is not here, the remainder of its edges and features that were not followed, counts as an error:
    the scores are what can be shown, and no more.

    Args:
        shares: of all edges.
        weights: of the nodes that are explained, (nodes,).
        inputs: which nodes are the prompt's, (nodes,), bool.
        errors: which are errors, (nodes,), bool.
        has_row: which nodes' edges are known, (nodes,), bool.

    Example:
        >>> import torch
        >>> from bathyscope.circuits.attribution_graphs.scores import Shares, explained
        >>> targets, sources = torch.tensor([2, 2]), torch.tensor([0, 1])
        >>> shares = Shares.of(targets, sources, torch.tensor([3.0, 1.0]), torch.tensor([0, 0, 1]))
        >>> kinds = torch.eye(3, dtype=torch.bool)
        >>> explained(shares, torch.tensor([0.0, 0.0, 1.0]), *kinds).replacement
        0.75
    """
    found = shares.influence(weights)
    total, missing = found + weights.double(), shares.missing(has_row)
    lost = float((missing * total).sum())
    wrong = missing.index_add(0, shares.targets, shares.shares * errors[shares.sources])
    inside, outside = float(found[inputs].sum()), float(found[errors].sum()) + lost
    everything = float(total.sum()) + lost
    complete = float(((1 - wrong).clamp_min(0) * total).sum()) + lost
    return Explained(
        inside / (inside + outside) if inside + outside else 0.0, complete / everything if everything else 0.0
    )
