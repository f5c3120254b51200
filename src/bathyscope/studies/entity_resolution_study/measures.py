"""From what was said to numbers: a score for each entity and layer, and for each control."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy
from numpy.typing import NDArray

from bathyscope.facts import Entity
from bathyscope.sentences import SentenceModel
from bathyscope.studies.entity_resolution_study.portions import Said
from bathyscope.studies.entity_resolution_study.scores import (
    description_of,
    lists_one,
    rouge_l,
    says_one,
    telling_words,
    without,
    words_of,
)
from bathyscope.studies.paired import exchanged

Table = NDArray[numpy.float64]
"""(entities, layers); not a number where an entity cannot be measured so."""

MEASURES: Final = {
    "rouge_l": "ROUGE-L F1 of the description and the reference",
    "rouge_l_unseen": "the same without words of the name and of the target prompt",
    "contains": "share of descriptions with a telling word of the reference",
}
SIMILARITY: Final = "similarity"
"""Cosine similarity of description and reference under a sentence model, measured where there is one."""
"""How a text is scored, by field."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What an entity's descriptions are compared with.

    Args:
        entity: the entity.
        known: words of its name and of the target prompt, which prove nothing.
        telling: the other words of the reference that are no function words.
        alike: how like two texts are under a sentence model; None where there is none.
    """

    entity: Entity
    known: frozenset[str]
    telling: frozenset[str]
    alike: Callable[[str, str], float] | None = None

    @classmethod
    def of(cls, entity: Entity, prompt: str, alike: Callable[[str, str], float] | None = None) -> "Reference":
        """The reference of an entity under a target prompt."""
        known = words_of(entity.name) | words_of(prompt)
        return cls(entity, known, telling_words(entity.description, known), alike)

    def score(self, measure: str, text: str) -> float:
        """How a text of this entity does, 0 to 1; not a number where the reference has no telling word."""
        said = description_of(text)
        if measure == "rouge_l":
            return rouge_l(self.entity.description, said)
        if measure == SIMILARITY:
            assert self.alike is not None
            return self.alike(self.entity.description, said)
        if not self.telling:
            return float("nan")
        if measure == "contains":
            return float(says_one(said, self.telling))
        return rouge_l(without(self.entity.description, self.known), without(said, self.known))


@dataclass(frozen=True, eq=False)
class Measures:
    """All scores.

    Args:
        references: of the entities.
        said: what was said.
        seed: decides whose descriptions are exchanged.
    """

    references: tuple[Reference, ...]
    said: Said
    seed: int

    def patched(self, measure: str) -> Table:
        """Of each entity's own descriptions."""
        return self._table(measure, lambda entity, layer: self.said.texts[entity][layer])

    def shuffled(self, measure: str, *, same_type: bool = False) -> Table:
        """Of another entity's descriptions; with `same_type` one of its type, not a number where there is none."""
        others = self._others[same_type]
        found = self._table(measure, lambda entity, layer: self.said.texts[others[entity]][layer])
        found[[entity for entity, other in enumerate(others) if other == entity]] = numpy.nan
        return found

    def mean(self, measure: str) -> Table:
        """Of what the mean over all names gives."""
        return self._table(measure, lambda _, layer: self.said.mean[layer])

    def random(self, measure: str) -> Table:
        """Of what a random vector gives; each entity has one of the few."""
        return self._table(
            measure, lambda entity, layer: self.said.random[layer][entity % len(self.said.random[layer])]
        )

    def unpatched(self, measure: str) -> Table:
        """Of what the prompt says with nothing written, (entities, 1)."""
        return self._column(measure, [self.said.unpatched] * len(self.references))

    def prompting(self, measure: str) -> Table:
        """Of what it says where the name itself stands there as text, (entities, 1)."""
        return self._column(measure, self.said.prompting)

    def lens(self, name: str) -> Table:
        """Whether a lens lists a telling word."""
        listed = self.said.lenses[name]
        return numpy.array(
            [
                [float(lists_one(tokens, one.telling)) if one.telling else numpy.nan for tokens in listed[number]]
                for number, one in enumerate(self.references)
            ]
        )

    def _table(self, measure: str, text: Callable[[int, int], str]) -> Table:
        layers = range(len(self.said.mean))
        return numpy.array(
            [
                [one.score(measure, text(number, layer)) for layer in layers]
                for number, one in enumerate(self.references)
            ]
        )

    def _column(self, measure: str, texts: Sequence[str]) -> Table:
        return numpy.array([[one.score(measure, text)] for one, text in zip(self.references, texts, strict=True)])

    @cached_property
    def _others(self) -> Mapping[bool, list[int]]:
        """For each entity another one, any and of its type; itself where there is no other."""
        everyone = [0] * len(self.references)
        same = exchanged([one.entity.type for one in self.references], self.seed)
        return {False: exchanged(everyone, self.seed), True: same}


class Alike:
    """Cosine similarity of texts, each embedded once.

    Args:
        model: the sentence model.
        texts: all texts that will be asked about.
    """

    def __init__(self, model: SentenceModel, texts: Iterable[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        self._vectors = dict(zip(distinct, model.embed(distinct).double().numpy(), strict=True))

    def __call__(self, text: str, other: str) -> float:
        """Of two of the texts, -1 to 1; 0 where one has no words."""
        return float(self._vectors[text] @ self._vectors[other])
