"""Readouts: what is taken from the target run.

A readout turns logits and continuations into one reading a run. Knows nothing of how they came about.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model


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

    new_tokens: int = 0
    """How many tokens have to be generated; 0 where the logits after the prompt suffice."""

    @abstractmethod
    def read(self, model: Model, logits: Tensor | None, continuations: Sequence[Continuation]) -> tuple[Reading, ...]:
        """One reading a run.

        Args:
            model: the target model.
            logits: after the prompt's last token, (runs, d_vocab); None where `new_tokens` asks for texts,
                since keeping them while texts are written would take the memory of many runs.
            continuations: what each run wrote, where `new_tokens` asks for it.
        """

    def spec(self) -> dict[str, Any]:
        """Name and parameters, as JSON values, for keys and provenance."""
        parameters = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"readout": type(self).__name__, **parameters}


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
        if self.new_tokens < 1:
            raise UsageError(f"{self.new_tokens} new tokens were asked for", "at least 1", "--new-tokens 20")

    @override
    def read(self, model: Model, logits: Tensor | None, continuations: Sequence[Continuation]) -> tuple[Reading, ...]:
        del model, logits
        return tuple(Reading(one.text, one.ids, stopped=one.stopped) for one in continuations)


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
    def read(self, model: Model, logits: Tensor | None, continuations: Sequence[Continuation]) -> tuple[Reading, ...]:
        del continuations
        if logits is None:
            raise ValueError("the likeliest next tokens are read from logits")
        best = torch.softmax(logits.float(), -1).topk(min(self.k, logits.shape[-1]))
        readings = []
        for ids, probabilities in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            texts = model.token_texts(ids)
            candidates = tuple(Candidate(*one) for one in zip(ids, texts, probabilities, strict=True))
            readings.append(Reading(texts[0], (ids[0],), candidates))
        return tuple(readings)


READOUTS: Final[dict[str, type[Readout]]] = {kind.__name__: kind for kind in (Generate, NextToken)}
"""The readouts by name, as `Readout.spec` names them."""


def readout_of(spec: Mapping[str, Any]) -> Readout:
    """The readout that a spec describes.

    Raises:
        UsageError: no readout has that name.
    """
    kind = READOUTS.get(spec["readout"])
    if kind is None:
        raise UsageError(f"no readout is called {spec['readout']!r}", f"readouts are {', '.join(READOUTS)}")
    return kind(**{entry.name: spec[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]
