"""What every study returns: one record a measurement, with notes, controls, and where it all comes from.

A study names its `kind`, and may show its records in a table of its own; the rest is here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from bathyscope.pages import Record, table_of
from bathyscope.results import Result
from bathyscope.sites import EMBEDDING_LAYER


@dataclass(frozen=True, eq=False)
class StudyResult(Result):
    """What a study returns; a member sets `kind` and `heading`.

    Args:
        records: one a measurement, as `rows` gives them.
        provenance: models, everything that was asked, versions.
        notes: what a reader has to know of the figures: conventions, what was fitted, what was left out.
        controls: the same measurements of what should not work, or of what bounds it; one record each, where they
            are not fields of the records.
        plans: how it was computed, by name (`engine.Plan.to_dict`).
        timing: seconds without loading the models, cells, those computed now.
        run: the run's id in the store, where one was given.
    """

    heading: ClassVar[str]
    """What a page says above the table."""

    records: tuple[Record, ...]
    provenance: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    controls: tuple[Record, ...] = ()
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    timing: Mapping[str, float] = field(default_factory=dict)
    run: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The measurements as flat records; controls are apart."""
        return [dict(record) for record in self.records]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "rows": self.rows(),
            # Where controls stand in the rows themselves, an empty list would say that none ran.
            **({"controls": [dict(record) for record in self.controls]} if self.controls else {}),
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
            "plans": {name: dict(plan) for name, plan in self.plans.items()},
            "timing": dict(self.timing),
            "run": self.run,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        return cls(
            records=tuple(data["rows"]),
            provenance=data["provenance"],
            notes=tuple(data["notes"]),
            controls=tuple(data.get("controls", ())),
            plans=data["plans"],
            timing=data["timing"],
            run=data["run"],
        )

    @property
    def title(self) -> str:
        """The heading."""
        return self.heading

    def page(self) -> str:
        """The table, and that of the controls below it."""
        found = self.table()
        if self.controls:
            found += table_of("controls", {}, self.controls)
        return found

    def table(self) -> str:
        """The records as a table, under the heading and what was asked; a member may arrange them better."""
        return table_of(self.heading, self.facts(), self.records)

    def facts(self) -> dict[str, str]:
        """What stands above the table: models and notes."""
        models = dict.fromkeys(str(model["model"]) for model in self.provenance["models"])
        return {"model": " to ".join(models), "notes": "\n".join(self.notes)}


def layer_name(layer: int) -> str:
    """A layer as people read it."""
    return "embed" if layer == EMBEDDING_LAYER else str(layer)


def share(value: float) -> str:
    """A share with three digits and no leading zero, such as ".141" or "1.000"."""
    return f"{value:.3f}".removeprefix("0") if value >= 0 else f"-{share(-value)}"
