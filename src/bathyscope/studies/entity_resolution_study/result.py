"""What the entity-resolution study returns: scores by layer with their controls, and where each entity resolves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Self

from typing_extensions import override

from bathyscope.pages import Record, table_of
from bathyscope.studies.curves import Curve, Panel
from bathyscope.studies.result import StudyResult, layer_name

EARLY: Final = range(6)
"""Blocks that are printed apart."""
CONTROLS: Final = ("unpatched", "random", "mean", "shuffled", "shuffled_same_type", "prompting")
"""What stands beside every figure, by field."""


@dataclass(frozen=True, eq=False)
class EntityResolutionResult(StudyResult):
    """What `entity_resolution` returns: a record a layer.

    A record has "layer", "n" and, of the descriptions, "rouge_l", "rouge_l_unseen" and "contains" (see
    `entity_measures.MEASURES`), and "similarity" where a sentence model was given, with their "..._interval"; the
    ROUGE-L of each control ("unpatched", "random", "mean", "shuffled", "shuffled_same_type", "prompting"), and their
    "contains_..." and "similarity_..."; "logit_lens" and, where there is one, "tuned_lens": the share of entities of
    which the 20 likeliest tokens have a telling word, and "contains_minus_..." with its interval; "probe" and
    "majority": accuracy of the entity's type. `controls` has the means over the layers that were measured.

    Args:
        early: the means over blocks 0 to 5, as a record; empty where they were not measured.
        best: the ROUGE-L at a layer chosen on the other half ("chosen"), of each entity's best layer ("oracle", which
            is no measurement of the method), and of the oracle with descriptions of others.
        entities: for each its "name", "type", "n_tokens", the "layer" it resolves at (None: never), its best layer,
            score and text, and what was said of its name as text.
        by_tokens: for names of 1, 2, 3 and 4 or more tokens, how many resolve, the median layer, the scores.
        resolved: how many entities resolve at each layer, and how many "never"; "shuffled" and "shuffled_same_type" the
            same with another's descriptions.
    """

    kind: ClassVar[str] = "entity-resolution"
    heading: ClassVar[str] = "At which layer an entity can be described"

    early: Record = field(default_factory=dict)
    best: Record = field(default_factory=dict)
    entities: tuple[Record, ...] = ()
    by_tokens: tuple[Record, ...] = ()
    resolved: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "early": dict(self.early),
            "best": dict(self.best),
            "entities": [dict(one) for one in self.entities],
            "by_tokens": [dict(one) for one in self.by_tokens],
            "resolved": {name: dict(counts) for name, counts in self.resolved.items()},
        }

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return replace(
            super().from_dict(data, tensors),
            early=data["early"],
            best=data["best"],
            entities=tuple(data["entities"]),
            by_tokens=tuple(data["by_tokens"]),
            resolved=data["resolved"],
        )

    def panels(self) -> tuple[Panel, ...]:
        """The curves to draw: ROUGE-L with its controls, and telling words beside the lenses."""
        scores = [Curve.of("patchscope", self.records, "rouge_l")]
        scores += [Curve.of(name.replace("_", " "), self.records, name, control=True) for name in CONTROLS]
        named = {"contains": "patchscope", "logit_lens": "logit lens", "tuned_lens": "tuned lens"}
        words = [Curve.of(name, self.records, field) for field, name in named.items()]
        words += [Curve.of("probe of the type", self.records, "probe", control=True)]
        words += [Curve.of("majority type", self.records, "majority", control=True)]
        return (
            Panel("ROUGE-L F1", tuple(one for one in scores if one)),
            Panel("share with a telling word; accuracy", tuple(one for one in words if one)),
        )

    @override
    def table(self) -> str:
        shown = {"best": [self.best], "by tokens of the name": self.by_tokens, "entities": self.entities}
        found = table_of(
            self.heading, self.facts(), [_named(record) for record in (*self.records, self.early) if record]
        )
        return found + "".join(table_of(name, {}, records) for name, records in shown.items() if any(records))


def _named(record: Record) -> Record:
    layer = record["layer"]
    return {**record, "layer": layer_name(layer) if isinstance(layer, int) else layer}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return " to ".join(map(_text, value)) if isinstance(value, (list, tuple)) else str(value)
