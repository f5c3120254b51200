"""What the multi-hop study measures and keeps together: one patch over all layers, or what a target says without one.

The two configurations of arXiv 2401.06102, section 5, for a query such as "The capital city of | the country where
Petra is located", whose second hop's words are pi2 and whose first hop's are pi1:

1. The source is the whole query, in which pi1 is kept from attending to pi2 in every layer; its last token is read. The
   target is the query again, written at the last token of pi2, which reads on from there; what stands behind it cannot
   change it, and what it writes does not see pi1.
2. The source is pi1 alone and the target is pi2 alone.

They differ in the tokens that a tokenizer makes of pi1 behind a space or without one, and in its positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from bathyscope.controls import random_vector
from bathyscope.engine import Cell, Given, Read
from bathyscope.engine.keys import stored_spec
from bathyscope.facts import TwoHop
from bathyscope.forward import run
from bathyscope.interventions import CutEdges, Write
from bathyscope.mappings import NormMatch
from bathyscope.model import Model, Tokens
from bathyscope.readouts import Generate, Reading
from bathyscope.sites import Site, residual_site
from bathyscope.studies.attribute_extraction_study.portions import Texts
from bathyscope.studies.multihop_study.queries import Split

VERSION: Final = 1
"""Version of what a record means; a change of meaning finds no old record."""
CONFIGURATIONS: Final = (1, 2)
_NORM_MATCH = NormMatch()


@dataclass(frozen=True)
class Layers:
    """Which layers are read and written, and how much is written then.

    Args:
        sources: after which layers the source is read.
        targets: after which layers the target is written.
        new_tokens: how many tokens each text has at most.
        seed: of random vectors.
    """

    sources: tuple[int, ...]
    targets: tuple[int, ...]
    new_tokens: int
    seed: int


def hidden_from_each_other(model: Model, split: Split, layers: Sequence[int]) -> dict[int, Tensor]:
    """What the last token of a query holds when the first hop's words do not see the second's, by layer.

    Args:
        model: the model.
        split: the query.
        layers: after which layers.

    Returns:
        For each layer (d_model,).
    """
    cut = CutEdges(tuple(range(split.start)))
    behind = tuple(range(split.start, len(split.tokens)))
    writes = [Write(Site("pattern", layer), cut, behind) for layer in range(model.n_layers)]
    sites = {layer: residual_site(layer) for layer in layers}
    found = run(model, split.tokens, reads=list(sites.values()), writes=writes).activations
    return {layer: found[site][0][-1] for layer, site in sites.items()}


@dataclass(frozen=True, eq=False)
class PatchPortion:
    """The first hop's words of one query into the second hop's of another (or the same), over all layers.

    Args:
        model: the model.
        configuration: 1 or 2.
        query: whose first hop is read, and whose second hop's words are written into.
        layers: which.
    """

    model: Model
    configuration: int
    query: TwoHop
    layers: Layers

    @property
    def n_cells(self) -> int:
        """How many measurements there are."""
        return len(self.layers.sources) * len(self.layers.targets)

    def cells(self) -> list[Cell]:
        """By layer read and then by layer written."""
        target = self.target()
        return [
            Cell(target, Generate(self.layers.new_tokens), source, residual_site(layer), (len(target) - 1,))
            for source in self._sources()
            for layer in self.layers.targets
        ]

    def target(self) -> Tokens:
        """The words of the second hop."""
        if self.configuration == 1:
            return Split.of(self.model, self.query).before(self.model)
        return self.model.tokenize(self.query.hop2)

    def _sources(self) -> list[Read] | list[Given]:
        if self.configuration == 1:
            held = hidden_from_each_other(self.model, Split.of(self.model, self.query), self.layers.sources)
            return [Given(value, residual_site(layer)) for layer, value in held.items()]
        tokens = self.model.tokenize(self.query.hop1)
        return [Read(tokens, residual_site(layer), len(tokens) - 1) for layer in self.layers.sources]

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values; of a source that is computed here its words, not its numbers."""
        target = Cell(self.target(), Generate(self.layers.new_tokens))
        words = self.query.query if self.configuration == 1 else self.query.hop1
        return {
            "study": "multihop",
            "version": VERSION,
            "configuration": self.configuration,
            "source": list(model.tokenize(words).ids),
            "layers": list(self.layers.sources),
            "target_layers": list(self.layers.targets),
            "target": stored_spec(target, model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the cells said: texts, and rows of their numbers."""
        texts, told, columns = Texts(), iter(readings), len(self.layers.targets)
        found = {"grid": [texts.take(told, columns) for _ in self.layers.sources]}
        return {**found, "texts": texts.distinct}


@dataclass(frozen=True, eq=False)
class ControlPortion:
    """Random vectors in the place of one query's first hop, at each layer; and nothing written.

    Args:
        model: the model.
        query: the query.
        layers: which.
    """

    model: Model
    query: TwoHop
    layers: Layers

    @property
    def n_cells(self) -> int:
        """How many measurements there are."""
        return 1 + len(self.layers.targets)

    def cells(self) -> list[Cell]:
        """Nothing written; then by layer written."""
        target, readout = self.model.tokenize(self.query.hop2), Generate(self.layers.new_tokens)
        found = [Cell(target, readout)]
        for layer in self.layers.targets:
            site = residual_site(layer)
            drawn = random_vector(f"{self.query.query}|{site}", (self.model.d_model,), seed=self.layers.seed)
            found.append(Cell(target, readout, Given(drawn, site), site, (len(target) - 1,), _NORM_MATCH))
        return found

    def spec(self, model: Model) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "study": "multihop",
            "version": VERSION,
            "control": "random",
            "query": self.query.query,
            "seed": self.layers.seed,
            "target_layers": list(self.layers.targets),
            "target": stored_spec(self.cells()[0], model, model),
        }

    def values(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What the cells said."""
        texts, told = Texts(), iter(readings)
        found = {"unpatched": texts.take(told, 1)[0], "random": texts.take(told, len(self.layers.targets))}
        return {**found, "texts": texts.distinct}
