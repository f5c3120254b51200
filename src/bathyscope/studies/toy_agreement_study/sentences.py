"""The toy's data: sentences of the project's own, and the two numbers that the network sees of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError

NUMBERS: Final = ("singular", "plural")
VERBS: Final = ("runs", "run")
"""The verb's form for each number."""

NOUNS: Final = (
    ("actor", "actors"), ("aunt", "aunts"), ("baby", "babies"), ("baker", "bakers"), ("bear", "bears"),
    ("boy", "boys"), ("cat", "cats"), ("child", "children"), ("cow", "cows"), ("crow", "crows"),
    ("doctor", "doctors"), ("dog", "dogs"), ("farmer", "farmers"), ("fox", "foxes"), ("friend", "friends"),
    ("girl", "girls"), ("goose", "geese"), ("hen", "hens"), ("horse", "horses"), ("judge", "judges"),
    ("king", "kings"), ("lady", "ladies"), ("lion", "lions"), ("man", "men"), ("mouse", "mice"),
    ("nurse", "nurses"), ("ox", "oxen"), ("pilot", "pilots"), ("pony", "ponies"), ("puppy", "puppies"),
    ("queen", "queens"), ("rabbit", "rabbits"), ("sailor", "sailors"), ("soldier", "soldiers"), ("thief", "thieves"),
    ("tiger", "tigers"), ("uncle", "uncles"), ("waiter", "waiters"), ("wolf", "wolves"), ("woman", "women"),
)  # fmt: skip
FRAMES: Final = ("The {} {}", "The old {} {}", "The {} {} home")

NOISE: Final = 0.4
"""Deviation of what is added to each input: without it there would be two sentences, and nothing to learn."""


@dataclass(frozen=True)
class Sentences:
    """Sentences and what the network sees of them.

    Args:
        texts: the sentences.
        numbers: of their subjects, (sentences,): 0 is singular, 1 plural. They choose the verb.
        inputs: 1 for the subject's number and 0 for the other, and noise, (sentences, 2), float64.
        held_out: which are kept from training, (sentences,); their nouns are in no other sentence.
    """

    texts: tuple[str, ...]
    numbers: Tensor
    inputs: Tensor
    held_out: Tensor

    def given(self, what: str) -> Tensor:
        """The inputs, (2,), of one sentence; of "singular" or "plural" those without noise.

        Raises:
            UsageError: neither of these.
        """
        if what in NUMBERS:
            return torch.eye(2, dtype=torch.float64)[NUMBERS.index(what)]
        if what not in self.texts:
            raise UsageError(
                f"{what!r} was given",
                f"singular, plural, or one of the {len(self.texts)} sentences, such as {self.texts[0]!r}",
                '"The dog runs"',
            )
        return self.inputs[self.texts.index(what)]


def drawn_sentences(generator: torch.Generator) -> Sentences:
    """All sentences, a quarter of their nouns held out, with noise that the generator draws.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.sentences import drawn_sentences
        >>> found = drawn_sentences(torch.Generator().manual_seed(0))
        >>> len(found.texts), int(found.held_out.sum()), found.texts[36], found.texts[39]
        (240, 60, 'The cat runs', 'The cats run')
    """
    texts, numbers, nouns = zip(*_spoken(NOUNS), strict=True)
    unseen = torch.randperm(len(NOUNS), generator=generator)[: len(NOUNS) // 4]
    which = torch.tensor(numbers)
    noise = torch.randn(len(texts), 2, generator=generator, dtype=torch.float64)
    inputs = torch.eye(2, dtype=torch.float64)[which] + NOISE * noise
    return Sentences(texts, which, inputs, torch.isin(torch.tensor(nouns), unseen))


def _spoken(nouns: Sequence[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Each sentence with its subject's number and noun."""
    return [
        (frame.format(form, VERBS[number]), number, noun)
        for noun, forms in enumerate(nouns)
        for number, form in enumerate(forms)
        for frame in FRAMES
    ]


def best_accuracy() -> float:
    """How often the verb can be told at all: noise hides the rest."""
    return float(torch.special.ndtr(torch.tensor(1 / (NOISE * 2**0.5), dtype=torch.float64)))
