"""What the agreement study returns: circuits of several rules and sizes, and the one that is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from typing_extensions import override

from bathyscope.circuits import CircuitResult
from bathyscope.circuits.viewer import viewer_page
from bathyscope.pages import Record, table_of
from bathyscope.pictures import Picture
from bathyscope.studies.result import StudyResult


@dataclass(frozen=True, eq=False, kw_only=True)
class AgreementResult(StudyResult):
    """What `agreement` returns: a record a circuit.

    A record has its "basis" (latents, coordinates, directions, neurons), the "rule" that chose it, its "errors", and
    the fields of `circuits.Faithfulness`, on held-out nouns; "train_faithfulness" of those that
    could be shown, and "shown" of the one that is `found`.

    Args:
        found: the circuit that is shown: its features, edges, pairs and coders.
    """

    kind: ClassVar[str] = "agreement"
    heading: ClassVar[str] = "Which features make the verb agree"

    found: CircuitResult

    @property
    def picture(self) -> Picture:
        """The circuit as it is drawn, in the page and by `plots.save_graph`."""
        return self.found.picture

    @override
    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "found": self.found.to_dict()}

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return cls(
            records=tuple(data["rows"]),
            provenance=data["provenance"],
            notes=tuple(data["notes"]),
            timing=data["timing"],
            found=CircuitResult.from_dict(data["found"], tensors),
        )

    @override
    def table(self) -> str:
        return self.found.page() + self._figures()

    @override
    def to_html(self) -> str:
        """A page to explore the circuit in, with every circuit's figures below; nothing is fetched."""
        return viewer_page(self.found.view(), below=(self._figures(),))

    def _figures(self) -> str:
        return table_of(self.heading, self.facts(), [_told(one) for one in self.records])


def _told(record: Record) -> dict[str, Any]:
    """A record with one text a cell."""
    cases = "; ".join(f"{case} {model:.2f}/{circuit:.2f}" for case, (model, circuit) in record["by_case"].items())
    return {**record, "by_case": cases}
