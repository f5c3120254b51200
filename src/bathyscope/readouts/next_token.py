"""Readouts of the target's next token: which are likeliest, and at what rank certain ones stand."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model
from bathyscope.readouts.base import Candidate, Original, Reading, Readout, needed


@dataclass(frozen=True)
class NextToken(Readout):
    """The likeliest next tokens and their probabilities.

    Args:
        k: how many.

    Example:
        >>> from bathyscope.readouts import NextToken
        >>> NextToken(5).spec()
        {'readout': 'NextToken', 'k': 5}
    """

    k: int = 10

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"the {self.k} likeliest tokens were asked for", "at least 1", "--top 10")

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        del continuations, original
        logits = needed(logits)
        best = logits.topk(min(self.k, logits.shape[-1]))
        probabilities = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
        readings = []
        for ids, shares in zip(best.indices.tolist(), probabilities.tolist(), strict=True):
            texts = model.token_texts(ids)
            candidates = tuple(Candidate(*one) for one in zip(ids, texts, shares, strict=True))
            readings.append(Reading(texts[0], (ids[0],), candidates))
        return tuple(readings)


@dataclass(frozen=True)
class Rank(Readout):
    """How many tokens are likelier than one: {"rank": 0.0} for the likeliest.

    Args:
        token: as text, which must be one token of the target model, or its id.

    Example:
        >>> from bathyscope.readouts import Rank
        >>> Rank(" Paris").spec()
        {'readout': 'Rank', 'token': ' Paris'}
    """

    token: str | int

    @override
    def check(self, source: Model, target: Model) -> None:
        token_id(target, self.token)

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        del continuations, original
        logits = needed(logits)
        own = logits[:, token_id(model, self.token), None]
        return measured(model, logits, rank=(logits > own).sum(-1))


def token_id(model: Model, token: str | int) -> int:
    """The id of a token.

    Raises:
        UsageError: the text is several tokens, or none; or there is no such id.

    Example:
        >>> import bathyscope
        >>> from bathyscope.readouts import token_id
        >>> token_id(bathyscope.load(), ".")
        30
    """
    if isinstance(token, int):
        if not 0 <= token < model.vocabulary:
            raise UsageError(f"token id {token} was given", f"{model.name} has ids 0 to {model.vocabulary - 1}")
        return token
    ids = model.tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        raise UsageError(
            f"{token!r} was given as a token",
            f"for {model.name} it is {', '.join(map(repr, model.token_texts(ids))) or 'none'}",
            "one of them, with its leading space if it has one",
        )
    return ids[0]


OPENING: Final = "\"'([{<-/\u2013\u2014\u2018\u201c\u00ab"
"""Characters that no space follows."""


@dataclass(frozen=True)
class FirstToken:
    """The token that an answer begins with.

    Args:
        id, token: it, and its text.
        whole: the answer as it follows the prompt, with a space before it where one is needed.
        n_tokens: of how many tokens that is the first.
    """

    id: int
    token: str
    whole: str
    n_tokens: int


def first_token(model: Model, answer: str, *, after: str) -> FirstToken:
    """The token that an answer begins with where it follows a prompt, found in the two together.

    A word that follows a word has a space before it, which most vocabularies keep in its token.

    Args:
        model: the model.
        answer: as a person writes it.
        after: the prompt.

    Raises:
        UsageError: there is no answer, or it shares its first token with the prompt.

    Example:
        >>> import bathyscope
        >>> from bathyscope.readouts import first_token
        >>> first_token(bathyscope.load(), "Paris", after="The capital of France is").token
        ' Paris'
    """
    if not answer.strip():
        raise UsageError(f"the answer {answer!r} was given", "a text with a character that is seen", "--answer Paris")
    whole = f" {answer}" if _needs_space(after, answer) else answer
    tokens = model.tokenize(after + whole)
    index = next(number for number, (_, stop) in enumerate(tokens.offsets) if stop > len(after))
    start = tokens.offsets[index][0]
    if start < len(after.rstrip()):
        raise UsageError(
            f"the answer {answer!r} shares a token with the prompt",
            f"the tokens are {tokens.numbered()}",
            "another answer",
        )
    ids = tokens.ids[index:]
    if start < len(after):  # the prompt ends in a space that would be the answer's own
        ids = tuple(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
    return FirstToken(ids[0], model.token_texts(ids[:1])[0], whole, len(ids))


def _needs_space(before: str, answer: str) -> bool:
    """Whether a word stands apart from what comes before it: not behind a bracket, and not in Chinese."""
    opened = not before or before[-1].isspace() or before[-1] in OPENING
    return not opened and answer[0].isalnum() and unicodedata.east_asian_width(answer[0]) not in ("W", "F")


def measured(model: Model, logits: Tensor, **values: Tensor) -> tuple[Reading, ...]:
    """A reading a row: its likeliest token, and values by name, each (rows,)."""
    best = logits.argmax(-1).tolist()
    texts = model.token_texts(best)
    columns = torch.stack([value.double() for value in values.values()], -1).tolist()
    return tuple(
        Reading(text, (token,), values=dict(zip(values, row, strict=True)))
        for text, token, row in zip(texts, best, columns, strict=True)
    )
