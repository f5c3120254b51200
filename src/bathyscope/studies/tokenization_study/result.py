"""What the tokenization study returns: how often a piece reads as the whole word, by layer, and since when."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from typing_extensions import override

from bathyscope.pages import Record, table_of
from bathyscope.studies.curves import Curve, Panel
from bathyscope.studies.result import StudyResult


@dataclass(frozen=True, eq=False)
class TokenizationResult(StudyResult):
    """What `tokenization` returns: a record a piece ("last", "middle", "first") and layer.

    A record has "piece", "layer", "n" (words), and the shares of texts that have the "whole" word, its "gloss" (a
    word that says what it is), and the piece's "own" letters, each with its "..._interval". Those of last pieces have
    beside them the share of the whole word in what is said of the same last piece "alone", of the same last piece
    behind another word's pieces ("swapped"), and of another word in what is said of this one ("shuffled"); and
    "gloss_..." of each. `controls` are nothing written ("unpatched") and the word as text ("prompting").

    Args:
        best: share of words read whole at a layer chosen on the other half ("chosen"), and at any layer ("any_layer",
            an oracle), with the controls' own.
        words: of each word its "pieces", the first "layer" that it reads whole at (None: never), all such "layers",
            what is said there ("text").
        first_layers: at how many words it first reads at each layer, and at how many "never".
        by_pieces: the same by the number of pieces.
    """

    kind: ClassVar[str] = "tokenization"
    heading: ClassVar[str] = "What the pieces of split words read as"

    best: Record = field(default_factory=dict)
    words: tuple[Record, ...] = ()
    first_layers: Mapping[str, int] = field(default_factory=dict)
    by_pieces: tuple[Record, ...] = ()

    def of(self, piece: str) -> tuple[Record, ...]:
        """The records of one kind of piece, lowest layer first."""
        return tuple(record for record in self.records if record["piece"] == piece)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {
            **super().to_dict(),
            "best": dict(self.best),
            "words": [dict(one) for one in self.words],
            "first_layers": dict(self.first_layers),
            "by_pieces": [dict(one) for one in self.by_pieces],
        }

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        return replace(
            super().from_dict(data, tensors),
            best=data["best"],
            words=tuple(data["words"]),
            first_layers=data["first_layers"],
            by_pieces=tuple(data["by_pieces"]),
        )

    def panels(self) -> tuple[Panel, ...]:
        """The curves to draw: the whole word with its controls, and what else a last piece reads as."""
        last = self.of("last")
        whole = [Curve.of(f"{piece} piece", self.of(piece), "whole") for piece in ("last", "middle", "first")]
        whole += [Curve.of(f"last piece {name}", last, name, control=True) for name in ("alone", "swapped")]
        whole += [Curve.of("another word", last, "shuffled", control=True)]
        named = {"whole": "the whole word", "gloss": "what it is", "own": "the piece's own letters"}
        said = [Curve.of(name, last, field) for field, name in named.items()]
        said += [Curve.of("what another word is", last, "gloss_shuffled", control=True)]
        return (
            Panel("share that reads as the whole word", tuple(one for one in whole if one)),
            Panel("share of last pieces that read as", tuple(one for one in said if one)),
        )

    @override
    def table(self) -> str:
        parts = {"chosen layer and oracle": [self.best], "by pieces": self.by_pieces, "words": self.words}
        parts |= {"words by the layer they first read at": [self.first_layers]}
        found = table_of(self.heading, self.facts(), self.records)
        return found + "".join(table_of(name, {}, records) for name, records in parts.items() if any(records))
