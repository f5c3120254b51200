"""What `probe` returns: for each layer how well a probe does, beside what it must be compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from bathyscope import pages
from bathyscope.results import Result


@dataclass(frozen=True, eq=False)
class ProbingResult(Result):
    """What `probe` returns.

    Args:
        layers: a record a layer: "layer", "n", "accuracy", "n_learnable" and "accuracy_learnable" (of the items
            whose label another subject has), "control_accuracy", "selectivity" (accuracy less that of the control
            task), "bits", "compression", and "random_init" where that was asked for.
        baselines: a record each: "baseline", "accuracy".
        provenance: model, what was asked, versions.
        notes: what has to be known of the figures.
    """

    kind: ClassVar[str] = "probing"

    layers: tuple[Mapping[str, Any], ...]
    baselines: tuple[Mapping[str, Any], ...]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One record a layer; baselines are apart."""
        return [dict(record) for record in self.layers]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "rows": self.rows(),
            "baselines": [dict(record) for record in self.baselines],
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        return cls(tuple(data["rows"]), tuple(data["baselines"]), data["provenance"], tuple(data["notes"]))

    def page(self) -> str:
        """A table: layers down, measures across, baselines above."""
        columns = [name for name in self.layers[0] if name != "layer"]
        baselines = {f"{one['baseline']} baseline": f"{one['accuracy']:.3f}" for one in self.baselines}
        return pages.grid(
            "What a probe tells of each layer",
            {"model": str(self.provenance["models"][0]["model"]), **baselines, "notes": "\n".join(self.notes)},
            corner="layer",
            columns=columns,
            rows={str(record["layer"]): [_text(record[name]) for name in columns] for record in self.layers},
        )


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
