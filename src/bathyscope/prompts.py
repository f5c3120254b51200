"""Inspection prompts, placeholders, and finding positions by character offset.

Knows text and tokens, no activations. An inspection prompt is text that makes the model speak about
whatever stands at its placeholder.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bathyscope.errors import BathyscopeWarning, PositionError, UsageError, nearest
from bathyscope.interventions import Write, token_index
from bathyscope.model import Model, Tokens


@dataclass(frozen=True)
class Span:
    """A substring of a prompt, where its plain text would be taken for a rule or stands there twice.

    Args:
        text: the substring.
        occurrence: which one, from 0; None where there is only one.

    Example:
        >>> from bathyscope.prompts import Span
        >>> Span("last", occurrence=0)
        Span(text='last', occurrence=0)
    """

    text: str
    occurrence: int | None = None


@dataclass(frozen=True)
class InspectionPrompt:
    """A target prompt with the places that a representation is written to.

    Args:
        text: the prompt.
        placeholder: the text that is overwritten, several times if it stands there several times.
            Its last occurrence where `every` is False.
        every: overwrite every occurrence, not only the last.
        chat: wrap the text in the model's chat template as a user's message.
        reply: with `chat`, how the model's answer begins.

    Example:
        >>> from bathyscope import prompts
        >>> prompts.entity_description().placeholder
        'x'
    """

    text: str
    placeholder: str
    every: bool = False
    chat: bool = False
    reply: str = ""

    def __post_init__(self) -> None:
        if not self.placeholder or self.placeholder not in self.text:
            raise UsageError(
                f"the placeholder {self.placeholder!r} is not in the target prompt {self.text!r}",
                "the prompt must hold the text that is overwritten",
                "--placeholder with a part of --text",
            )


def entity_description(*, chat: bool = False) -> InspectionPrompt:
    """Three described entities and a placeholder: the model describes a fourth (arXiv 2401.06102, section 4.3)."""
    return InspectionPrompt(
        "Syria: Country in the Middle East, Leonardo DiCaprio: American actor, Samsung: South Korean "
        "multinational major appliance and consumer electronics corporation, x",
        "x",
        chat=chat,
    )


def token_identity(*, chat: bool = False) -> InspectionPrompt:
    """A few tokens each followed by itself, then `?`: the model repeats what stands there (section 4.1)."""
    return InspectionPrompt("cat -> cat\n1135 -> 1135\nhello -> hello\n?", "?", chat=chat)


def bare(*, chat: bool = False) -> InspectionPrompt:
    """The single token `?`."""
    return InspectionPrompt("?", "?", chat=chat)


def attribute(relation: str = "The largest city in", *, chat: bool = False) -> InspectionPrompt:
    """A relation and a placeholder: the model completes the attribute (section 4.2).

    Args:
        relation: for example "The official currency of".
        chat: in the model's chat template.

    Example:
        >>> from bathyscope import prompts
        >>> prompts.attribute("The capital city of").text
        'The capital city of x'
    """
    return InspectionPrompt(f"{relation} x", "x", chat=chat)


def selfie(*, chat: bool = True) -> InspectionPrompt:
    """Five placeholders to be summarised (SelfIE, arXiv 2403.10949); in a chat template unless told otherwise."""
    return InspectionPrompt("_ _ _ _ _", "_", every=True, chat=chat, reply="Sure, I will summarize the message:")


def custom(text: str, placeholder: str = "x", *, every: bool = False, chat: bool = False) -> InspectionPrompt:
    """Any text, with any placeholder, of one token or several."""
    return InspectionPrompt(text, placeholder, every=every, chat=chat)


PROMPTS: Final = {
    "entity-description": entity_description,
    "token-identity": token_identity,
    "bare": bare,
    "attribute": attribute,
    "selfie": selfie,
}
"""The named inspection prompts of the command line."""


def named(name: str, *, chat: bool | None = None) -> InspectionPrompt:
    """An inspection prompt by its name.

    Raises:
        UsageError: there is no such prompt.
    """
    if name not in PROMPTS:
        raise UsageError(
            f"no prompt is called {name!r}",
            f"prompts are {', '.join(PROMPTS)}, or any text of your own",
            '--text "Tell me about x" --placeholder x',
        )
    return PROMPTS[name]() if chat is None else PROMPTS[name](chat=chat)


@dataclass(frozen=True)
class Inspection:
    """An inspection prompt as one model reads it.

    Args:
        tokens: the whole prompt.
        positions: the token indices that are overwritten, in order.
        placeholder: the text that stands there.
        writes: other interventions that belong to the prompt, such as the embeddings of a soft one.
    """

    tokens: Tokens
    positions: tuple[int, ...]
    placeholder: str
    writes: tuple[Write, ...] = ()


def prepare(model: Model, prompt: InspectionPrompt | Inspection | str) -> Inspection:
    """Tokenize an inspection prompt and find its placeholder.

    A placeholder of several tokens is overwritten at each of them. Of plain text, the last "x" is it.

    Raises:
        UsageError: the model has no chat template.
        PositionError: the placeholder shares a token with other text.
    """
    if isinstance(prompt, Inspection):
        return prompt
    prompt = custom(prompt) if isinstance(prompt, str) else prompt
    start, text = _in_chat(model, prompt) if prompt.chat else (0, " ".join(filter(None, (prompt.text, prompt.reply))))
    tokens = model.tokenize(text)
    stop = start + len(prompt.text)
    found = [place for place in _occurrences(text, prompt.placeholder) if start <= place < stop]
    places = found if prompt.every else found[-1:]
    positions = [
        token for place in places for token in _tokens_of(tokens, place, place + len(prompt.placeholder), exact=True)
    ]
    return Inspection(tokens, tuple(dict.fromkeys(positions)), prompt.placeholder)


Position = int | str | Span | Sequence[int]
"""A token index, several, "last", "all", or text that the position is found by."""


def resolve(tokens: Tokens, position: Position) -> tuple[int, ...]:
    """The token indices that a position means in a prompt.

    Args:
        tokens: the prompt.
        position: an index (negative ones count from the end), several of them, "last", "all", or
            other text or a `Span`, which means the last token of that substring.

    Raises:
        PositionError: there is no such position, or the text is not there exactly once.

    Example:
        >>> import bathyscope
        >>> from bathyscope import prompts
        >>> tokens = bathyscope.load().tokenize("Diana, Princess of Wales")
        >>> prompts.resolve(tokens, "Princess"), prompts.resolve(tokens, "last")
        ((3,), (5,))
    """
    if isinstance(position, int):
        return (token_index(position, len(tokens)),)
    if isinstance(position, (str, Span)):
        if position == "last":
            return (len(tokens) - 1,)
        if position == "all":
            return tuple(range(len(tokens)))
        return span_tokens(tokens, position)[-1:]
    found = tuple(dict.fromkeys(token_index(index, len(tokens)) for index in position))
    if not found:
        raise PositionError("no position was given", "at least one is needed", "last")
    return found


def span_tokens(tokens: Tokens, span: Span | str, *, called: str = "position") -> tuple[int, ...]:
    """All tokens of a substring.

    Args:
        tokens: the prompt.
        span: the substring.
        called: what a message calls it. Of anything but a position all words are meant, not the token that it ends in.

    Raises:
        PositionError: the text is not there exactly once; the tokens are shown.

    Warns:
        BathyscopeWarning: it is a part of a word that one token holds, which is taken whole.

    Example:
        >>> import bathyscope
        >>> from bathyscope import prompts
        >>> prompts.span_tokens(bathyscope.load().tokenize("Diana, Princess of Wales"), "Princess of Wales")
        (3, 4, 5)
    """
    span = Span(span) if isinstance(span, str) else span
    places = _occurrences(tokens.text, span.text) if span.text else []
    which = span.occurrence if span.occurrence is not None else 0
    if not places or which >= len(places) or (span.occurrence is None and len(places) > 1):
        count = f"it is there {len(places)} times" if places else "it is not there"
        raise PositionError(
            f"{called} {span.text!r} was given and {count}",
            f"the tokens are {tokens.numbered()}",
            _instead(tokens.text, span.text, called, there=bool(places)),
        )
    first = places[which]
    found = tuple(_tokens_of(tokens, first, first + len(span.text)))
    around = (
        tokens.text[tokens.offsets[found[0]][0] : first]
        + tokens.text[first + len(span.text) : tokens.offsets[found[-1]][1]]
    )
    if called != "position" and any(character.isalnum() for character in around):
        taken = ", ".join(repr(tokens.texts[index]) for index in found)
        told = f"{called} {span.text!r} is a part of a word; whole tokens are taken: {taken}"
        warnings.warn(told, BathyscopeWarning, stacklevel=2)
    return found


def _instead(text: str, part: str, called: str, *, there: bool) -> str:
    """What to give for a text that a prompt does not have exactly once."""
    rules = {"subject": "", "keys": "an index"}.get(called, "last, or an index")
    if there:
        return "more of the text around it" + (", or its index" if rules else "")
    words = re.findall(r"\w+", text)
    likely = [nearest(part, once)] if (once := [word for word in words if text.count(word) == 1]) else []
    return ", ".join([*likely, *([rules] if rules else [])])


def _occurrences(text: str, part: str) -> list[int]:
    return [index for index in range(len(text)) if text.startswith(part, index)]


def _tokens_of(tokens: Tokens, first: int, last: int, *, exact: bool = False) -> list[int]:
    """Tokens that hold the characters from `first` to before `last`.

    With `exact`, a token that also holds other text (spaces aside) is refused.
    """
    if not tokens.offsets:
        raise PositionError("a position was given as text", "this prompt was given as token ids", "an index")
    found = []
    for index, (start, stop) in enumerate(tokens.offsets):
        if max(start, first) < min(stop, last):
            around = tokens.text[start:first] + tokens.text[last:stop]
            if exact and around.strip():
                raise PositionError(
                    f"the placeholder {tokens.text[first:last]!r} is a part of the token {tokens.texts[index]!r}",
                    f"it must be whole tokens; the tokens are {tokens.numbered()}",
                    "another --placeholder",
                )
            found.append(index)
    if not found:
        raise PositionError(
            f"no token holds {tokens.text[first:last]!r}", f"the tokens are {tokens.numbered()}", "an index"
        )
    return found


def _in_chat(model: Model, prompt: InspectionPrompt) -> tuple[int, str]:
    """Where the message begins in the chat text, and the text."""
    if not model.tokenizer.chat_template:
        raise UsageError(f"{model.name} has no chat template", "a chat prompt needs one", "--no-chat")

    def rendered(message: str) -> str:
        messages = [{"role": "user", "content": message}]
        return str(model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    # A template may use a word of the message for itself; a word that it cannot know tells the place.
    start = rendered(_UNKNOWN_WORD).index(_UNKNOWN_WORD)
    text = rendered(prompt.text)
    if not text.startswith(prompt.text, start):
        raise UsageError(
            f"the chat template of {model.name} changes the message", "it must stand there as it is", "--no-chat"
        )
    return start, text + prompt.reply


_UNKNOWN_WORD = "bathyscopemessage"
