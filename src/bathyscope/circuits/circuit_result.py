"""What is kept of a circuit that was found: its features in words and numbers, edges, proof, and what it was found on.

A file of it is all that `circuit eval`, `label`, `show`, `edit` and `convert` need, beside the model and the coders.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from typing_extensions import override

from bathyscope.circuits.circuit import Circuit
from bathyscope.circuits.drawing import circuit_picture
from bathyscope.circuits.edges import Edge, site_order
from bathyscope.circuits.features import Feature
from bathyscope.circuits.nodes import Node
from bathyscope.circuits.own_labels import labels_file, read_labels
from bathyscope.circuits.public_graph import circuit_graph_json
from bathyscope.circuits.viewer.page import viewer_page
from bathyscope.circuits.viewer.view import View, circuit_view
from bathyscope.errors import StorageError, UsageError
from bathyscope.pages import Record, table_of
from bathyscope.pictures import Picture
from bathyscope.results import Result
from bathyscope.svg import svg

CHECKSUM: Final = "checksum"
"""Of what a file of a circuit says, in that file: who changes a feature by hand has other figures than these."""


@dataclass(frozen=True, eq=False)
class CircuitResult(Result):
    """A circuit that was found; `find_circuit` and the agreement study return it, `Result.load` reads it.

    Args:
        circuit: its features, and the sites that it is cut at.
        nodes: what is known of each feature, the largest attributions first.
        edges: between features, and from them to the logit difference.
        positions: what stands at each position of the prompts.
        measured: how it does (`Faithfulness.to_dict`) on the pairs it was found on, or on held-out ones.
        tried: the same of every circuit that was tried, with the "rule" that chose it.
        sums: at each site what attributions add up to, beside the total.
        pairs: the pairs that it was found on: clean, corrupted, answer, wrong_answer, group, case, kind. Means that
            stand in for what is ablated are of these.
        coders: for each site of a coder, its "path" and "fingerprint".
        provenance: models, everything that was asked, versions.
        notes: what a reader has to know.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "circuit"

    circuit: Circuit
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    positions: tuple[str, ...]
    measured: Record
    tried: tuple[Record, ...]
    sums: tuple[Record, ...]
    pairs: tuple[Record, ...]
    coders: Mapping[str, Record]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    timing: Mapping[str, float] = field(default_factory=dict)

    def node(self, feature: Feature | str) -> Node:
        """A feature's.

        Raises:
            UsageError: it is not in the circuit.
        """
        for one in self.nodes:
            if str(one.feature) == str(feature):
                return one
        raise UsageError(
            f"{feature} is not in the circuit",
            f"it has {len(self.nodes)} features, such as {', '.join(str(one.feature) for one in self.nodes[:3])}",
        )

    def named(self, labels: Mapping[str, str]) -> Self:
        """With a person's own labels, by feature ("resid_post.12/281@1") or, at any position, "resid_post.12/281"."""
        wanted = {name: label for name, label in labels.items() if label}
        nodes = []
        for one in self.nodes:
            name = str(one.feature)
            label = wanted.get(name) or wanted.get(name.rpartition("@")[0])
            nodes.append(one.named(label) if label else one)
        return replace(self, nodes=tuple(nodes))

    @override
    def rows(self) -> list[dict[str, Any]]:
        return [one.to_dict() for one in self.nodes]

    @override
    def to_dict(self) -> dict[str, Any]:
        found = {
            "kind": self.kind,
            "circuit": self.circuit.to_dict(),
            "rows": self.rows(),
            "edges": [one.to_dict() for one in self.edges],
            "positions": list(self.positions),
            "measured": dict(self.measured),
            "tried": [dict(one) for one in self.tried],
            "sums": [dict(one) for one in self.sums],
            "pairs": [dict(one) for one in self.pairs],
            "coders": {site: dict(one) for site, one in self.coders.items()},
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }
        return {**found, CHECKSUM: checksum(found)}

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        del tensors
        found = cls(
            circuit=Circuit.from_dict(data["circuit"]),
            nodes=tuple(map(Node.from_dict, data["rows"])),
            edges=tuple(map(Edge.from_dict, data["edges"])),
            positions=tuple(data["positions"]),
            measured=data["measured"],
            tried=tuple(data["tried"]),
            sums=tuple(data["sums"]),
            pairs=tuple(data["pairs"]),
            coders=data["coders"],
            provenance=data["provenance"],
            notes=tuple(data["notes"]),
            timing=data["timing"],
        )
        found.check()
        if CHECKSUM in data and data[CHECKSUM] != checksum(data):
            raise StorageError(
                "the circuit was changed after its file was written: its features, figures, pairs or coders have "
                "another checksum",
                "the file as it was left; labels of your own stand in a file beside it",
                f"find it again, or take {CHECKSUM!r} out of the file to use it as it is",
            )
        return found

    def check(self) -> None:
        """Refuse a file that contradicts itself.

        Raises:
            StorageError: nodes are not the circuit's features, an edge has an end that is none, leads downwards or
                backwards, or stands there twice, or a number is not finite.
        """
        named = [one.feature for one in self.nodes]
        if len(set(named)) != len(named) or set(named) != self.circuit.features:
            odd = next(iter(set(named) ^ self.circuit.features), named[0] if named else None)
            raise StorageError(
                f"the circuit and its nodes differ in {odd}", "each feature is one node, and no other is"
            )
        seen = set()
        for edge in self.edges:
            _check_edge(edge, self.circuit)
            if (ends := (edge.source, edge.target)) in seen:
                raise StorageError(f"two edges from {ends[0]} to {ends[1] or 'the logit difference'}", "there is one")
            seen.add(ends)
        for one in self.nodes:
            if one.feature.position >= len(self.positions):
                raise StorageError(f"{one.feature} was found", f"the prompts have {len(self.positions)} positions")
            for name in ("attribution", "effect", "clean", "corrupted"):
                if not math.isfinite(getattr(one, name)):
                    raise StorageError(f"the {name} of {one.feature} is {getattr(one, name)}", "a finite number is")
        self.captions()  # these fail where figures are missing

    @property
    def picture(self) -> Picture:
        """The circuit as it is drawn, in the page and by `plots.save_graph`."""
        return circuit_picture(self.nodes, self.edges, self.positions, self.captions())

    def view(
        self,
        name: str = "circuit",
        *,
        labels: Mapping[str, str] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> View:
        """The circuit as the page draws it, and Graphviz.

        Args:
            name: of its file, which files that the page writes are called after.
            labels: a person's own; the page keeps them in the file of labels that it writes.
            groups: features that are drawn as one, by the group's name.
        """
        named = self.named(labels or {})
        found = circuit_view(named.nodes, self.edges, self.positions, self.captions(), named.graph_json(name))
        return replace(found, labels=labels or {}, groups=groups or {})

    def graph_json(self, slug: str = "circuit") -> dict[str, Any]:
        """The circuit as JSON values in the schema of public graph viewers: see `circuits.public_graph`."""
        return circuit_graph_json(self.nodes, self.edges, self.positions, slug, self.provenance)

    @override
    def to_html(self) -> str:
        """A page to explore the circuit in: its own script is in it, and nothing is fetched."""
        return viewer_page(self.view())

    @property
    @override
    def title(self) -> str:
        return f"A circuit of {len(self.nodes)} features: {self.provenance['models'][0]['model']}"

    def captions(self) -> tuple[str, ...]:
        """What stands above the picture."""
        best = self.measured
        sites = len(self.circuit.sites)
        return (
            self.title,
            f"{sites} site{'s' if sites > 1 else ''}, chosen by: {best['rule']}; errors: {self.circuit.errors}",
            f"{best['pairs']}: faithfulness {best['faithfulness']:.2f} ({best['low']:.2f} to {best['high']:.2f}), "
            f"accuracy {best['accuracy']:.2f}, completeness {best['completeness']:.2f}; {best['n']} pairs",
        )

    @override
    def page(self) -> str:
        tables = {"features": _told(self.rows()), "edges": [one.to_dict() for one in self.edges], "sums": self.sums}
        drawn = f'<div class="bathyscope">{svg(self.picture)}</div>'
        return drawn + "".join(table_of(name, {}, records) for name, records in tables.items())


def _check_edge(edge: Edge, circuit: Circuit) -> None:
    for end in (edge.source, edge.target):
        if end is not None and end not in circuit.features:
            raise StorageError(f"an edge of {end} was found", "its ends are features of the circuit")
    if not math.isfinite(edge.weight):
        raise StorageError(f"the edge from {edge.source} weighs {edge.weight}", "a finite number is")
    source, target = edge.source, edge.target
    if target is None:
        return
    if site_order(source.site) >= site_order(target.site) or source.position > target.position:
        raise StorageError(
            f"an edge from {source} to {target} was found", "edges lead to later sites, and to no earlier position"
        )


def _told(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Node records with one text a cell."""
    left_out = {"reading", "site", "position", "index"}
    return [{name: _text(value) for name, value in row.items() if name not in left_out} for row in rows]


def _text(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {number:.3g}" for name, number in value.items())
    return " ".join(map(repr, value)) if isinstance(value, list) else value


def checksum(data: Mapping[str, Any]) -> str:
    """SHA-256 over what a circuit's file says, but for what a person may change: notes, times, and whence it is."""
    said = {
        name: data[name] for name in ("circuit", "rows", "edges", "positions", "measured", "tried", "sums", "pairs")
    }
    coders = {site: one["fingerprint"] for site, one in data["coders"].items()}
    text = json.dumps({**said, "coders": coders}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def open_circuit(path: str | Path) -> CircuitResult:
    """The circuit in a file of `find_circuit` or of the agreement study, with a person's own labels.

    Own labels are read from FILE.labels.json beside FILE.json, where it is there: a JSON object such as
    {"resid_post.12/281": "plural subject"}.

    Raises:
        StorageError: the file is missing, damaged, contradicts itself, or is of something else.
    """
    path = Path(path)
    found = Result.load(path)
    circuit = getattr(found, "found", found)
    if not isinstance(circuit, CircuitResult):
        raise StorageError(
            f"{path} is a result of kind {found.kind}", "a circuit is needed", "bathyscope circuit find --out FILE.json"
        )
    labels = labels_file(path)
    return circuit.named(read_labels(labels)) if labels.exists() else circuit
