"""What the attribute-extraction study returns: for each relation and layer how often the attribute is read, and how."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from bathyscope import pages
from bathyscope.pages import Record
from bathyscope.studies.curves import Curve, Panel
from bathyscope.studies.result import StudyResult, layer_name, share


@dataclass(frozen=True, eq=False)
class AttributeExtractionResult(StudyResult):
    """What `attribute_extraction` returns: a record a relation and layer that is read.

    A record has "relation", "layer", "n", "n_classes", and shares of the n items: "patchscope" (at a target layer
    chosen on the other half of the subjects, "target_layers"), "patchscope_oracle" (at any target layer), "probe",
    "control_unpatched", "control_prompting", "control_random", "control_mean", "control_shuffled" and
    "control_no_activation" (chosen alike) with "..._oracle" of each, "logit_lens" and "tuned_lens" (the object's first
    token among the likeliest), "probe_majority". "patchscope_minus_probe" has an interval, "p" and "p_bonferroni".
    "..._learnable" are of the items whose object another subject has. Items whose object stands in the sentence or in
    the template are not among the n: "n_answer_in_text".

    Args:
        summary: a record a relation: the means over its layers, with one test of all of them.
    """

    kind: ClassVar[str] = "attribute-extraction"
    heading: ClassVar[str] = "Attributes of a subject: said by the model itself, and told by a trained probe"

    summary: tuple[Record, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {**super().to_dict(), "summary": [dict(record) for record in self.summary]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        found = super().from_dict(data, tensors)
        object.__setattr__(found, "summary", tuple(data["summary"]))
        return found

    @property
    def relations(self) -> tuple[str, ...]:
        """The relations, in the order that they were asked for."""
        return tuple(dict.fromkeys(record["relation"] for record in self.records))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were read, lowest first."""
        return tuple(sorted({record["layer"] for record in self.records}))

    def mean(self, layer: int, field: str) -> float | None:
        """The mean of a figure over the relations at a layer; None where it was not measured."""
        found = [record[field] for record in self.records if record["layer"] == layer and record.get(field) is not None]
        return sum(found) / len(found) if found else None

    def panels(self) -> tuple[Panel, ...]:
        """Curves over the layers that are read, means over the relations: chosen cells, and oracles apart."""
        chosen = [name for name in COLUMNS if not name.endswith("_oracle")]
        oracles = [name for name in COLUMNS if name.endswith("_oracle")]
        return (
            Panel("share of items, layer written at chosen on the other half", self._curves(chosen)),
            Panel("ORACLE: share right at any layer written at", self._curves(oracles)),
        )

    def _curves(self, names: Sequence[str]) -> tuple[Curve, ...]:
        means = [{"layer": layer, **{name: self.mean(layer, name) for name in names}} for layer in self.layers]
        curves = (
            Curve.of(COLUMNS[name], means, name, control=not name.startswith(("patchscope", "probe"))) for name in names
        )
        return tuple(curve for curve in curves if curve is not None)

    def table(self) -> str:
        """For each relation layers down, methods across, coloured by share."""
        shown = [name for name in COLUMNS if any(record.get(name) is not None for record in self.records)]
        parts = []
        for relation in self.relations:
            records = {record["layer"]: record for record in self.records if record["relation"] == relation}
            rows = {layer_name(layer): [_heat(records[layer], name) for name in shown] for layer in sorted(records)}
            facts = {**self.facts(), "colour": "share of the items, from 0 to 1"}
            parts.append(
                pages.heat_map(f"{self.heading}: {relation}", facts, "layer", [COLUMNS[n] for n in shown], rows)
            )
        return "".join(parts)


COLUMNS = {
    "patchscope": "patchscope, chosen",
    "probe": "probe",
    "control_random": "random, chosen",
    "control_mean": "mean, chosen",
    "control_shuffled": "shuffled, chosen",
    "control_no_activation": "no-activation, chosen",
    "control_unpatched": "unpatched",
    "control_prompting": "prompting",
    "logit_lens": "logit lens",
    "tuned_lens": "tuned lens",
    "patchscope_oracle": "ORACLE patchscope",
    "control_random_oracle": "ORACLE random",
    "control_mean_oracle": "ORACLE mean",
    "control_shuffled_oracle": "ORACLE shuffled",
    "control_no_activation_oracle": "ORACLE no-activation",
}
"""The figures of a record that are shown, and what they are called."""


def _heat(record: Record, name: str) -> pages.Heat:
    value = record.get(name)
    details = f"{COLUMNS[name]}, {record['n']} items, {record['n_classes']} classes"
    return pages.Heat("" if value is None else share(value), value, details)
