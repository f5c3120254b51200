"""AttributionGraph: what a prompt's features, tokens and errors add to one another and to logits. Knows no model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self, get_args

import torch
from torch import Tensor

from bathyscope import pages
from bathyscope.circuits.attribution_graphs.scores import Explained, Shares, explained, most_of
from bathyscope.errors import StorageError
from bathyscope.results import Result

Kind = Literal["feature", "error", "token", "position", "sink", "attention bias", "decoder bias", "own bias", "logit"]
INPUTS: Final = ("token", "position")
CONSTANTS: Final = ("sink", "attention bias", "decoder bias", "own bias")
"""What nothing in the prompt causes; these nodes are there so that rows add up, and are in no score."""
SHOWN: Final = 40


@dataclass(frozen=True)
class Node:
    """One node.

    Args:
        kind: a feature; an error, what a block's transcoder misses, or all of an MLP that has none; a token, a learned
            position; a constant: an MLP at a sink, attention's or a decoder's bias, a target's own; or a logit.
        layer: the block of a feature, an error or a constant.
        position: of which token.
        index: the latent of a feature, the id of a token.
        value: the activation of a feature, the probability of a logit; None for a difference, whose weight is 1.
        label: the token's text, or that of a logit.
    """

    kind: Kind
    layer: int | None = None
    position: int | None = None
    index: int | None = None
    value: float | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """For people, and one of a kind in its graph.

        Example:
            >>> from bathyscope.circuits.attribution_graphs import Node
            >>> Node("feature", 3, 5, 1022, 2.5).name
            'feature 3.1022 at 5'
        """
        if self.kind == "logit":
            return f"logit {self.label!r} ({self.index})"
        where = "" if self.layer is None else f" {self.layer}" + ("" if self.index is None else f".{self.index}")
        at = "" if self.position is None else f" at {self.position}" + (f" {self.label!r}" if self.label else "")
        return f"{self.kind}{where}{at}"


@dataclass(frozen=True, eq=False)
class AttributionGraph(Result):
    """Direct effects between the nodes of one prompt, with patterns and norm scales held.

    The edge from s to t is what s adds to the pre-activation of t, or to the logit t less the mean logit. Rows are
    sparse: entries of each target, strongest first to 1 - 1e-4 of its absolute sum, and one sum of all others.

    Args:
        prompt: the prompt.
        tokens: its tokens as text.
        nodes: the nodes; features by layer and position first, logits last.
        starts: where each node's incoming edges begin, and past the last, (nodes + 1,).
        sources: the node that each edge comes from, (edges,).
        weights: of each edge, (edges,).
        remainder: the sum of all edges that are not there, of each node, (nodes,): small ones, those from features that
            were not followed, and those that were pruned.
        mass: the absolute sum of all edges of each node, those that are not there too, constants left out, (nodes,).
        values: what each target was in the model, which its row and its remainder add up to, (nodes,); nan for nodes
            that are no targets.
        provenance: model, specification, token ids, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "attribution-graph"

    prompt: str
    tokens: tuple[str, ...]
    nodes: tuple[Node, ...]
    starts: Tensor
    sources: Tensor
    weights: Tensor
    remainder: Tensor
    mass: Tensor
    values: Tensor
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    @cached_property
    def targets(self) -> Tensor:
        """The node that each edge leads to, (edges,)."""
        return torch.arange(len(self.nodes)).repeat_interleave(self.starts.diff())

    def adjacency(self) -> Tensor:
        """All edges, (nodes, nodes), rows are targets; for small graphs."""
        found = self.weights.new_zeros(len(self.nodes), len(self.nodes))
        found[self.targets, self.sources] = self.weights
        return found

    def sums(self) -> Tensor:
        """What the edges of each node and its remainder add up to, (nodes,), in float64."""
        return self.remainder.double().index_add(0, self.targets, self.weights.double())

    def are(self, *kinds: str) -> Tensor:
        """Which nodes are of some kinds, (nodes,)."""
        return torch.tensor([node.kind in kinds for node in self.nodes])

    @cached_property
    def logit_weights(self) -> Tensor:
        """The weights of logits, (nodes,), 0 elsewhere."""
        weights = [(1.0 if one.value is None else one.value) * (one.kind == "logit") for one in self.nodes]
        return torch.tensor(weights, dtype=torch.float64)

    @cached_property
    def influence(self) -> Tensor:
        """How much of the logits' weight comes to each node over all paths, (nodes,); 0 for constants."""
        return self._shares.influence(self.logit_weights)

    @cached_property
    def scores(self) -> Explained:
        """How much features explain; what is not in the graph counts as an error."""
        return explained(self._shares, self.logit_weights, self.are(*INPUTS), self.are("error"), self.mass > 0)

    def prune(self, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Self:
        """The fewest nodes that have a share of all influence, and among them the fewest edges.

        Tokens, learned positions, logits and constants stay. Of a pruned graph rows still add up, and scores say what
        of the whole can be shown in it.

        Args:
            node_threshold: of all nodes' influence.
            edge_threshold: of the influence that goes along the edges between those.

        Raises:
            UsageError: a threshold that is no share.
        """
        logits, free = self.logit_weights, self.are("feature", "error")
        nodes = most_of(self.influence, node_threshold) | ~free
        counted = ~self.are(*CONSTANTS)[self.sources]
        among = nodes[self.targets] & nodes[self.sources] & counted
        shares = Shares.of(self.targets[among], self.sources[among], self.weights[among], self._ranks)
        edges = among.clone()
        edges[among] = most_of(shares.edge_scores(logits), edge_threshold)
        features = self.are("feature")
        while True:
            edges &= nodes[self.targets] & nodes[self.sources]
            sends, gets = torch.zeros_like(nodes), torch.zeros_like(nodes)
            sends[self.sources[edges]], gets[self.targets[edges]] = True, True
            kept = nodes & (sends | ~free) & (gets | ~features)
            if bool((kept == nodes).all()):
                break
            nodes = kept
        return self.part(nodes, edges | (~counted & nodes[self.targets]))

    def part(self, nodes: Tensor, edges: Tensor) -> Self:
        """Some nodes, (nodes,), bool, and some of the edges between them, (edges,), bool; the others are remainders."""
        number = nodes.cumsum(0) - 1
        lost = self.remainder.double().index_add(0, self.targets[~edges], self.weights[~edges].double())
        counts = torch.bincount(self.targets[edges], minlength=len(self.nodes))[nodes]
        return replace(
            self,
            nodes=tuple(node for node, kept in zip(self.nodes, nodes.tolist(), strict=True) if kept),
            starts=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            sources=number[self.sources[edges]],
            weights=self.weights[edges],
            remainder=lost[nodes],
            mass=self.mass[nodes],
            values=self.values[nodes],
        )

    @cached_property
    def _ranks(self) -> Tensor:
        """When each node is added: before all, with a block, or after all."""
        layers = [0 if node.layer is None else node.layer + 1 for node in self.nodes]
        last = max(layers, default=0) + 1
        placed = zip(self.nodes, layers, strict=True)
        return torch.tensor(
            [last if node.kind == "logit" else 0 if node.kind in CONSTANTS else layer for node, layer in placed]
        )

    @cached_property
    def _shares(self) -> Shares:
        counted = ~self.are(*CONSTANTS)[self.sources]
        targets, sources, weights = self.targets[counted], self.sources[counted], self.weights[counted]
        return Shares.of(targets, sources, weights, self._ranks, self.mass)

    @property
    def title(self) -> str:
        """What a page is called."""
        return "attribution graph"

    def rows(self) -> list[dict[str, Any]]:
        """One record a node, with its influence."""
        found = zip(self.nodes, self.influence.tolist(), strict=True)
        return [{"name": node.name, **asdict(node), "influence": one} for node, one in found]

    def tensors(self) -> dict[str, Tensor]:
        """Edges, and what each node's add up to."""
        names = ("starts", "sources", "weights", "remainder", "mass", "values")
        return {name: getattr(self, name).contiguous() for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The graph as JSON values, without its edges."""
        return {
            "kind": self.kind,
            "prompt": self.prompt,
            "tokens": list(self.tokens),
            "nodes": [asdict(node) for node in self.nodes],
            "edges": len(self.weights),
            "scores": asdict(self.scores),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The graph that was saved."""
        found = cls(
            prompt=data["prompt"],
            tokens=tuple(data["tokens"]),
            nodes=tuple(Node(**node) for node in data["nodes"]),
            provenance=data["provenance"],
            timing=data["timing"],
            **{name: tensors[name] for name in ("starts", "sources", "weights", "remainder", "mass", "values")},
        )
        found.check()
        return found

    def check(self) -> None:
        """Refuse a file that contradicts itself.

        Raises:
            StorageError: a node of no kind or position, an edge of no node, or a number that is not finite.
        """
        nodes, edges = len(self.nodes), len(self.weights)
        for node in self.nodes:
            if node.kind not in get_args(Kind):
                raise StorageError(f"a node of kind {node.kind!r} was found", f"one of {', '.join(get_args(Kind))}")
            if node.position is not None and not 0 <= node.position < len(self.tokens):
                raise StorageError(
                    f"a node at position {node.position} was found", f"the prompt has {len(self.tokens)} tokens"
                )
        shapes = {"starts": (nodes + 1,), "sources": (edges,)} | dict.fromkeys(
            ("remainder", "mass", "values"), (nodes,)
        )
        right = {name: tuple(getattr(self, name).shape) == shape for name, shape in shapes.items()}
        if all(right.values()):
            steps = self.starts.diff()
            right["starts"] = int(self.starts[0]) == 0 and bool((steps >= 0).all()) and int(self.starts[-1]) == edges
            right["sources"] = bool(((self.sources >= 0) & (self.sources < nodes)).all())
            right |= {name: bool(getattr(self, name).isfinite().all()) for name in ("weights", "remainder", "mass")}
        for name, is_right in right.items():
            if not is_right:
                raise StorageError(
                    f"{name} do not fit {nodes} nodes and {edges} weights",
                    "edges lead from nodes to nodes, and numbers are finite",
                )

    def facts(self) -> dict[str, str]:
        """What was asked and what came out, by name, for people."""
        counts = {kind: int(self.are(kind).sum()) for kind in ("feature", "error", "logit")}
        return {
            "prompt": self.prompt,
            "model": self.provenance["models"][0]["model"],
            **{f"{kind}s": f"{count:,}" for kind, count in counts.items()},
            "edges": f"{len(self.weights):,}",
            "replacement": f"{self.scores.replacement:.3f}",
            "completeness": f"{self.scores.completeness:.3f}",
        }

    def page(self) -> str:
        """A table of the most influential nodes, each with its strongest edges in and out."""
        order = self.influence.argsort(descending=True)[:SHOWN].tolist()
        return pages.grid(
            heading="attribution graph: the most influential nodes",
            facts=self.facts(),
            corner="node",
            columns=["influence", "strongest edges in", "strongest edges out"],
            rows={
                self.nodes[node].name: [f"{influence:.4f}", self._edges(node, into=True), self._edges(node)]
                for node in order
                if (influence := float(self.influence[node])) > 0
            },
        )

    def _edges(self, node: int, *, into: bool = False) -> str:
        """The three strongest edges of a node, for people."""
        here, there = (self.targets, self.sources) if into else (self.sources, self.targets)
        edges = (here == node).nonzero()[:, 0]
        edges = edges[self.weights[edges].abs().argsort(descending=True)[:3]].tolist()
        return "\n".join(f"{float(self.weights[edge]):+.4f} {self.nodes[int(there[edge])].name}" for edge in edges)
