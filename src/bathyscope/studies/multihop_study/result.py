"""What the multi-hop study returns: how many two-hop answers a moved representation corrects and how many it breaks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

from bathyscope import pages
from bathyscope.pages import Record
from bathyscope.studies.result import StudyResult, layer_name

FEW: Final = 30
"""Of fewer queries no percentages are shown."""


@dataclass(frozen=True, eq=False)
class MultihopResult(StudyResult):
    """What `multihop` returns: a record a configuration, of counts of the n queries that were patched.

    A record has "configuration", "n", "vanilla", "statement" (the query with " is"), "chain_of_thought", "patchscope"
    (at a pair of layers chosen on the other half), "corrected" and "broken" against vanilla, each with "..._oracle"
    (any pair of layers), "chosen_cells" and "best_cell" as [layer read, layer written], "p" of patchscope against
    vanilla, and "control_other", "control_random" (with "..._oracle"), "control_unpatched".

    Args:
        joins: a record a pair of relations: queries, hops right alone, vanilla, oracle.
        grids: by configuration how many queries each cell has right, (layers read, layers written).
    """

    kind: ClassVar[str] = "multihop"
    heading: ClassVar[str] = "Two-hop questions: answers corrected by moving the first hop's representation"

    joins: tuple[Record, ...] = ()
    grids: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        joins = [dict(record) for record in self.joins]
        return {**super().to_dict(), "joins": joins, "grids": {name: list(rows) for name, rows in self.grids.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        found = super().from_dict(data, tensors)
        object.__setattr__(found, "joins", tuple(data["joins"]))
        object.__setattr__(found, "grids", data["grids"])
        return found

    @property
    def sources(self) -> tuple[int, ...]:
        """The layers that were read."""
        return tuple(self.provenance["spec"]["layers"])

    @property
    def targets(self) -> tuple[int, ...]:
        """The layers that were written."""
        return tuple(self.provenance["spec"]["target_layers"])

    def table(self) -> str:
        """The counts, then for each configuration a map of layers read and written."""
        n = self.records[0]["n"]
        parts = [super().table()]
        for configuration, rows in self.grids.items():
            parts.append(
                pages.heat_map(
                    f"Configuration {configuration}: of {n} queries, right in each cell",
                    {"down": "layer read", "across": "layer written"},
                    corner="layer",
                    columns=[layer_name(layer) for layer in self.targets],
                    rows={
                        layer_name(layer): [pages.Heat(str(count), count / n, f"{count} of {n}") for count in counts]
                        for layer, counts in zip(self.sources, rows, strict=True)
                    },
                )
            )
        return "".join(parts)
