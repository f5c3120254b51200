"""What attributions of nodes are returned as: a number for each site, head and position, the measured effect beside it.

Two words that are never mixed: an effect was measured, by writing and running; an attribution is computed from a
gradient, or from the model's last, linear step. Knows no model.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

from bathyscope.attribution.ranks import rank_correlation
from bathyscope.readouts import metric_in_words
from bathyscope.results import Result
from bathyscope.signed_maps import SignedMap, drawn, number, token_name
from bathyscope.sites import EMBEDDING_LAYER, PER_HEAD, Site

DIRECT = "direct"
LISTED = 20
"""Nodes that a page lists."""
FEW = 30
"""Of fewer measured nodes a rank correlation says little."""


@dataclass(frozen=True)
class Node:
    """One component at one position.

    Args:
        site: its name, such as "z.5.3".
        layer: its block; -1 is the embedding; None for what comes after all blocks.
        head: which head, where it is one.
        position: of the token, from 0.
        token: the token as text; of two prompts the clean one's.
        attribution: what the method computed, in the metric's own unit.
        effect: by how much the metric changed when the node was written; None where that was not measured.
        part: "bias" for what no head has of attention, and for the biases of norm and unembedding; "positions" for
            learned positions; empty for the whole site.
    """

    site: str
    layer: int | None
    head: int | None
    position: int
    token: str
    attribution: float
    effect: float | None = None
    part: str = ""

    @classmethod
    def of(cls, site: Site, position: int, token: str, attribution: float, part: str = "") -> Self:
        """A node whose effect was not measured."""
        return cls(str(site), site.layer, site.head, position, token, attribution, part=part)


@dataclass(frozen=True, eq=False)
class AttributionResult(Result):
    """What a method says of each node.

    Args:
        method: "direct", "attribution-patching" or "integrated-gradients".
        metric: the spec of the readout that is explained.
        clean: the prompt.
        corrupted: the prompt that it is compared with; None where there is none.
        nodes: one a site, head and position.
        values: the metric of the runs, by name ("clean", "corrupted", and their difference "total"; for the direct
            method "logit", and "remainder", which no node explains).
        notes: what a reader has to know.
        provenance: model, specification, token ids, versions.
        timing: seconds without loading the model.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import direct_logit_attribution
        >>> from bathyscope.readouts import Logit
        >>> found = direct_logit_attribution(bathyscope.load(), "The capital of France is", Logit(" Paris"))
        >>> round(sum(node.attribution for node in found.nodes) - found.values["logit"], 3) + 0.0
        0.0
    """

    kind: ClassVar[str] = "attribution"

    method: str
    metric: Mapping[str, Any]
    clean: str
    corrupted: str | None
    nodes: tuple[Node, ...]
    values: Mapping[str, float]
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]
    notes: tuple[str, ...] = field(default=())

    @property
    def measured(self) -> tuple[Node, ...]:
        """The nodes whose effect was measured."""
        return tuple(node for node in self.nodes if node.effect is not None)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, between attributions and effects of the measured nodes; None where there are fewer than three."""
        measured = self.measured
        return rank_correlation([one.attribution for one in measured], [one.effect or 0.0 for one in measured])

    def sums(self) -> dict[str, float]:
        """The sum of attributions by site, heads and positions together; at a full cut it should be the total."""
        found: dict[str, float] = {}
        for node in self.nodes:
            name = ".".join(node.site.split(".")[:2])
            found[name] = found.get(name, 0.0) + node.attribution
        return found

    def strongest(self, count: int) -> tuple[Node, ...]:
        """The nodes of the largest attributions, by size."""
        return tuple(sorted(self.nodes, key=lambda node: -abs(node.attribution))[:count])

    def rows(self) -> list[dict[str, Any]]:
        """One record a node."""
        return [asdict(node) for node in self.nodes]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; `rows` are its nodes."""
        return {
            "kind": self.kind,
            "method": self.method,
            "metric": dict(self.metric),
            "clean": self.clean,
            "corrupted": self.corrupted,
            "rows": self.rows(),
            "values": dict(self.values),
            "rank_correlation": self.rank_correlation,
            "measured": len(self.measured),
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        return cls(
            data["method"],
            data["metric"],
            data["clean"],
            data["corrupted"],
            tuple(Node(**row) for row in data["rows"]),
            data["values"],
            data["provenance"],
            data["timing"],
            tuple(data["notes"]),
        )

    def maps(self) -> tuple[SignedMap, ...]:
        """Heat maps, one a component, layers down: heads across where it has them, positions otherwise.

        Attributions of a head are summed over positions, where there are several. Effects have a map where all nodes
        of a component were measured, and no two of them share its square: effects do not add up.
        """
        if self.method == DIRECT:
            return tuple(_direct(self.nodes))
        found = []
        for component in dict.fromkeys(_component(node) for node in self.nodes):
            nodes = [node for node in self.nodes if _component(node) == component]
            squares = [(_row(node), _column(node)) for node in nodes]
            found.append(_mapped(f"attribution at {component}", nodes, [node.attribution for node in nodes]))
            effects = [node.effect for node in nodes if node.effect is not None]
            if len(effects) == len(nodes) == len(set(squares)):
                found.append(_mapped(f"effect at {component}", nodes, effects))
        return tuple(found)

    def facts(self) -> dict[str, str]:
        """What was asked and what came out, by name, for people."""
        correlation = self.rank_correlation
        run = "" if self.corrupted is None else f"{metric_in_words(self.metric, tokens=False)}, "
        few = "; so few say little of the others" if len(self.measured) < min(FEW, len(self.nodes)) else ""
        return {
            **{"clean": self.clean},
            **({"corrupted": self.corrupted} if self.corrupted is not None else {}),
            "model": self.provenance["models"][0]["model"],
            "metric": metric_in_words(self.metric),
            **{f"{run}{name}": f"{value:.4f}" for name, value in self.values.items()},
            **(
                {}
                if correlation is None
                else {
                    "rank correlation": f"{correlation:.3f} of attribution and effect, over the "
                    f"{len(self.measured)} of {len(self.nodes)} nodes that were measured{few}"
                }
            ),
            **({"note": " ".join(self.notes)} if self.notes else {}),
        }

    def page(self) -> str:
        """A heat map for each component: blue raises the metric, red lowers it; then the largest attributions."""
        strongest = self.strongest(LISTED)
        largest = [
            {
                "place": f"{f'{node.site} {node.part}'.strip()} at {node.position} {node.token!r}",
                "attribution": number(node.attribution, abs(strongest[0].attribution)),
                "effect": "" if node.effect is None else number(node.effect, abs(strongest[0].attribution)),
            }
            for node in strongest
        ]
        return drawn(self.title, self.facts(), self.maps(), largest)

    @property
    def title(self) -> str:
        """The method."""
        return self.method.replace("-", " ")


def _component(node: Node) -> str:
    # The embedding is the lowest layer of the residual stream, and stands in its map.
    name = node.site.split(".")[0]
    return "resid_post" if name == "embed" else name


def _row(node: Node) -> str:
    return "embed" if node.layer == EMBEDDING_LAYER else str(node.layer)


def _column(node: Node) -> str:
    if _component(node) in PER_HEAD:
        return f"head {node.head}"
    return token_name(node.position, node.token)


def _mapped(heading: str, nodes: list[Node], numbers: list[float]) -> SignedMap:
    together = len({node.position for node in nodes}) > 1 and any(node.head is not None for node in nodes)
    triples = [(_row(node), _column(node), number) for node, number in zip(nodes, numbers, strict=True)]
    return SignedMap.of(f"{heading}, summed over positions" if together else heading, "layer", triples)


def _direct(nodes: tuple[Node, ...]) -> list[SignedMap]:
    """One map of all that adds to the logit: heads, attention's bias or whole, MLP; then what has no block."""
    blocks, others = [], []
    for node in nodes:
        name = node.site.split(".")[0]
        if node.layer is None or node.layer == EMBEDDING_LAYER or node.part == "positions":
            others.append(("", f"{name} {node.part}".strip(), node.attribution))
        else:
            column = f"head {node.head}" if node.head is not None else f"{name} {node.part}".strip()
            blocks.append((str(node.layer), column, node.attribution))
    return [
        SignedMap.of("direct attribution of each block", "layer", blocks),
        SignedMap.of("direct attribution of what no block adds", "", others),
    ]
