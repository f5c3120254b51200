"""One call of the cross-model study, resolved: which text, which places, which layers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypedDict

from bathyscope.errors import UsageError
from bathyscope.mappings import Affine, Mapping
from bathyscope.model import Model
from bathyscope.sites import parse_layers, residual_site
from bathyscope.studies.cross_model_study.shared_places import SharedPlace, draw_shared_places
from bathyscope.studies.unseen import parted
from bathyscope.texts import Texts

EVERY: Final = 5
"""Layers are this far apart unless said, as in the paper."""
POSITIONS: Final = 500
FIT_POSITIONS: Final = 20_000
LENGTH: Final = 128
NEW_TOKENS: Final = 20
NAMES: Final = ("Diana, Princess of Wales", "New York City", "Alexander the Great")
"""What is described in words unless said."""

Pair = tuple[int, int]
"""A source layer and a target layer."""
Layers = int | str | Sequence[int] | None


class CrossModelChoices(TypedDict, total=False):
    """What the cross-model study takes besides models, text and mapping.

    Args:
        source_layers: after which layers is read: "all", "0-10", a number, several; every fifth from 0 unless said.
        target_layers: after which layers is written; likewise.
        positions: how many positions are measured at, 500 unless said.
        length: tokens of a window, 128 unless said.
        seed: decides which positions, the random vectors and the bootstrap; 0 unless said.
        names: what is described in words; `NAMES` unless said, none where empty.
        new_tokens: of how many tokens a description is at most, 20 unless said.
        fit_positions: on how many positions a mapping is fitted here, 20,000 unless said.
        held_out: share of the documents that is measured on, the last of them; unless said 0.3, or less where a given
            mapping has seen more of this text; 1 for all, where it has seen none.
    """

    source_layers: Layers
    target_layers: Layers
    positions: int
    length: int
    seed: int
    names: Sequence[str]
    new_tokens: int
    fit_positions: int
    held_out: float | None


@dataclass(frozen=True)
class Crossing:
    """What is measured, but for a mapping that has to be fitted first.

    Args:
        source: the model that is read.
        target: the model that is written to.
        to_fit: the documents that a mapping may be fitted on, if any.
        places: where next tokens are compared; none where the vocabularies differ.
        measured: the documents that they are in.
        pairs: the layers.
        mapping: what happens between, None where it has to be fitted.
        choices: what was asked.
    """

    source: Model
    target: Model
    to_fit: Texts | None
    places: tuple[SharedPlace, ...]
    measured: Texts
    pairs: tuple[Pair, ...]
    mapping: Mapping | None
    choices: CrossModelChoices

    @classmethod
    def of(
        cls, source: Model, target: Model, texts: Texts, mapping: Mapping | None, choices: CrossModelChoices
    ) -> "Crossing":
        """Resolve a call, with all that can be refused refused.

        Raises:
            UsageError: too little text, a layer that does not exist, or a mapping that does not fit.
        """
        pairs = _pairs(source, target, mapping, choices)
        if mapping is not None:
            _check_mapping(mapping, source, target, pairs)
        to_fit, measured = parted(texts, choices.get("held_out"), [mapping] if isinstance(mapping, Affine) else [])
        if mapping is None and to_fit is None:
            raise UsageError(
                "all of the text was to be measured on, and the mapping is to be fitted on some",
                "a mapping is measured on text that it has not seen",
                "--held-out 0.3, or a mapping that was fitted on other text",
            )
        places: tuple[SharedPlace, ...] = ()
        if same_vocabulary(source, target):
            places = draw_shared_places(
                source,
                target,
                measured,
                positions=choices.get("positions", POSITIONS),
                length=choices.get("length", LENGTH),
                seed=choices.get("seed", 0),
            )
        elif not choices.get("names", NAMES):
            raise UsageError(
                f"no name was given to describe, and {source.name} and {target.name} have different vocabularies, so "
                "that next tokens cannot be compared",
                "a name to describe is needed",
                '--name "New York City"',
            )
        return cls(source, target, to_fit, places, measured, pairs, mapping, choices)

    @property
    def seed(self) -> int:
        """Decides everything that is drawn."""
        return self.choices.get("seed", 0)

    @cached_property
    def places_fingerprint(self) -> str:
        """SHA-256 of all places."""
        told = "".join(f"{place.source.ids}{place.position}{place.target.ids}" for place in self.places)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """What else was asked, as JSON values."""
        return {
            "seed": self.seed,
            "length": self.choices.get("length", LENGTH),
            "names": list(self.choices.get("names", NAMES)),
            "new_tokens": self.choices.get("new_tokens", NEW_TOKENS),
        }


def same_vocabulary(source: Model, target: Model) -> bool:
    """Whether each token id means the same to both models, so that next tokens can be compared.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies.cross_model_study.asked import same_vocabulary
        >>> same_vocabulary(bathyscope.load(), bathyscope.load())
        True
    """
    return source.has_tokens_of(target)


def _pairs(source: Model, target: Model, mapping: Mapping | None, choices: CrossModelChoices) -> tuple[Pair, ...]:
    """Every source layer with every target layer; or those that a mapping was fitted for, where none is said."""
    layers, others = choices.get("source_layers"), choices.get("target_layers")
    if isinstance(mapping, Affine) and layers is None and others is None:
        mapping.check(source, target, set())
        found = [
            (one.layer, other.layer)
            for one, other in mapping.terms
            if one.layer is not None and other.layer is not None
            if (one, other) == (residual_site(one.layer), residual_site(other.layer))
        ]
        if not found:
            raise UsageError(
                f"a {mapping.fit.method} between other sites than layers' residual streams was given",
                "a mapping from layers to layers is needed",
                "bathyscope mapping fit",
            )
        return tuple(sorted(found))
    return tuple((one, other) for one in _layers(layers, source) for other in _layers(others, target))


def _layers(layers: Layers, model: Model) -> tuple[int, ...]:
    if layers is None:
        return tuple(range(0, model.n_layers, EVERY))
    return parse_layers(layers, model.n_layers)


def _check_mapping(mapping: Mapping, source: Model, target: Model, pairs: Sequence[Pair]) -> None:
    if mapping.looks_at_target:
        raise UsageError(
            f"the mapping {type(mapping).__name__} was given",
            "the random vector is as long as what a mapping gives, and this one gives the length of what it replaces",
            "an affine mapping, Identity or Scale",
        )
    mapping.check(source, target, {(residual_site(one), residual_site(other)) for one, other in pairs})
