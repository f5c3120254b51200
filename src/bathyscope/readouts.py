"""Readouts: what is taken from the target run.

A readout turns prompts under interventions into one record a prompt. Knows how to run a model, not
where the interventions come from.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Progress, generate, next_logits
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens


@dataclass(frozen=True)
class Candidate:
    """A token that may come next.

    Args:
        id: token id.
        token: the token as text.
        probability: under the patched model.
    """

    id: int
    token: str
    probability: float


@dataclass(frozen=True)
class Reading:
    """What one target run said.

    Args:
        text: the generated text, or the likeliest next token.
        ids: the token ids of the text.
        candidates: the likeliest next tokens, likeliest first, where the readout ranks them.
        stopped: whether the model ended the text itself.
    """

    text: str
    ids: tuple[int, ...]
    candidates: tuple[Candidate, ...] = ()
    stopped: bool = False


class Readout(ABC):
    """What is taken from runs of a target prompt; members are frozen dataclasses."""

    new_tokens: int
    """How many tokens a run may add, for the check against the model's context."""

    @abstractmethod
    def read(
        self, model: Model, prompts: Sequence[Tokens], writes: Sequence[Write], progress: Progress | None = None
    ) -> tuple[Reading, ...]:
        """One reading a prompt, under the writes of its row."""

    def spec(self) -> dict[str, Any]:
        """Name and parameters, as JSON values, for provenance."""
        parameters = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"readout": type(self).__name__, **parameters}


@dataclass(frozen=True)
class Generate(Readout):
    """The text that the model writes next, greedily.

    Args:
        max_new_tokens: at most so many tokens.
    """

    max_new_tokens: int = 20

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UsageError(f"{self.max_new_tokens} new tokens were asked for", "at least 1", "--new-tokens 20")

    @property
    def new_tokens(self) -> int:  # type: ignore[override]
        """As `max_new_tokens`."""
        return self.max_new_tokens

    @override
    def read(
        self, model: Model, prompts: Sequence[Tokens], writes: Sequence[Write], progress: Progress | None = None
    ) -> tuple[Reading, ...]:
        found = generate(model, prompts, max_new_tokens=self.max_new_tokens, writes=writes, progress=progress)
        return tuple(Reading(one.text, one.ids, stopped=one.stopped) for one in found)


@dataclass(frozen=True)
class NextToken(Readout):
    """The likeliest next tokens and their probabilities.

    Args:
        k: how many.
    """

    k: int = 10

    new_tokens = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k={self.k} was given", "at least 1", "--top 10")

    @override
    def read(
        self, model: Model, prompts: Sequence[Tokens], writes: Sequence[Write], progress: Progress | None = None
    ) -> tuple[Reading, ...]:
        logits = next_logits(model, prompts, writes=writes, progress=progress)
        best = torch.softmax(logits.float(), -1).topk(min(self.k, logits.shape[-1]))
        readings = []
        for ids, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            texts = model.token_texts(ids)
            candidates = tuple(Candidate(*one) for one in zip(ids, texts, probabilities, strict=True))
            readings.append(Reading(texts[0], (ids[0],), candidates))
        return tuple(readings)
