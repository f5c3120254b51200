"""How like its reference a description is: ROUGE-L, and whether a telling word of the reference is in it.

Knows texts, no model. ROUGE-L is that of rouge-score, an extra, without stemming.
"""

import re
from collections.abc import Collection, Iterable
from functools import cache
from typing import Any, Final

from bathyscope.errors import UsageError
from bathyscope.readouts import normalized

NEXT_ENTRY: Final = re.compile(r"\n|,(?=[^,:\n]*:)")
"""Where a description ends and the model begins another entry of the list: a line end, or a comma before "NAME:"."""

_FUNCTION_WORDS: Final = """
    a an and are as at author built by for from his her in into is it its j k known made maker of on once one or
    people person r that the their thing to two was were who whose with
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""Words that tell nothing of anybody."""


def description_of(text: str) -> str:
    """What a text says of the entity: up to where the next entry of the list begins.

    Example:
        >>> from bathyscope.studies.entity_resolution_study.scores import description_of
        >>> description_of(": British monarch, wife of a king, William Shakespeare: English actor")
        'British monarch, wife of a king'
    """
    said = text.strip().removeprefix(":").strip()
    return NEXT_ENTRY.split(said, maxsplit=1)[0].strip()


def words_of(text: str) -> frozenset[str]:
    """The words of a text, as `normalized` has them."""
    return frozenset(normalized(text).split())


def telling_words(reference: str, known: Collection[str]) -> frozenset[str]:
    """The words of a reference that nobody could have from the name or the prompt, and that are no function words.

    Args:
        reference: the description.
        known: the words of the entity's name and of the target prompt.

    Example:
        >>> from bathyscope.studies.entity_resolution_study.scores import telling_words
        >>> sorted(telling_words("Capital city of France", {"city", "paris"}))
        ['capital', 'france']
    """
    return words_of(reference) - FUNCTION_WORDS - frozenset(known)


def without(text: str, known: Collection[str]) -> str:
    """A text without some words."""
    return " ".join(word for word in normalized(text).split() if word not in known)


def says_one(text: str, words: Collection[str]) -> bool:
    """Whether a text has one of the words."""
    return not words_of(text).isdisjoint(words)


def lists_one(tokens: Iterable[str], words: Collection[str]) -> bool:
    """Whether one of several tokens is one of the words, whole.

    Example:
        >>> from bathyscope.studies.entity_resolution_study.scores import lists_one
        >>> lists_one([" Fran", " Capital"], {"capital", "france"})
        True
    """
    return any(normalized(token) in words for token in tokens)


@cache
def rouge_l(reference: str, text: str) -> float:
    """F1 of the longest common subsequence of words, 0 to 1.

    Raises:
        UsageError: rouge-score is not installed.

    Example:
        >>> from bathyscope.studies.entity_resolution_study.scores import rouge_l
        >>> rouge_l("Capital city of France", "City in France")
        0.5714285714285715
    """
    return _scorer().score(reference, text)["rougeL"].fmeasure


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError("ROUGE-L needs rouge-score", "it is an extra", 'pip install "bathyscope[studies]"') from None
    return RougeScorer(["rougeL"], use_stemmer=False)


def check_rouge() -> None:
    """Refuse to begin without rouge-score.

    Raises:
        UsageError: it is not installed.
    """
    _scorer()
