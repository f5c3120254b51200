"""What the next-token study returns: for each layer and method how often it says what the model will say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bathyscope import pages
from bathyscope.pages import Record
from bathyscope.studies.result import StudyResult, layer_name, share


@dataclass(frozen=True, eq=False)
class NextTokenResult(StudyResult):
    """What `next_token` returns: a record a method and layer.

    A record has "method", "layer", "n", and "precision_at_1" and "surprisal", each with its "..._interval";
    where the logit lens was measured, "precision_at_1_minus_logit_lens" and its interval as well.
    """

    kind: ClassVar[str] = "next-token"
    heading: ClassVar[str] = "Which token the model will say, read at each layer"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order that they were asked for."""
        return tuple(dict.fromkeys(record["method"] for record in self.records))

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, lowest first."""
        return tuple(sorted({record["layer"] for record in self.records}))

    def of(self, method: str) -> tuple[Record, ...]:
        """The records of one method, lowest layer first."""
        found = (record for record in self.records if record["method"] == method)
        return tuple(sorted(found, key=lambda record: record["layer"]))

    def best(self, layer: int) -> frozenset[str]:
        """The methods with the highest precision at a layer; none where all have the same."""
        there = {record["method"]: record["precision_at_1"] for record in self.records if record["layer"] == layer}
        top = max(there.values())
        found = frozenset(method for method, precision in there.items() if precision == top)
        return found if len(found) < len(there) else frozenset()

    def table(self) -> str:
        """Layers down, methods across, coloured by precision."""
        by_place = {(record["layer"], record["method"]): record for record in self.records}
        return pages.heat_map(
            heading=self.heading,
            facts={**self.facts(), "colour": "precision at 1, from 0 to 1; in brackets the surprisal in nats"},
            corner="layer",
            columns=self.methods,
            rows={
                layer_name(layer): [_heat(by_place[layer, method]) for method in self.methods] for layer in self.layers
            },
        )


def _heat(record: Record) -> pages.Heat:
    lines = [
        f"{record['n']} positions",
        _line("precision at 1", record["precision_at_1"], record["precision_at_1_interval"]),
    ]
    lines.append(_line("surprisal", record["surprisal"], record["surprisal_interval"]))
    if "precision_at_1_minus_logit_lens" in record:
        difference = record["precision_at_1_minus_logit_lens"], record["precision_at_1_minus_logit_lens_interval"]
        lines.append(_line("precision less that of the logit lens", *difference))
    shown = f"{share(record['precision_at_1'])} ({record['surprisal']:.1f})"
    return pages.Heat(shown, record["precision_at_1"], "\n".join(lines))


def _line(name: str, value: float, interval: Sequence[float]) -> str:
    return f"{name} {value:.3f}, 95% interval {interval[0]:.3f} to {interval[1]:.3f}"
