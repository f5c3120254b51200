"""What the tokenization study measures and keeps together: a word with all its pieces, layers and controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from bathyscope.engine import CancelledError, Cell, Read
from bathyscope.engine.keys import stored_spec
from bathyscope.generation import generate
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Generate, Reading
from bathyscope.sites import residual_site
from bathyscope.studies.measuring import Measuring
from bathyscope.studies.tokenization_study.asked import AskedWords

TOGETHER: Final = 8
"""Words that are measured together: fewer would make batches too small, more would cost an interruption more."""
VERSION: Final = 1
"""Version of what a record means; a change of meaning finds no old record."""
ALONE, SWAPPED = "alone", "swapped"
"""The controls of a word's last piece: without the others, and behind those of another word."""


@dataclass(frozen=True, eq=False)
class WordPortion:
    """One word: what is written of each piece, and of its last one elsewhere, for every layer.

    Args:
        asked: the call.
        number: of the word.
    """

    asked: AskedWords
    number: int

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return len(self.asked.layers) * len(self._places())

    def _places(self) -> list[tuple[Tokens, int]]:
        """Where is read: each piece, then the last one alone, then behind another word's pieces."""
        tokens, positions = self.asked.placed[self.number]
        pieces = [(tokens, position) for position in positions]
        return [*pieces, self.asked.alone(self.number), self.asked.swapped(self.number)]

    def cells(self) -> list[Cell]:
        """By place and then by layer."""
        into, readout, found = self.asked.inspection, Generate(self.asked.new_tokens), []
        for tokens, position in self._places():
            for layer in self.asked.layers:
                read = Read(tokens, residual_site(layer), position)
                site = residual_site(self.asked.target_layer(layer))
                found.append(Cell(into.tokens, readout, read, site, into.positions))
        return found

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "tokenization",
            "version": VERSION,
            "layers": list(self.asked.layers),
            # Prompts, sites, readout and model, as the engine itself knows them.
            "first": [stored_spec(cell, model, model) for cell in self.cells()[:: len(self.asked.layers)]],
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """For each piece the texts by layer; and those of the controls."""
        n = len(self.asked.layers)
        rows = [[reading.text for reading in readings[first : first + n]] for first in range(0, len(readings), n)]
        *pieces, alone, swapped = rows
        return {"pieces": pieces, ALONE: alone, SWAPPED: swapped}


@dataclass(frozen=True, eq=False)
class SpokenPortion:
    """What the model says of nothing, and where each word stands in the prompt as text: no representation is moved."""

    asked: AskedWords

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return 1 + len(self.asked.words)

    def cells(self) -> list[Cell]:
        """None: see `texts`."""
        return []

    def texts(self) -> dict[str, Any]:
        """What is written, of nothing and of every word."""
        prompts = [self.asked.target.text, *self.asked.named]
        written = generate(self.asked.model, prompts, max_new_tokens=self.asked.new_tokens)
        return {"unpatched": written[0].text, "prompting": [one.text for one in written[1:]]}

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "tokenization prompting",
            "version": VERSION,
            "prompts": [list(model.tokenize(text).ids) for text in self.asked.named],
            "first": stored_spec(WordPortion(self.asked, 0).cells()[0], model, model),
        }


class WordMeasuring(Measuring):
    """Portions of which one is prompts of its own."""

    @override
    def _measure(self, portions: Sequence[Any], done: int) -> list[Any]:
        if not portions or not isinstance(portions[0], SpokenPortion):
            return super()._measure(portions, done)
        if self.stop is not None and self.stop.now:
            raise CancelledError("the study was stopped", "what was finished is kept where there is a store")
        return [portion.texts() for portion in portions]


def groups_of(asked: AskedWords) -> list[list[Any]]:
    """What is measured and kept together: some words at a time, then the prompts."""
    words = [WordPortion(asked, number) for number in range(len(asked.words))]
    groups: list[list[Any]] = [words[first : first + TOGETHER] for first in range(0, len(words), TOGETHER)]
    return [*groups, [SpokenPortion(asked)]]


@dataclass(frozen=True, eq=False)
class Spoken:
    """All that was said.

    Args:
        pieces: of each word, for each piece, a text a layer.
        controls: by name, of each word, a text a layer.
        unpatched: of nothing.
        prompting: of each word as text.
    """

    pieces: tuple[tuple[tuple[str, ...], ...], ...]
    controls: Mapping[str, tuple[tuple[str, ...], ...]]
    unpatched: str
    prompting: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[Mapping[str, Any]]) -> "Spoken":
        """From what the portions of `groups_of` gave, in order."""
        *words, spoken = values
        return cls(
            tuple(tuple(map(tuple, one["pieces"])) for one in words),
            {name: tuple(tuple(one[name]) for one in words) for name in (ALONE, SWAPPED)},
            spoken["unpatched"],
            tuple(spoken["prompting"]),
        )
