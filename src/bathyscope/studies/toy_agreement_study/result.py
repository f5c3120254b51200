"""What the toy returns: its graph, how well its network and coder were trained, and their weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

from typing_extensions import override

from bathyscope.pages import Record, table_of
from bathyscope.pictures import Picture, signed
from bathyscope.studies.result import StudyResult
from bathyscope.studies.toy_agreement_study.graph import Edge, Graph, Node
from bathyscope.studies.toy_agreement_study.layout import laid_out
from bathyscope.studies.toy_agreement_study.sentences import VERBS
from bathyscope.svg import svg

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class ToyAgreementResult(StudyResult):
    """What `toy_agreement` returns: a record an edge.

    A record has "source", "target", the activation of its source in the "clean" and in the "corrupted" run, and what
    the edge does to the metric: "effect" (exact patch), "attribution" (the gradient in the clean run), "integrated"
    (gradients between the runs), and "closed_form" (the weights', where what follows is linear; else None).

    Args:
        nodes: the same of each node, with its "name" and "column".
        metric: the "verb" whose logit less the other's it is, what it is in the "clean" and "corrupted" run.
        rankings: of each column whether the most active node is the one of largest effect.
        network: steps, losses and accuracies of the network's training.
        coder: steps, losses, FVU, L0 and the dead share of the coder's.
        weights: of both, by name.

    Example:
        >>> from bathyscope.studies import toy_agreement
        >>> result = toy_agreement(by_hand=True)
        >>> result.graph.node("H2").clean, result.graph.node("H2").effect
        (1.0, 0.0)
    """

    kind: ClassVar[str] = "toy-agreement"
    heading: ClassVar[str] = "A circuit for subject-verb agreement, in a toy"

    nodes: tuple[Record, ...] = ()
    metric: Record = field(default_factory=dict)
    rankings: tuple[Record, ...] = ()
    network: Record = field(default_factory=dict)
    coder: Record = field(default_factory=dict)
    weights: "Mapping[str, Tensor]" = field(default_factory=dict)

    @cached_property
    def graph(self) -> Graph:
        """Nodes and edges."""
        nodes, edges = tuple(Node(**one) for one in self.nodes), tuple(Edge(**one) for one in self.records)
        return Graph(nodes, edges, self.metric["clean"], self.metric["corrupted"])

    @cached_property
    def picture(self) -> Picture:
        """The graph as it is drawn, in the page and by `plots.save_graph`."""
        return laid_out(self.graph, self.captions())

    def captions(self) -> tuple[str, ...]:
        """What stands above the graph: heading, metric, and how good network and coder are."""
        metric, graph = self.metric, self.graph
        other = next(verb for verb in VERBS if verb != metric["verb"])
        return (
            self.heading,
            f'logit("{metric["verb"]}") \N{MINUS SIGN} logit("{other}"): {signed(graph.clean)} in '
            f'"{metric["clean_input"]}", {signed(graph.corrupted)} in "{metric["corrupted_input"]}"; '
            f"total effect {signed(graph.total)}",
            f"{self.provenance['models'][0]['model']}: held-out accuracy {self.network['held_out_accuracy']:.3f} "
            f"({self.network['best_accuracy']:.3f} expected at best); coder: FVU {self.coder['fvu']:.4f}, "
            f"L0 {self.coder['l0']:.2f}, dead {self.coder['dead_share']:.0%}",
        )

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "nodes": [dict(one) for one in self.nodes],
            "metric": dict(self.metric),
            "rankings": [dict(one) for one in self.rankings],
            "network": dict(self.network),
            "coder": dict(self.coder),
        }

    @override
    def tensors(self) -> "dict[str, Tensor]":
        return dict(self.weights)

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> Self:
        return replace(
            super().from_dict(data, tensors),
            nodes=tuple(data["nodes"]),
            metric=data["metric"],
            rankings=tuple(data["rankings"]),
            network=data["network"],
            coder=data["coder"],
            weights=dict(tensors),
        )

    @override
    def table(self) -> str:
        trained = [
            {"part": part, **{name: value for name, value in one.items() if name != "losses"}}
            for part, one in (("network", self.network), ("coder", self.coder))
        ]
        drawn = f'<div class="bathyscope">{svg(self.picture)}</div>'
        parts = {"edges": self.records, "order by activation and by effect": self.rankings, "trained": trained}
        below = "".join(table_of(name, {}, records) for name, records in parts.items())
        return drawn + table_of(f"{self.heading}: nodes", self.facts(), self.nodes) + below
