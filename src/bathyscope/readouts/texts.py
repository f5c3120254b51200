"""Readouts of what the model writes: the text, and whether it contains something."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model
from bathyscope.readouts.base import Original, Reading, Readout


@dataclass(frozen=True)
class Generate(Readout):
    """The text that the model writes next, greedily.

    Args:
        new_tokens: at most so many tokens.

    Example:
        >>> from bathyscope.readouts import Generate
        >>> Generate(20).spec()
        {'readout': 'Generate', 'new_tokens': 20}
    """

    new_tokens: int = 20

    def __post_init__(self) -> None:
        _check_new_tokens(self.new_tokens)

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        del model, logits, original
        return tuple(Reading(one.text, one.ids, stopped=one.stopped) for one in continuations)


@dataclass(frozen=True)
class Contains(Readout):
    """Whether the text that the model writes next contains another: {"contains": 1.0 or 0.0}.

    Both are compared as `normalized` has them, and only at the borders of words.

    Args:
        text: what is looked for.
        new_tokens: at most so many tokens are written.

    Example:
        >>> from bathyscope.readouts import Contains
        >>> Contains("New York").found_in("the city of NEW  YORK, in winter"), Contains("art").found_in("party")
        (True, False)
    """

    text: str
    new_tokens: int = 20

    def __post_init__(self) -> None:
        _check_new_tokens(self.new_tokens)
        if not normalized(self.text):
            raise UsageError(f"Contains was given {self.text!r}", "a text with a letter or a digit is needed")

    def found_in(self, text: str) -> bool:
        """Whether a text contains it."""
        return f" {normalized(self.text)} " in f" {normalized(text)} "

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        del model, logits, original
        return tuple(
            Reading(one.text, one.ids, stopped=one.stopped, values={"contains": float(self.found_in(one.text))})
            for one in continuations
        )


def normalized(text: str) -> str:
    """Text as matches are made on it: NFKC, folded case, every run of other than letters and digits one space.

    Example:
        >>> from bathyscope.readouts import normalized
        >>> normalized(" São Paulo-- 2nd")
        'são paulo 2nd'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(one if one.isalnum() or unicodedata.combining(one) else " " for one in folded).split())


def _check_new_tokens(new_tokens: int) -> None:
    if new_tokens < 1:
        raise UsageError(f"{new_tokens} new tokens were asked for", "at least 1", "--new-tokens 20")
