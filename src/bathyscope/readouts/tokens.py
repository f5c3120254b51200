"""Which token of a model a text means: the text itself, or an answer as it follows a prompt."""

import unicodedata
from dataclasses import dataclass
from typing import Final

from bathyscope.errors import UsageError
from bathyscope.model import Model

OPENING: Final = "\"'([{<-/\u2013\u2014\u2018\u201c\u00ab"
"""Characters that no space follows."""


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


@dataclass(frozen=True)
class AnswerToken:
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


def check_answer(answer: str) -> None:
    """Refuse an answer without a character that is seen.

    Raises:
        UsageError: it has none.
    """
    if not answer.strip():
        raise UsageError(f"the answer {answer!r} was given", "a text with a character that is seen", "--answer Paris")


def answer_token(model: Model, answer: str, *, after: str) -> AnswerToken:
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
        >>> from bathyscope.readouts import answer_token
        >>> answer_token(bathyscope.load(), "Paris", after="The capital of France is").token
        ' Paris'
    """
    check_answer(answer)
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
    return AnswerToken(ids[0], model.token_texts(ids[:1])[0], whole, len(ids))


def _needs_space(before: str, answer: str) -> bool:
    """Whether a word stands apart from what comes before it: not behind a bracket, and not in Chinese."""
    opened = not before or before[-1].isspace() or before[-1] in OPENING
    return not opened and answer[0].isalnum() and unicodedata.east_asian_width(answer[0]) not in ("W", "F")
