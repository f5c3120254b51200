"""One call of the attribute-extraction study, resolved: which items, which layers, which cells."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypedDict

import torch

from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.facts import Relation
from bathyscope.generation import Progress
from bathyscope.mappings import Affine
from bathyscope.model import Model
from bathyscope.probing import Example, representations
from bathyscope.probing.classifier import Floats, check_installed
from bathyscope.sites import EMBEDDING_LAYER, Site, parse_layers, residual_site
from bathyscope.studies.attribute_extraction_study.items import RelationItems, relation_items
from bathyscope.studies.attribute_extraction_study.portions import Grid, ItemPortion, RelationPortion
from bathyscope.studies.measuring import CELLS_AT_ONCE, Measuring

EARLY: Final = range(6)
"""Blocks 0 to 5, where a linear probe of a name has the least to go by."""


class AttributeChoices(TypedDict, total=False):
    """What the attribute-extraction study takes besides the model and the relations.

    Args:
        layers: after which layers sentences are read; ten spread over all, many of them early, unless said.
        target_layers: after which layers is written; the same unless said.
        pairs: at most so many pairs a relation, drawn by the seed: 40 unless said, None for all.
        contexts: sentences a pair, 1 unless said; the paper has 5.
        new_tokens: at most so many tokens are written, 10 unless said; the paper has 20.
        folds: of the probe's cross-validation, 3 unless said.
        top: how many of a lens's likeliest tokens are looked at, 10 unless said.
        seed: decides what is drawn: pairs, sentences, halves, folds, random vectors; 0 unless said.
        tuned_lens: from `fitting.fit_tuned_lens`; measured besides where given.
    """

    layers: int | str | Sequence[int] | None
    target_layers: int | str | Sequence[int] | None
    pairs: int | None
    contexts: int
    new_tokens: int
    folds: int
    top: int
    seed: int
    tuned_lens: Affine | None


@dataclass(frozen=True, eq=False)
class Asked:
    """What is measured.

    Args:
        model: the model.
        relations: their items.
        layers: after which layers sentences are read.
        targets: after which layers is written.
        choices: what was asked.
        left_out: relations of which fewer than two subjects have an object that stands in no text already.
    """

    model: Model
    relations: tuple[RelationItems, ...]
    layers: tuple[int, ...]
    targets: tuple[int, ...]
    choices: AttributeChoices
    left_out: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model, relations: Sequence[Relation], choices: AttributeChoices) -> "Asked":
        """Resolve a call, with all that can be refused refused.

        Raises:
            UsageError: no relation, or two of one name; a choice that cannot be; scikit-learn is not installed.
        """
        names = [relation.name for relation in relations]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"the relations {', '.join(names) or '(none)'} were given", "each once, and at least one")
        check_installed()
        layers = layers_of(choices.get("layers"), model)
        targets = layers if (given := choices.get("target_layers")) is None else layers_of(given, model)
        if (tuned := choices.get("tuned_lens")) is not None:
            last = Site("resid_post", model.n_layers - 1)
            tuned.check(model, model, {(residual_site(layer), last) for layer in layers})
        items = tuple(
            relation_items(
                model,
                relation,
                pairs=choices.get("pairs", 40),
                n_contexts=choices.get("contexts", 1),
                seed=choices.get("seed", 0),
            )
            for relation in relations
        )
        asked = tuple(one for one in items if len({item.subject for item in one.items if not item.given}) > 1)
        left_out = tuple(one.relation.name for one in items if one not in asked)
        if not asked:
            raise UsageError(
                f"of {', '.join(left_out)} fewer than 2 subjects have an object that stands in no text already",
                "finding it there would show nothing",
                "other relations, or a template that does not name the objects",
            )
        return cls(model, asked, layers, targets, choices, left_out)

    @property
    def seed(self) -> int:
        """Decides everything that is drawn."""
        return self.choices.get("seed", 0)

    @property
    def new_tokens(self) -> int:
        """How many tokens a text has at most."""
        return self.choices.get("new_tokens", 10)

    @cached_property
    def held(self) -> dict[str, dict[int, Floats]]:
        """For each relation and layer what its items' subjects are, (items, d_model)."""
        return {
            one.relation.name: representations(
                self.model, [Example(item.source.text, item.subject, item.object) for item in one.items], self.layers
            )
            for one in self.relations
        }

    def groups(self) -> list[list[ItemPortion | RelationPortion]]:
        """Portions that are measured and kept together; all of a group are of one relation."""
        found: list[list[ItemPortion | RelationPortion]] = []
        for one in self.relations:
            grid = Grid(
                one.relation.name,
                self.model,
                one.inspection,
                self.layers,
                self.targets,
                self.new_tokens,
                self.choices.get("top", 10),
                self.seed,
                self.choices.get("tuned_lens"),
            )
            held = self.held[one.relation.name]
            means = {layer: torch.from_numpy(held[layer].mean(0)).to(self.model.dtype) for layer in self.layers}
            # A subject with two objects is one sentence.
            portions = [ItemPortion(grid, item) for item in {item.source.text: item for item in one.items}.values()]
            at_once = max(1, CELLS_AT_ONCE // portions[0].n_cells)
            parts = [portions[first : first + at_once] for first in range(0, len(portions), at_once)]
            found += [[RelationPortion(grid, one.items, means), *parts[0]], *parts[1:]]
        return found

    def measuring(self, budget: int, progress: Progress | None = None, stop: Stop | None = None) -> Measuring:
        """The groups, ready to be measured."""
        return Measuring(self.model, self.groups(), budget, progress, stop)

    def spec(self) -> dict[str, Any]:
        """What was asked, as JSON values."""
        tuned = self.choices.get("tuned_lens")
        return {
            "study": "attribute-extraction",
            "text": {"name": ", ".join(one.relation.name for one in self.relations)},
            "relations": [
                {
                    "name": one.relation.name,
                    "template": one.template,
                    "pairs": len({(item.subject, item.object) for item in one.items}),
                    "of": one.n_pairs,
                }
                for one in self.relations
            ],
            "layers": list(self.layers),
            "target_layers": list(self.targets),
            "contexts": self.choices.get("contexts", 1),
            "new_tokens": self.new_tokens,
            "folds": self.choices.get("folds", 3),
            "top": self.choices.get("top", 10),
            "seed": self.seed,
            **({} if tuned is None else {"tuned_lens": tuned.spec()}),
            "match": "normalized (NFKC, case folded, letters and digits), at the borders of words",
            "decoding": "greedy",
        }


def layers_of(given: int | str | Sequence[int] | None, model: Model) -> tuple[int, ...]:
    """Layers as they were asked for, lowest first; ten of them unless said.

    Raises:
        SiteError: one does not exist.
    """
    return some_layers(model.n_layers) if given is None else tuple(sorted(parse_layers(given, model.n_layers)))


def some_layers(n_layers: int, count: int = 10) -> tuple[int, ...]:
    """Ten layers: the embedding, blocks 0, 1, 3 and 5, and others evenly up to the last; all where there are no more.

    Example:
        >>> from bathyscope.studies.attribute_extraction_study.asked import some_layers
        >>> some_layers(30)
        (-1, 0, 1, 3, 5, 10, 15, 19, 24, 29)
        >>> some_layers(4)
        (-1, 0, 1, 2, 3)
    """
    if n_layers < count:
        return tuple(range(EMBEDDING_LAYER, n_layers))
    early = [EMBEDDING_LAYER, 0, 1, 3, 5] if n_layers > count + 3 else [EMBEDDING_LAYER, 0, 1, 2]
    rest = count - len(early)
    step = (n_layers - 1 - early[-1]) / rest
    return (*early, *(round(early[-1] + step * number) for number in range(1, rest + 1)))
