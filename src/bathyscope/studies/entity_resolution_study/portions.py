"""What the entity-resolution study measures and keeps together: a name with all its layers, or the controls."""

from collections.abc import Iterator, Sequence
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import override

from bathyscope.engine import CancelledError, Cell, Given, Read
from bathyscope.engine.keys import stored_spec
from bathyscope.generation import generate
from bathyscope.lenses.vocabulary import behind_last_block
from bathyscope.mappings import Identity, Mapping
from bathyscope.model import Model
from bathyscope.prompts import Inspection
from bathyscope.readouts import Generate, NextToken, Reading
from bathyscope.sites import Site, residual_site
from bathyscope.studies.entity_resolution_study.asked import RANDOM, AskedEntities
from bathyscope.studies.measuring import Measuring

TOP: Final = 20
"""Tokens that a lens lists: more than a description has words, so that it is not the lens that is held back."""
TOGETHER: Final = 24
"""Names that are measured together: fewer would make batches too small, more would cost an interruption more."""
UNCHANGED: Final = Identity()
"""One for all cells: the engine maps together what has the same mapping."""
VERSION: Final = 1
"""Version of what a record means; a change of meaning finds no old record."""


@dataclass(frozen=True, eq=False)
class EntityPortion:
    """One name: what is written of it, and what the logit lens lists, for every layer.

    Args:
        asked: the call.
        number: of the entity.
    """

    asked: AskedEntities
    number: int

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return 2 * len(self.asked.layers)

    def cells(self) -> list[Cell]:
        """Descriptions by layer, then the logit lens."""
        asked, into, readout = self.asked, self.asked.inspection, Generate(self.asked.new_tokens)
        reads = reads_of(asked, self.number)
        found = [Cell(into.tokens, readout, read, read.site, into.positions) for read in reads]
        return found + lens_cells(asked.model, reads, UNCHANGED)

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        cells, n = self.cells(), len(self.asked.layers)
        return {
            "study": "entity-resolution",
            "version": VERSION,
            "layers": list(self.asked.layers),
            # Prompts, readouts, mappings and model, as the engine itself knows them.
            "first": [stored_spec(cell, model, model) for cell in cells[::n]],
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """By layer the texts, and the tokens of the logit lens."""
        n = len(self.asked.layers)
        return {"texts": [reading.text for reading in readings[:n]], "logit_lens": listed(readings[n:])}


@dataclass(frozen=True, eq=False)
class LensPortion:
    """What the tuned lens lists of all names, for every layer: apart, so that a lens can be added to what is kept."""

    asked: AskedEntities

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return len(self.asked.entities) * len(self.asked.layers)

    def cells(self) -> list[Cell]:
        """By name and then by layer."""
        asked = self.asked
        assert asked.tuned_lens is not None
        reads = [read for number in range(len(asked.entities)) for read in reads_of(asked, number)]
        return lens_cells(asked.model, reads, asked.tuned_lens)

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "entity-resolution lens",
            "version": VERSION,
            "names": [list(tokens.ids) for tokens in self.asked.tokens],
            "layers": list(self.asked.layers),
            "first": stored_spec(self.cells()[0], model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """Of each name by layer the tokens."""
        n = len(self.asked.layers)
        return {"tuned_lens": [listed(readings[first : first + n]) for first in range(0, len(readings), n)]}


def reads_of(asked: AskedEntities, number: int) -> list[Read]:
    """The last token of a name, after each layer."""
    tokens = asked.tokens[number]
    return [Read(tokens, residual_site(layer), len(tokens) - 1) for layer in asked.layers]


def lens_cells(model: Model, reads: Sequence[Read], mapping: Mapping) -> list[Cell]:
    """What a lens lists of representations."""
    behind = behind_last_block(model).prompt
    assert isinstance(behind, Inspection)
    last = Site("resid_post", model.n_layers - 1)
    return [Cell(behind.tokens, NextToken(TOP), read, last, behind.positions, mapping) for read in reads]


def listed(readings: Sequence[Reading]) -> list[list[str]]:
    """The tokens of each reading."""
    return [[one.token for one in reading.candidates] for reading in readings]


@dataclass(frozen=True, eq=False)
class ControlPortion:
    """What is written of nothing, and for every layer of the mean over names and of random vectors."""

    asked: AskedEntities

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return 1 + len(self.asked.layers) * (1 + min(RANDOM, len(self.asked.usual)))

    def cells(self) -> list[Cell]:
        """Nothing, then by layer the mean and the random vectors."""
        into, readout = self.asked.inspection, Generate(self.asked.new_tokens)
        found = [Cell(into.tokens, readout)]
        for layer in self.asked.layers:
            values: list[Given] = [self.asked.mean(layer), *self.asked.random(layer)]
            found += [Cell(into.tokens, readout, one, one.site, into.positions) for one in values]
        return found

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values: what is written follows from names, layers and seed."""
        asked = self.asked
        return {
            "study": "entity-resolution controls",
            "version": VERSION,
            "names": [list(tokens.ids) for tokens in asked.tokens],
            "left_out": list(asked.at_first),
            "layers": list(asked.layers),
            "seed": asked.seed,
            "first": stored_spec(EntityPortion(asked, 0).cells()[0], model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """The text of nothing, and by layer that of the mean and those of the random vectors."""
        width = 1 + min(RANDOM, len(self.asked.usual))
        by_layer = [[reading.text for reading in readings[row : row + width]] for row in range(1, len(readings), width)]
        return {
            "unpatched": readings[0].text,
            "mean": [row[0] for row in by_layer],
            "random": [row[1:] for row in by_layer],
        }


@dataclass(frozen=True, eq=False)
class PromptingPortion:
    """What the model says where each name stands in the prompt as text: no representation is moved.

    These are as many prompts as names, which generation takes in one batch; of cells each would be one.
    """

    asked: AskedEntities

    @property
    def n_cells(self) -> int:
        """How many measurements it is."""
        return len(self.asked.entities)

    def cells(self) -> list[Cell]:
        """None: see `texts`."""
        return []

    def texts(self) -> dict[str, Any]:
        """What is written, of every name."""
        written = generate(self.asked.model, self.asked.named, max_new_tokens=self.asked.new_tokens)
        return {"texts": [one.text for one in written]}

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "entity-resolution prompting",
            "version": VERSION,
            "prompts": [list(model.tokenize(text).ids) for text in self.asked.named],
            "first": stored_spec(EntityPortion(self.asked, 0).cells()[0], model, model),
        }


class EntityMeasuring(Measuring):
    """Portions of which some are prompts of their own."""

    @override
    def _measure(self, portions: Sequence[Any], done: int) -> list[Any]:
        if not portions or not isinstance(portions[0], PromptingPortion):
            return super()._measure(portions, done)
        if self.stop is not None and self.stop.now:
            raise CancelledError("the study was stopped", "what was finished is kept where there is a store")
        return [portion.texts() for portion in portions]


def groups_of(asked: AskedEntities) -> list[list[Any]]:
    """What is measured and kept together: some names at a time, then controls, then prompts."""
    names = [EntityPortion(asked, number) for number in range(len(asked.entities))]
    groups: list[list[Any]] = [names[first : first + TOGETHER] for first in range(0, len(names), TOGETHER)]
    lens = [] if asked.tuned_lens is None else [[LensPortion(asked)]]
    return [*groups, *lens, [ControlPortion(asked)], [PromptingPortion(asked)]]


@dataclass(frozen=True, eq=False)
class Said:
    """All that was said, by entity and layer.

    Args:
        texts: of each entity, one a layer.
        lenses: by the lens's name, of each entity, for each layer the tokens.
        unpatched: of nothing.
        mean: one a layer.
        random: for each layer one a random vector.
        prompting: of each entity, its name as text.
    """

    texts: tuple[tuple[str, ...], ...]
    lenses: AnyMapping[str, tuple[tuple[tuple[str, ...], ...], ...]]
    unpatched: str
    mean: tuple[str, ...]
    random: tuple[tuple[str, ...], ...]
    prompting: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[AnyMapping[str, Any]]) -> "Said":
        """From what the portions of `groups_of` gave, in order."""
        *names, controls, prompting = values
        lenses = {"logit_lens": [one["logit_lens"] for one in names if "logit_lens" in one]}
        if "tuned_lens" in names[-1]:
            lenses["tuned_lens"] = names.pop()["tuned_lens"]
        return cls(
            tuple(tuple(one["texts"]) for one in names),
            {lens: tuple(tuple(map(tuple, rows)) for rows in found) for lens, found in lenses.items()},
            controls["unpatched"],
            tuple(controls["mean"]),
            tuple(map(tuple, controls["random"])),
            tuple(prompting["texts"]),
        )

    def all_texts(self) -> Iterator[str]:
        """Everything that was said."""
        yield self.unpatched
        yield from (*self.mean, *self.prompting)
        for rows in (self.texts, self.random):
            yield from (text for row in rows for text in row)
