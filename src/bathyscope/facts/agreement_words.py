"""The words that agreement sentences are made of: nouns of two splits, prepositions, verbs, and their two forms.

They stand in `bathyscope/data/agreement.json`. Knows no tokenizer: whether a word is one token, a model has to say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final, Literal, get_args

from bathyscope.errors import UsageError, nearest

Number = Literal["singular", "plural"]
Split = Literal["all", "train", "held-out"]
CHANGED_ENDS: Final = (("men", "man"), ("ies", "y"))
"""Ends of plurals and of their singulars, where more than an ending is added."""
RULES: Final = (
    *CHANGED_ENDS,
    ("sses", "ss"),
    ("shes", "sh"),
    ("ches", "ch"),
    ("xes", "x"),
    ("ss", "ss"),
    ("us", "us"),
    ("is", "is"),
    ("s", ""),
)
"""What the end of a plural was in the singular; the first that fits counts. Some are no plurals at all."""


@dataclass(frozen=True, slots=True)
class Forms:
    """A noun or a verb in its two numbers.

    Args:
        singular: such as "child", or "likes".
        plural: such as "children", or "like".

    Example:
        >>> from bathyscope.facts import Forms
        >>> Forms("child", "children").of("plural")
        'children'
    """

    singular: str
    plural: str

    def of(self, number: Number) -> str:
        """The form of a number."""
        return self.singular if number == "singular" else self.plural


@dataclass(frozen=True)
class Words:
    """All words of the data file.

    Args:
        nouns: those that are changed, by split; all of them are people.
        people: what a relative clause has beside them, by split.
        things: what a preposition has behind it, by split.
        prepositions: one word each.
        relative_verbs: transitive verbs, third person, present.
        verbs: those that a whole sentence may have.
        continuations: what may follow each of `verbs`, in either number; as many for each.
    """

    nouns: Mapping[Split, tuple[Forms, ...]]
    people: Mapping[Split, tuple[Forms, ...]]
    things: Mapping[Split, tuple[Forms, ...]]
    prepositions: tuple[str, ...]
    relative_verbs: tuple[Forms, ...]
    verbs: tuple[Forms, ...]
    continuations: tuple[tuple[str, ...], ...]


@cache
def words() -> Words:
    """The words of the data file.

    Example:
        >>> from bathyscope.facts.agreement_words import words
        >>> len(words().nouns["all"]), len(words().verbs), words().prepositions[:2]
        (105, 8, ('above', 'behind'))
    """
    data = json.loads((files("bathyscope") / "data" / "agreement.json").read_text("utf-8"))
    return Words(
        nouns=_by_split(data["nouns"]),
        people=_by_split(data["people"]),
        things=_by_split(data["things"]),
        prepositions=tuple(data["prepositions"]),
        relative_verbs=tuple(Forms(*pair) for pair in data["relative_verbs"]),
        verbs=tuple(Forms(verb["singular"], verb["plural"]) for verb in data["verbs"]),
        continuations=tuple(tuple(verb["continuations"]) for verb in data["verbs"]),
    )


def agreement_nouns(split: Split = "all") -> tuple[Forms, ...]:
    """The nouns whose number is changed, in alphabetical order.

    Args:
        split: "train", "held-out" (a third of them), or "all". Which noun is in which is stated in the data file.

    Raises:
        UsageError: there is no such split.

    Example:
        >>> from bathyscope.facts import agreement_nouns
        >>> agreement_nouns("held-out")[1]
        Forms(singular='baby', plural='babies')
        >>> len(agreement_nouns("train")), len(agreement_nouns("held-out"))
        (70, 35)
    """
    return words().nouns[known_split(split)]


def agreement_distractors(split: Split = "all") -> tuple[Forms, ...]:
    """The nouns that stand beside them and keep their number, people and then things; none is among the others.

    Args:
        split: as `agreement_nouns`.

    Raises:
        UsageError: there is no such split.

    Example:
        >>> from bathyscope.facts import agreement_distractors
        >>> [len(agreement_distractors(split)) for split in ("all", "train", "held-out")]
        [60, 40, 20]
    """
    return words().people[known_split(split)] + words().things[split]


def known_split(split: Split) -> Split:
    """A split, if there is one of that name.

    Raises:
        UsageError: there is none.

    Example:
        >>> from bathyscope.facts.agreement_words import known_split
        >>> known_split("held-out")
        'held-out'
    """
    if split not in get_args(Split):
        there = ", ".join(get_args(Split))
        raise UsageError(f"no nouns are called {split!r}", f"there are {there}", nearest(str(split), get_args(Split)))
    return split


def forms_of(one: str, other: str) -> Forms | None:
    """A noun by its two forms, in either order; None where they are not the two forms of one.

    Args:
        one: in lower case. It is looked up in the data file, then compared by rule (-s, -es, -ies, -men).
        other: as `one`.

    Example:
        >>> from bathyscope.facts.agreement_words import forms_of
        >>> forms_of("men", "man"), forms_of("man", "woman")
        (Forms(singular='man', plural='men'), None)
    """
    for singular, plural in ((one, other), (other, one)):
        regular = {singular + "s", singular + "es"}
        regular |= {singular.removesuffix(end) + ends for ends, end in CHANGED_ENDS if singular.endswith(end)}
        if _listed().get(plural) == (singular, "plural") or plural in regular:
            return Forms(singular, plural)
    return None


def lemma_and_number(noun: str) -> tuple[str, Number]:
    """A noun's singular, and which of the two it was: from the data file, otherwise by rule.

    Args:
        noun: in lower case. An irregular plural that the file does not have is taken for a singular.

    Example:
        >>> from bathyscope.facts.agreement_words import lemma_and_number
        >>> [lemma_and_number(noun) for noun in ("wives", "skaters", "glass")]
        [('wife', 'plural'), ('skater', 'plural'), ('glass', 'singular')]
    """
    if noun in _listed():
        return _listed()[noun]
    for plural_end, end in RULES:
        if noun.endswith(plural_end) and noun != plural_end:
            lemma = noun.removesuffix(plural_end) + end
            return lemma, "singular" if lemma == noun else "plural"
    return noun, "singular"


@cache
def _listed() -> Mapping[str, tuple[str, Number]]:
    """Every form of every noun of the file: its singular, and its number."""
    nouns = (*agreement_nouns(), *agreement_distractors())
    return {noun.of(number): (noun.singular, number) for noun in nouns for number in get_args(Number)}


def _by_split(data: Mapping[str, list[list[str]]]) -> Mapping[Split, tuple[Forms, ...]]:
    train, held_out = (tuple(Forms(*pair) for pair in data[split]) for split in ("train", "held-out"))
    everything = tuple(sorted((*train, *held_out), key=lambda noun: noun.singular))
    return {"all": everything, "train": train, "held-out": held_out}
