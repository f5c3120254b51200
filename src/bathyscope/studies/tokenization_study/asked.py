"""One call of the tokenization study, resolved: which words, where their pieces are, and which prompts are controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, TypedDict

import numpy

from bathyscope import prompts
from bathyscope.errors import UsageError
from bathyscope.facts import SplitWord, contexts, split_words
from bathyscope.model import Model, Tokens
from bathyscope.prompts import Inspection, InspectionPrompt
from bathyscope.sites import check_layer
from bathyscope.studies.entity_resolution_study.asked import layers_of
from bathyscope.studies.paired import exchanged

WORDS: Final = 48
NEW_TOKENS: Final = 5
"""Room for a word of four pieces and what stands before it."""
REPEAT: Final = InspectionPrompt("bicycle -> bicycle\nelephant -> elephant\nchocolate -> chocolate\nx ->", "x")
"""Words that are each followed by themselves: the model repeats, in as many tokens as it takes, what is written."""
TARGETS: Final = {"repeat": REPEAT, "token-identity": prompts.token_identity()}
"""What a piece is written into, by name."""
Piece = Literal["first", "middle", "last"]


class TokenizationChoices(TypedDict, total=False):
    """What the tokenization study takes besides the model.

    Args:
        words: what is read, at least 4 of them split by the model; 48 of the project's own unless said.
        context: the sentence that they stand in, at "{}"; the first of `facts.contexts` unless said. Without words
            before it the first piece would be an attention sink, which holds nothing of its own.
        prompt: "repeat" (the default) or "token-identity".
        target_layer: where it is written: "same" (the default), or a layer.
        layers: after which layers: "all" (the default), "embed", "0-10", a number, several.
        new_tokens: how many are written, 5 unless said.
        seed: decides which of the project's words, which words are exchanged, the halves, and the bootstrap.
    """

    words: Sequence[SplitWord]
    context: str
    prompt: str
    target_layer: int | Literal["same"]
    layers: int | str | Sequence[int]
    new_tokens: int
    seed: int


@dataclass(frozen=True, eq=False)
class AskedWords:
    """What is measured.

    Args:
        model: the model.
        words: those that it splits.
        whole: those of the given words that it does not split, and that are left out.
        layers: after which layers, lowest first.
        choices: what was asked.
    """

    model: Model
    words: tuple[SplitWord, ...]
    whole: tuple[str, ...]
    layers: tuple[int, ...]
    choices: TokenizationChoices

    @classmethod
    def of(cls, model: Model, choices: TokenizationChoices) -> "AskedWords":
        """Resolve a call, with all that can be refused refused.

        Raises:
            UsageError: fewer than 4 words that the model splits, an unknown prompt, or a layer that does not exist.
        """
        context = choices.get("context", contexts()[0])
        if context.count("{}") != 1:
            raise UsageError(
                f"the context {context!r} was given", "the word's place {} must be in it once", contexts()[0]
            )
        given = tuple(choices.get("words", drawn_words(seed=choices.get("seed", 0))))
        split = tuple(one for one in given if len(_pieces(model, context, one.word)[1]) > 1)
        if len(split) < 4 or len({one.word for one in given}) < len(given):
            raise UsageError(
                f"{len(given)} words were given, of which {model.name} splits {len(split)}",
                "at least 4 that are split, each once",
                "--words 48",
            )
        if (prompt := choices.get("prompt", "repeat")) not in TARGETS:
            raise UsageError(f"no prompt is called {prompt!r}", f"prompts are {', '.join(TARGETS)}", "--prompt repeat")
        if (target := choices.get("target_layer", "same")) != "same":
            check_layer(target, model.n_layers)
        if choices.get("new_tokens", NEW_TOKENS) < 1:
            raise UsageError(f"{choices.get('new_tokens')} new tokens were asked for", "at least 1", "--new-tokens 5")
        whole = tuple(one.word for one in given if one not in split)
        asked = cls(model, split, whole, layers_of(choices.get("layers", "all"), model), choices)
        model.check_length(len(asked.inspection.tokens) + asked.new_tokens)
        return asked

    @property
    def seed(self) -> int:
        """Decides everything that is drawn."""
        return self.choices.get("seed", 0)

    @property
    def new_tokens(self) -> int:
        """How many are written."""
        return self.choices.get("new_tokens", NEW_TOKENS)

    @property
    def context(self) -> str:
        """The sentence that a word stands in."""
        return self.choices.get("context", contexts()[0])

    @property
    def target(self) -> InspectionPrompt:
        """What is written into."""
        return TARGETS[self.choices.get("prompt", "repeat")]

    @cached_property
    def inspection(self) -> Inspection:
        """The same as the model reads it."""
        return prompts.prepare(self.model, self.target)

    def target_layer(self, layer: int) -> int:
        """Where what was read after a layer is written."""
        target = self.choices.get("target_layer", "same")
        return layer if target == "same" else target

    @cached_property
    def placed(self) -> tuple[tuple[Tokens, tuple[int, ...]], ...]:
        """Of each word its prompt, and the positions of its pieces."""
        return tuple(_pieces(self.model, self.context, one.word) for one in self.words)

    def pieces(self, number: int) -> tuple[str, ...]:
        """A word's pieces as text."""
        tokens, positions = self.placed[number]
        return tuple(tokens.texts[position] for position in positions)

    @cached_property
    def others(self) -> list[int]:
        """For each word another one."""
        return exchanged([0] * len(self.words), self.seed)

    def alone(self, number: int) -> tuple[Tokens, int]:
        """The context with the word's last piece and none of the others, and where that stands."""
        tokens, positions = self.placed[number]
        return self._behind(tokens.ids[: positions[0]], number)

    def swapped(self, number: int) -> tuple[Tokens, int]:
        """The context with another word's pieces but for the last, and then this word's last one; where that stands."""
        other, places = self.placed[self.others[number]]
        return self._behind(other.ids[: places[-1]], number)

    @cached_property
    def named(self) -> tuple[str, ...]:
        """The target prompt with each word in the placeholder's place, as text."""
        text, placeholder = self.target.text, self.target.placeholder
        start = text.rindex(placeholder)
        return tuple(text[:start] + one.word + text[start + len(placeholder) :] for one in self.words)

    def spec(self) -> dict[str, Any]:
        """What is measured, as JSON values."""
        return {
            "words": [[one.word, one.gloss] for one in self.words],
            "context": self.context,
            "layers": list(self.layers),
            "target_layer": self.choices.get("target_layer", "same"),
            "prompt": self.target.text,
            "new_tokens": self.new_tokens,
            "seed": self.seed,
            "models": [self.model.loadable()],
        }

    def _behind(self, before: Sequence[int], number: int) -> tuple[Tokens, int]:
        """A word's last piece, with what follows it, behind other tokens."""
        tokens, positions = self.placed[number]
        return self.model.tokenize([*before, *tokens.ids[positions[-1] :]]), len(before)


def drawn_words(n: int = WORDS, *, seed: int = 0) -> tuple[SplitWord, ...]:
    """Some of the project's own words, drawn by a seed, in alphabetical order.

    Args:
        n: how many; all where there are no more.
        seed: decides which.

    Example:
        >>> from bathyscope.studies.tokenization_study.asked import drawn_words
        >>> len(drawn_words()), len(drawn_words(1000))
        (48, 71)
    """
    chosen = numpy.random.default_rng(seed).permutation(len(split_words()))[:n].tolist()
    return tuple(split_words()[number] for number in sorted(chosen))


def kind_of(place: int, count: int) -> Piece:
    """What a piece is called by its place among so many, from 0."""
    if place == count - 1:
        return "last"
    return "first" if place == 0 else "middle"


def _pieces(model: Model, context: str, word: str) -> tuple[Tokens, tuple[int, ...]]:
    """The context with a word, and the positions of the tokens that hold any of its letters."""
    start = context.index("{}")
    tokens = model.tokenize(context.replace("{}", word))
    stop = start + len(word)
    held = [index for index, (first, last) in enumerate(tokens.offsets) if max(first, start) < min(last, stop)]
    return tokens, tuple(held)
