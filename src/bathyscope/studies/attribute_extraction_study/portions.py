"""What the attribute-extraction study measures and keeps together: all cells of one sentence, or of one relation.

Texts are kept, not whether they are right, so that what counts as right can change without a new run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.controls import random_vector
from bathyscope.engine import Cell, Given, Read
from bathyscope.engine.keys import stored_spec
from bathyscope.lenses.vocabulary import behind_last_block
from bathyscope.mappings import Affine, Identity, NormMatch
from bathyscope.model import Model
from bathyscope.prompts import Inspection
from bathyscope.readouts import Generate, NextToken, Reading
from bathyscope.sites import Site, residual_site
from bathyscope.studies.attribute_extraction_study.items import Item

VERSION: Final = 1
"""Version of what a record means; a change of meaning finds no old record."""


@dataclass(frozen=True, eq=False)
class Grid:
    """What is the same for all items of a relation.

    Args:
        relation: its name.
        model: the model.
        inspection: the target prompt.
        layers: after which layers sentences are read.
        targets: after which layers the target prompt is written.
        new_tokens: how many tokens each text has at most.
        top: how many of a lens's likeliest tokens are looked at.
        seed: of random vectors.
        tuned_lens: a fitted lens, if one was given.
    """

    relation: str
    model: Model
    inspection: Inspection
    layers: tuple[int, ...]
    targets: tuple[int, ...]
    new_tokens: int
    top: int
    seed: int
    tuned_lens: Affine | None = None

    def spec(self) -> dict[str, Any]:
        """It as JSON values."""
        return {
            "study": "attribute-extraction",
            "version": VERSION,
            "relation": self.relation,
            "layers": list(self.layers),
            "target_layers": list(self.targets),
            "seed": self.seed,
            "lens": {"top": self.top, **({} if self.tuned_lens is None else self.tuned_lens.spec())},
        }

    def write(self, source: Read | Given, target: int, *, random: bool = False) -> Cell:
        """The target prompt with a representation written after a layer."""
        return Cell(
            self.inspection.tokens,
            Generate(self.new_tokens),
            source,
            residual_site(target),
            self.inspection.positions,
            _NORM_MATCH if random else _IDENTITY,
        )

    def lens(self, read: Read, mapping: Affine | Identity) -> Cell:
        """What a lens makes of a representation."""
        behind = behind_last_block(self.model).prompt
        assert isinstance(behind, Inspection)
        last = Site("resid_post", self.model.n_layers - 1)
        return Cell(behind.tokens, NextToken(self.top), read, last, behind.positions, mapping)


_IDENTITY, _NORM_MATCH = Identity(), NormMatch()


@dataclass(frozen=True, eq=False)
class ItemPortion:
    """One sentence: read after every layer, written after every layer; and what is measured of it alone.

    Args:
        grid: of its relation.
        item: the sentence.
    """

    grid: Grid
    item: Item

    @property
    def n_cells(self) -> int:
        """How many measurements there are."""
        layers, lenses = len(self.grid.layers), 1 + (self.grid.tuned_lens is not None)
        return layers * len(self.grid.targets) + len(self.grid.targets) + 1 + lenses * layers

    def cells(self) -> list[Cell]:
        """The grid by layer read and then by layer written; random vectors; prompting; the lenses."""
        grid, item = self.grid, self.item
        reads = [Read(item.source, residual_site(layer), item.position) for layer in grid.layers]
        found = [grid.write(read, target) for read in reads for target in grid.targets]
        for target in grid.targets:
            site = residual_site(target)
            drawn = random_vector(f"{item.source.text}|{site}", (grid.model.d_model,), seed=grid.seed)
            found.append(grid.write(Given(drawn, site), target, random=True))
        found.append(Cell(item.prompted, Generate(grid.new_tokens)))
        for mapping in (_IDENTITY, *([] if grid.tuned_lens is None else [grid.tuned_lens])):
            found += [grid.lens(read, mapping) for read in reads]
        return found

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        read = Read(self.item.source, residual_site(self.grid.layers[0]), self.item.position)
        return {
            **self.grid.spec(),
            "sentence": self.item.source.text,
            "prompted": list(self.item.prompted.ids),
            "first": stored_spec(self.grid.write(read, self.grid.targets[0]), model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the cells said: texts, and rows of their numbers; the tokens of each lens."""
        rows, columns = len(self.grid.layers), len(self.grid.targets)
        texts, told = Texts(), iter(readings)
        found: dict[str, Any] = {"grid": [texts.take(told, columns) for _ in range(rows)]}
        found |= {"random": texts.take(told, columns), "prompting": texts.take(told, 1)[0]}
        for name in ("logit_lens", *([] if self.grid.tuned_lens is None else ["tuned_lens"])):
            found[name] = [[one.id for one in next(told).candidates] for _ in range(rows)]
        return {**found, "texts": texts.distinct}


@dataclass(frozen=True, eq=False)
class RelationPortion:
    """What is the same for all sentences of a relation: nothing written, zeros, and the mean of all sentences.

    Args:
        grid: of the relation.
        items: all of them.
        means: by layer the mean of what was read, (d_model,).
    """

    grid: Grid
    items: tuple[Item, ...]
    means: Mapping[int, Tensor]

    @property
    def n_cells(self) -> int:
        """How many measurements there are."""
        return 1 + len(self.grid.targets) * (1 + len(self.grid.layers))

    def cells(self) -> list[Cell]:
        """Nothing written; zeros by layer written; means by layer read and then by layer written."""
        grid = self.grid
        zeros = torch.zeros(grid.model.d_model)
        found = [Cell(grid.inspection.tokens, Generate(grid.new_tokens))]
        found += [grid.write(Given(zeros, residual_site(target)), target) for target in grid.targets]
        for layer in grid.layers:
            mean = Given(self.means[layer], residual_site(layer))
            found += [grid.write(mean, target) for target in grid.targets]
        return found

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values: of which sentences the means are, not which numbers they came to."""
        return {
            **self.grid.spec(),
            "sentences": [[item.source.text, item.position] for item in self.items],
            "first": stored_spec(self.cells()[0], model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the cells said: texts, and rows of their numbers."""
        columns, texts, told = len(self.grid.targets), Texts(), iter(readings)
        found: dict[str, Any] = {"unpatched": texts.take(told, 1)[0], "no_activation": texts.take(told, columns)}
        found["mean"] = [texts.take(told, columns) for _ in self.grid.layers]
        return {**found, "texts": texts.distinct}


class Texts:
    """Distinct texts by number: neighbouring layers often say the same."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    @property
    def distinct(self) -> list[str]:
        """Each text once."""
        return list(self._numbers)

    def take(self, readings: Iterator[Reading], n: int) -> list[int]:
        """The numbers of the next texts."""
        return [self._numbers.setdefault(next(readings).text, len(self._numbers)) for _ in range(n)]
