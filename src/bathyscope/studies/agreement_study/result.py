"""What the agreement study returns: circuits of several rules and sizes; the one that is shown, feature by feature."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from typing_extensions import override

from bathyscope.circuits import Circuit
from bathyscope.studies.agreement_study.drawing import circuit_picture
from bathyscope.studies.pictures import Picture
from bathyscope.studies.result import Record, StudyResult, table_of
from bathyscope.studies.svg import svg


@dataclass(frozen=True, eq=False)
class AgreementResult(StudyResult):
    """What `agreement` returns: a record a circuit.

    A record has its "basis" (latents, coordinates, directions, neurons), the "rule" that chose it, its "errors", and
    the fields of `circuits.Faithfulness`, on held-out nouns; "train_faithfulness" beside them; "shown" of the one
    whose features are `nodes`.

    Args:
        nodes: a record a feature of the circuit that is shown.
        edges: between these, and to the metric (target None).
        sums: at each site what attributions add up to, beside the total and beside what one gradient says.
        chosen: the record of the circuit that is shown.
        circuit: itself (`circuits.Circuit.to_dict`).
        positions: what stands at each position.
    """

    kind: ClassVar[str] = "agreement"
    heading: ClassVar[str] = "Which features make the verb agree"

    nodes: tuple[Record, ...] = ()
    edges: tuple[Record, ...] = ()
    sums: tuple[Record, ...] = ()
    chosen: Record = field(default_factory=dict)
    circuit: Record = field(default_factory=dict)
    positions: tuple[str, ...] = ()

    def as_circuit(self) -> Circuit:
        """The circuit that is shown."""
        return Circuit.from_dict(self.circuit)

    @property
    def picture(self) -> Picture:
        """The circuit as it is drawn, in the page and by `plots.save_graph`."""
        return circuit_picture(self.nodes, self.edges, self.positions, self.captions())

    def captions(self) -> tuple[str, ...]:
        """What stands above the picture."""
        asked, best = self.provenance, self.chosen
        model = asked["models"][0]["model"]
        return (
            f"{self.heading}: {model}",
            f"{best['size']} features of {len(self.circuit['sites'])} sites ({best['rule']}, errors {best['errors']})",
            f"held-out nouns: faithfulness {best['faithfulness']:.2f} ({best['low']:.2f} to {best['high']:.2f}), "
            f"accuracy {best['accuracy']:.2f}, completeness {best['completeness']:.2f}; {best['n']} pairs",
        )

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "nodes": [dict(one) for one in self.nodes],
            "edges": [dict(one) for one in self.edges],
            "sums": [dict(one) for one in self.sums],
            "chosen": dict(self.chosen),
            "circuit": dict(self.circuit),
            "positions": list(self.positions),
        }

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return replace(
            super().from_dict(data, tensors),
            nodes=tuple(data["nodes"]),
            edges=tuple(data["edges"]),
            sums=tuple(data["sums"]),
            chosen=data["chosen"],
            circuit=data["circuit"],
            positions=tuple(data["positions"]),
        )

    @override
    def table(self) -> str:
        drawn = f'<div class="bathyscope">{svg(self.picture)}</div>'
        parts = {"features": self.nodes, "edges": self.edges, "what attributions add up to": self.sums}
        below = "".join(table_of(name, {}, records) for name, records in parts.items())
        return drawn + table_of(self.heading, self.facts(), [_told(one) for one in self.records]) + below


def _told(record: Record) -> dict[str, Any]:
    """A record with one text a cell."""
    cases = "; ".join(f"{case} {model:.2f}/{circuit:.2f}" for case, (model, circuit) in record["by_case"].items())
    return {**record, "by_case": cases}
