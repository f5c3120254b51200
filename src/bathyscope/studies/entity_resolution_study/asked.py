"""One call of the entity-resolution study, resolved: which names and layers, and what controls write."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypedDict

import numpy
import torch
from torch import Tensor

from bathyscope import prompts
from bathyscope.engine import Given
from bathyscope.errors import UsageError
from bathyscope.facts import Entity, entities
from bathyscope.lenses.vocabulary import fitted
from bathyscope.mappings import Affine
from bathyscope.model import Model, Tokens
from bathyscope.probing import Example, representations
from bathyscope.prompts import Inspection
from bathyscope.sentences import SentenceModel
from bathyscope.sites import Site, parse_layers, residual_site
from bathyscope.studies.cross_model_study.cells import random_like

NEW_TOKENS: Final = 8
"""Room for six or seven words; what comes after a description is another entry of the list."""
ENTITIES: Final = 100
"""How many of the project's own are described unless said, drawn by the seed: the more, the longer it takes."""
RANDOM: Final = 8
"""Random vectors a layer, each as long as what is written of another name."""


class EntityResolutionChoices(TypedDict, total=False):
    """What the entity-resolution study takes besides the model.

    Args:
        entities: what is described, at least 4; `drawn_entities` unless said.
        layers: after which layers: "all" (the default), "embed", "0-10", a number, several.
        new_tokens: of how many tokens a description is at most, 8 unless said.
        seed: decides halves, folds, random vectors, which entities are exchanged, and the bootstrap; 0 unless said.
        tuned_lens: from `fitting.fit_tuned_lens`, to be printed beside; none unless given.
        sentence_model: by which similarity is measured as well; none unless given.
    """

    entities: Sequence[Entity]
    layers: int | str | Sequence[int]
    new_tokens: int
    seed: int
    tuned_lens: Affine | None
    sentence_model: SentenceModel | None


@dataclass(frozen=True, eq=False)
class AskedEntities:
    """What is measured.

    Args:
        model: the model.
        entities: what is described.
        layers: after which layers, lowest first.
        new_tokens: of a description.
        seed: decides everything that is drawn.
        tuned_lens: None where it is not measured.
        sentence_model: None where similarity is not measured.
    """

    model: Model
    entities: tuple[Entity, ...]
    layers: tuple[int, ...]
    new_tokens: int = NEW_TOKENS
    seed: int = 0
    tuned_lens: Affine | None = None
    sentence_model: SentenceModel | None = None

    @classmethod
    def of(cls, model: Model, choices: EntityResolutionChoices) -> "AskedEntities":
        """Resolve a call, with all that can be refused refused.

        Raises:
            UsageError: fewer than 4 entities, a name twice, a layer that does not exist, or a lens of another model.
        """
        chosen = tuple(choices.get("entities", drawn_entities(seed=choices.get("seed", 0))))
        if len(chosen) < 4 or len({one.name for one in chosen}) < len(chosen):
            raise UsageError(
                f"{len(chosen)} entities of {len({one.name for one in chosen})} names were given",
                "at least 4, each once: a layer is chosen on half of them, and descriptions are exchanged",
                "--entities 20",
            )
        asked = cls(
            model,
            chosen,
            layers_of(choices.get("layers", "all"), model),
            choices.get("new_tokens", NEW_TOKENS),
            choices.get("seed", 0),
            choices.get("tuned_lens"),
            choices.get("sentence_model"),
        )
        if asked.new_tokens < 1:
            raise UsageError(f"{asked.new_tokens} new tokens were asked for", "at least 1", "--new-tokens 8")
        if asked.tuned_lens is not None:
            last = Site("resid_post", model.n_layers - 1)
            lens = fitted(asked.tuned_lens, "tuned-lens")
            lens.check(model, model, {(residual_site(layer), last) for layer in asked.layers})
        longest = max(len(tokens) for tokens in asked.tokens)
        model.check_length(len(asked.inspection.tokens) + longest + asked.new_tokens)
        return asked

    @cached_property
    def inspection(self) -> Inspection:
        """The entity-description prompt of the paper."""
        return prompts.prepare(self.model, prompts.entity_description())

    @cached_property
    def tokens(self) -> tuple[Tokens, ...]:
        """Each name as the model reads it; nothing else is in the source prompt."""
        return tuple(self.model.tokenize(one.name) for one in self.entities)

    @cached_property
    def n_tokens(self) -> tuple[int, ...]:
        """Tokens of each name, without those that a tokenizer puts before every text."""
        return tuple(sum(stop > start for start, stop in tokens.offsets) for tokens in self.tokens)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The target prompt with each name in the placeholder's place, as text."""
        prompt = prompts.entity_description()
        before = prompt.text[: prompt.text.rindex(prompt.placeholder)]
        return tuple(before + one.name for one in self.entities)

    @cached_property
    def representations(self) -> dict[int, Tensor]:
        """For each layer what it holds at the last token of each name, (entities, d_model)."""
        read = representations(
            self.model, [Example(one.name, one.name, one.type) for one in self.entities], self.layers
        )
        return {layer: torch.from_numpy(rows).to(self.model.dtype) for layer, rows in read.items()}

    @cached_property
    def at_first(self) -> tuple[int, ...]:
        """The numbers of the names that are read at their prompt's first position, which is an attention sink."""
        return tuple(number for number, tokens in enumerate(self.tokens) if len(tokens) == 1)

    @cached_property
    def usual(self) -> tuple[int, ...]:
        """The other names, whose vectors are of usual length; all where there are no others."""
        return tuple(number for number in range(len(self.tokens)) if number not in self.at_first) or self.at_first

    def mean(self, layer: int) -> Given:
        """The mean of what a layer holds of names; sinks, hundreds of times as long, would be the whole of it."""
        return Given(self.representations[layer][list(self.usual)].mean(0), residual_site(layer))

    def random(self, layer: int) -> list[Given]:
        """Random directions, each as long as what a layer holds of one of the names but for sinks."""
        generator = torch.Generator().manual_seed(self.seed + 1000 * (layer + 1))
        drawn = numpy.random.default_rng(self.seed).permutation(self.usual)[:RANDOM].tolist()
        rows = random_like(self.representations[layer][drawn], generator)
        return [Given(row, residual_site(layer)) for row in rows]

    def spec(self) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "entities": [[one.name, one.type, one.description] for one in self.entities],
            "layers": list(self.layers),
            "prompt": self.inspection.tokens.text,
            "new_tokens": self.new_tokens,
            "seed": self.seed,
            "tuned_lens": None if self.tuned_lens is None else self.tuned_lens.fingerprint(),
            "models": [self.model.loadable()],
        }


def drawn_entities(n: int = ENTITIES, *, seed: int = 0, among: Sequence[Entity] | None = None) -> tuple[Entity, ...]:
    """Some entities, drawn by a seed: of each type its share.

    Args:
        n: how many; all where there are no more.
        seed: decides which.
        among: what they are drawn from, the project's own unless said.

    Returns:
        In their own order.

    Example:
        >>> from bathyscope.studies.entity_resolution_study.asked import drawn_entities
        >>> len(drawn_entities(100)), len(drawn_entities(1000))
        (100, 138)
    """
    chosen = tuple(entities() if among is None else among)
    order = numpy.random.default_rng(seed).permutation(len(chosen)).tolist()
    # Equally spaced places in an order by type give each type its share.
    by_type = sorted(order, key=lambda number: chosen[number].type)
    places = numpy.linspace(0, len(chosen), min(n, len(chosen)), endpoint=False).astype(int)
    return tuple(chosen[number] for number in sorted(by_type[place] for place in places))


def layers_of(layers: int | str | Sequence[int], model: Model) -> tuple[int, ...]:
    """Layers that exist, lowest first.

    Raises:
        UsageError: one does not exist, or none was given.
    """
    return tuple(sorted(parse_layers(layers, model.n_layers)))
