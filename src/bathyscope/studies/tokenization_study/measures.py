"""From what was said of pieces to records: whether the whole word is in it, by piece and layer, and since when."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from bathyscope.readouts import normalized
from bathyscope.studies.bootstrap import Bootstrap, tallied
from bathyscope.studies.paired import Halves
from bathyscope.studies.tokenization_study.asked import AskedWords, kind_of
from bathyscope.studies.tokenization_study.portions import ALONE, SWAPPED, Spoken

Table = NDArray[numpy.float64]
"""(words, layers); not a number where a word has no such piece."""

SHUFFLED: Final = "shuffled"
CONTROLS: Final = (ALONE, SWAPPED, SHUFFLED)
"""What a last piece's texts are held against, layer by layer."""
PIECES: Final = ("last", "middle", "first")


def says(text: str, word: str) -> float:
    """1.0 where a text has a word, whole, as `normalized` has both, else 0.0.

    Example:
        >>> from bathyscope.studies.tokenization_study.measures import says
        >>> says(' -> Bulldozer"', "bulldozer"), says(" -> bulldozers", "bulldozer")
        (1.0, 0.0)
    """
    wanted = normalized(word)
    return float(bool(wanted) and f" {wanted} " in f" {normalized(text)} ")


class Spelled:
    """Everything that follows from what was said.

    Args:
        asked: the call.
        spoken: what was said.
    """

    def __init__(self, asked: AskedWords, spoken: Spoken) -> None:
        self.asked, self.spoken = asked, spoken
        self.words = [one.word for one in asked.words]
        self.glosses = [one.gloss for one in asked.words]
        self.bootstrap = Bootstrap.of([*range(len(self.words))], seed=asked.seed)

    @cached_property
    def last(self) -> Table:
        """Whether the texts of the last piece have the whole word."""
        return self._of("last", self.words)

    def records(self) -> Iterator[dict[str, Any]]:
        """One a piece and layer; those of the last piece have the controls beside them."""
        for piece in PIECES:
            whole, gloss, own = self._of(piece, self.words), self._of(piece, self.glosses), self._of(piece, None)
            n = int((~numpy.isnan(whole[:, 0])).sum())
            if not n:
                continue
            for column, layer in enumerate(self.asked.layers):
                record: dict[str, Any] = {"piece": piece, "layer": layer, "n": n}
                record |= tallied("whole", whole[:, column], self.bootstrap)
                record |= tallied("gloss", gloss[:, column], self.bootstrap)
                record |= tallied("own", own[:, column], self.bootstrap)
                if piece == "last":
                    record |= {name: float(self.controls[name][:, column].mean()) for name in CONTROLS}
                    record |= {f"gloss_{name}": float(self.gloss_controls[name][:, column].mean()) for name in CONTROLS}
                yield record

    def of_nothing(self) -> list[dict[str, Any]]:
        """The controls that have no layer: nothing written, and the word as text, with their intervals."""
        found = []
        for name, texts in (
            ("unpatched", [self.spoken.unpatched] * len(self.words)),
            ("prompting", self.spoken.prompting),
        ):
            whole = numpy.array([says(text, word) for text, word in zip(texts, self.words, strict=True)])
            gloss = numpy.array([says(text, word) for text, word in zip(texts, self.glosses, strict=True)])
            record = {"control": name, "n": len(self.words)}
            found.append(record | tallied("whole", whole, self.bootstrap) | tallied("gloss", gloss, self.bootstrap))
        return found

    def best(self) -> dict[str, Any]:
        """At a layer chosen on the other half; and at any layer, which is an oracle, with the controls' own."""
        halves = Halves.drawn(len(self.words), self.asked.seed)
        at, chosen = halves.chosen(self.last)
        found: dict[str, Any] = {"chosen_layers": [self.asked.layers[column] for column in at]}
        found |= tallied("chosen", chosen, self.bootstrap) | tallied("any_layer", self.last.max(1), self.bootstrap)
        for name in CONTROLS:
            found |= tallied(f"any_layer_{name}", self.controls[name].max(1), self.bootstrap)
        found |= tallied("any_layer_gloss", self._of("last", self.glosses).max(1), self.bootstrap)
        return found | tallied("any_layer_gloss_shuffled", self.gloss_controls[SHUFFLED].max(1), self.bootstrap)

    def each_word(self) -> Iterator[dict[str, Any]]:
        """Of each word its pieces, the first layer that it is read whole at, and what is said there and later."""
        glossed = self._of("last", self.glosses)
        for number, word in enumerate(self.words):
            texts = self.spoken.pieces[number][-1]
            first = _first(self.last[number])
            yield {
                "word": word,
                "gloss": self.glosses[number],
                "pieces": list(self.asked.pieces(number)),
                "layer": None if first is None else self.asked.layers[first],
                "layers": [self.asked.layers[column] for column in numpy.flatnonzero(self.last[number]).tolist()],
                "gloss_layer": self._layer(_first(glossed[number])),
                "text": texts[first if first is not None else len(texts) // 3],
                "prompting": self.spoken.prompting[number],
            }

    def first_layers(self) -> dict[str, int]:
        """At how many words the whole word first reads at each layer, and at how many never."""
        firsts = [_first(row) for row in self.last]
        found = {str(layer): firsts.count(column) for column, layer in enumerate(self.asked.layers)}
        return {**found, "never": firsts.count(None)}

    def by_pieces(self) -> Iterator[dict[str, Any]]:
        """For words of 2, 3, and of 4 or more pieces, how many are read whole at any layer."""
        counts = numpy.minimum([len(self.asked.pieces(number)) for number in range(len(self.words))], 4)
        for count in sorted(set(counts.tolist())):
            members = numpy.flatnonzero(counts == count).tolist()
            firsts = [found for found in (_first(self.last[member]) for member in members) if found is not None]
            layers = sorted(self.asked.layers[column] for column in firsts)
            yield {
                "pieces": "4+" if count == 4 else str(count),
                "n": len(members),
                "read": len(layers),
                "median_first_layer": float(numpy.median(layers)) if layers else None,
            }

    @cached_property
    def controls(self) -> dict[str, Table]:
        """Whether the word is in what is said of its last piece elsewhere, and another word in what is said of it."""
        return self._controls(self.words)

    @cached_property
    def gloss_controls(self) -> dict[str, Table]:
        """The same of the gloss."""
        return self._controls(self.glosses)

    def _controls(self, wanted: Sequence[str]) -> dict[str, Table]:
        spoken = self.spoken.controls
        found = {
            name: self._table(lambda number, name=name: spoken[name][number], lambda number: wanted[number])
            for name in (ALONE, SWAPPED)
        }
        others = self.asked.others
        found[SHUFFLED] = self._table(
            lambda number: self.spoken.pieces[number][-1], lambda number: wanted[others[number]]
        )
        return found

    def _of(self, piece: str, wanted: Sequence[str] | None) -> Table:
        """Whether the texts of a kind of piece have a word, or with None the piece itself; the mean of such pieces."""
        found = numpy.full((len(self.words), len(self.asked.layers)), numpy.nan)
        for number, texts in enumerate(self.spoken.pieces):
            own = self.asked.pieces(number)
            places = [place for place in range(len(texts)) if kind_of(place, len(texts)) == piece]
            if places:
                rows = [
                    [says(text, own[place] if wanted is None else wanted[number]) for text in texts[place]]
                    for place in places
                ]
                found[number] = numpy.mean(rows, 0)
        return found

    def _table(self, texts: Callable[[int], Sequence[str]], wanted: Callable[[int], str]) -> Table:
        rows = range(len(self.words))
        return numpy.array([[says(text, wanted(number)) for text in texts(number)] for number in rows])

    def _layer(self, column: int | None) -> int | None:
        return None if column is None else self.asked.layers[column]


def _first(row: NDArray[numpy.float64]) -> int | None:
    """The first column that is not zero."""
    there = numpy.flatnonzero(row)
    return int(there[0]) if len(there) else None
