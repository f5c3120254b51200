"""What the cross-model study returns: for each pair of layers how well, and in what words, the target tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from typing_extensions import override

from bathyscope import pages
from bathyscope.pages import Record
from bathyscope.studies.result import StudyResult, layer_name, share


@dataclass(frozen=True, eq=False)
class CrossModelResult(StudyResult):
    """What `cross_model` returns: a record a prompt and pair of layers, and descriptions.

    A record has "prompt" ("same-text" or "token-identity"), "source_layer", "target_layer", "n",
    "precision_at_1" and "surprisal", each with its "..._interval", and beside them the precision of the controls:
    "unpatched" (nothing written), "random" (a random vector of the same length), "mean" (the mean of what
    the mapping gives), each with its "..._surprisal", and "agreement" (how often the two models say the same
    next token, untouched). "precision_at_1_minus_unpatched" and "surprisal_minus_unpatched" have intervals, too.

    Args:
        descriptions: what the target wrote: "name", "source_layer", "target_layer", "text".
        description_controls: what it wrote of nothing, {"written": "nothing", "text": ...}, and of a random vector,
            {"written": "random", "name", "target_layer", "text"}.
    """

    kind: ClassVar[str] = "cross-model"
    heading: ClassVar[str] = "What one model says of another's representations"

    descriptions: tuple[Record, ...] = ()
    description_controls: tuple[Record, ...] = ()

    @property
    def prompts(self) -> tuple[str, ...]:
        """What was written into where next tokens were compared."""
        return tuple(dict.fromkeys(record["prompt"] for record in self.records))

    @property
    def names(self) -> tuple[str, ...]:
        """What was described."""
        return tuple(dict.fromkeys(record["name"] for record in self.descriptions))

    @property
    def unpatched(self) -> str | None:
        """What the target writes of nothing, or None where nothing was described."""
        return next((one["text"] for one in self.description_controls if one["written"] == "nothing"), None)

    def of(self, prompt: str) -> dict[tuple[int, int], Record]:
        """The records of one prompt by source and target layer."""
        found = (record for record in self.records if record["prompt"] == prompt)
        return {(record["source_layer"], record["target_layer"]): record for record in found}

    def described(self, name: str) -> dict[tuple[int, int], str]:
        """What was written of one name, by source and target layer."""
        found = (record for record in self.descriptions if record["name"] == name)
        return {(record["source_layer"], record["target_layer"]): record["text"] for record in found}

    def random_texts(self, name: str) -> dict[int, str]:
        """What was written of a random vector instead, by target layer."""
        found = (one for one in self.description_controls if one["written"] == "random" and one["name"] == name)
        return {one["target_layer"]: one["text"] for one in found}

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "descriptions": [dict(one) for one in self.descriptions],
            "description_controls": [dict(one) for one in self.description_controls],
        }

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return replace(
            super().from_dict(data, tensors),
            descriptions=tuple(data["descriptions"]),
            description_controls=tuple(data["description_controls"]),
        )

    @override
    def table(self) -> str:
        """For each prompt precision by layers, and for each name what was written, by layers."""
        found = [self._precisions(prompt) for prompt in self.prompts]
        found += [self._words(name) for name in self.names]
        return "".join(found) or pages.grid(self.heading, self.facts(), "", (), {})

    def _precisions(self, prompt: str) -> str:
        records = self.of(prompt)
        targets = sorted({other for _, other in records})
        return pages.heat_map(
            heading=f"{self.heading}: next tokens, written into {PROMPTS[prompt]}",
            facts={**self.facts(), "colour": "precision at 1, from 0 to 1; in brackets nothing, random, mean written"},
            corner="read after, written after",
            columns=[layer_name(other) for other in targets],
            rows={
                layer_name(layer): [_heat(records.get((layer, other))) for other in targets]
                for layer in sorted({layer for layer, _ in records})
            },
        )

    def _words(self, name: str) -> str:
        texts, random = self.described(name), self.random_texts(name)
        targets = sorted(random)
        rows = {
            layer_name(layer): [texts.get((layer, other), "") for other in targets]
            for layer in sorted({layer for layer, _ in texts})
        }
        return pages.grid(
            heading=f"{self.heading}: {name}",
            facts={**({} if self.records else self.facts()), "nothing written": self.unpatched or ""},
            corner="read after, written after",
            columns=[layer_name(other) for other in targets],
            rows={**rows, "a random vector": [random[other] for other in targets]},
        )


PROMPTS = {
    "same-text": "the same text, at the same place",
    "token-identity": "the token-identity prompt",
}
"""What the prompts are, for people."""


def _heat(record: Record | None) -> pages.Heat:
    if record is None:
        return pages.Heat("", None, "not measured")
    low, high = record["precision_at_1_interval"]
    controls = [share(record[name]) for name in ("unpatched", "random", "mean")]
    lines = [
        f"precision at 1 {record['precision_at_1']:.3f}, 95% interval {low:.3f} to {high:.3f}, {record['n']} positions",
        f"nothing written {controls[0]}, a random vector {controls[1]}, the mean {controls[2]}",
        f"the models agree at {record['agreement']:.3f}",
        f"surprisal {record['surprisal']:.3f} nats",
    ]
    text = f"{share(record['precision_at_1'])} ({' '.join(controls)})"
    return pages.Heat(text, record["precision_at_1"], "\n".join(lines))
