"""The graph of one pair of runs: inputs, hidden units, latents with the coder's error, outputs, and edges between them.

An edge carries what it does to the metric, and apart from that how active the node is that it comes from. How
a graph is measured is in `building`.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

COLUMNS: Final = ("inputs", "hidden units", "latents", "outputs")
ERROR: Final = "error"
"""The node of what the coder leaves out; without it the latents' effects would not add up."""

FAINT: Final = 0.01
"""An effect below this share of the total counts as none where figures are shown; no number is changed by it."""


@dataclass(frozen=True)
class Part:
    """What nodes and edges have in common.

    Args:
        clean: the activation in the clean run, an edge's being that of its source; the error's is its length.
        corrupted: the same in the corrupted run.
        effect: exact patch: the metric with the corrupted activation written, less the clean metric.
        attribution: the same by the gradient in the clean run (attribution patching).
        integrated: the same by the gradient's mean between the runs (integrated gradients, midpoint rule).
        closed_form: the same from the weights, where all that follows is linear; else None.
    """

    clean: float
    corrupted: float
    effect: float
    attribution: float
    integrated: float
    closed_form: float | None

    @property
    def activation(self) -> float:
        """How active it is, the mean of both runs: what a picture of activations alone would show."""
        return (abs(self.clean) + abs(self.corrupted)) / 2

    def record(self) -> dict[str, Any]:
        """It as JSON values, names first."""
        return dict(sorted(asdict(self).items(), key=lambda entry: not isinstance(entry[1], str)))


@dataclass(frozen=True)
class Node(Part):
    """An input, a hidden unit, a latent, the coder's error, or a verb's logit; `Part` says what it carries."""

    name: str
    column: str


@dataclass(frozen=True)
class Edge(Part):
    """What a node does by way of one node of the next column alone; `Part` says what it carries."""

    source: str
    target: str


@dataclass(frozen=True)
class Graph:
    """Nodes and edges, and the metric that they are measured by.

    Args:
        nodes: column by column.
        edges: by source, then target.
        clean: the metric in the clean run.
        corrupted: the metric in the corrupted run.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    clean: float
    corrupted: float

    @property
    def total(self) -> float:
        """What the whole change of the run does to the metric."""
        return self.corrupted - self.clean

    def column(self, name: str) -> tuple[Node, ...]:
        """The nodes of one column."""
        return tuple(node for node in self.nodes if node.column == name)

    def node(self, name: str) -> Node:
        """One node."""
        return next(node for node in self.nodes if node.name == name)

    def edge(self, source: str, target: str) -> Edge:
        """One edge."""
        return next(edge for edge in self.edges if (edge.source, edge.target) == (source, target))

    def has_effect(self, part: Part) -> bool:
        """Whether an effect is more than `FAINT` of the total."""
        return abs(part.effect) > FAINT * abs(self.total)
