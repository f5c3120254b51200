"""Readouts that compare the target's next token with what the source model itself says next.

The source's own distribution is the one after its last block, where the representation was read
(arXiv 2401.06102, section 4.1, evaluates next-token prediction in this way).
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model
from bathyscope.readouts.base import Original, Reading, Readout, measured, needed


class _Comparison(Readout):
    """A readout of one value, by a formula over both distributions."""

    compares: ClassVar[bool] = True
    name: ClassVar[str]

    @abstractmethod
    def compare(self, logits: Tensor, original: Original) -> Tensor:
        """One value a run, (runs,)."""

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        del continuations
        if original is None:
            raise UsageError(f"{type(self).__name__} compares with the source", "a cell with a source is needed")
        logits = needed(logits)
        return measured(model, logits, **{self.name: self.compare(logits, original)})


@dataclass(frozen=True)
class Surprisal(_Comparison):
    """How surprised the source would be by the target's choice: {"surprisal": -log p_source(argmax p_target)}, nats.

    The paper's direction. It is at least -log max p_source, whatever the method.

    Example:
        >>> from bathyscope.readouts import Surprisal
        >>> Surprisal().spec()
        {'readout': 'Surprisal'}
    """

    name: ClassVar[str] = "surprisal"

    @override
    def compare(self, logits: Tensor, original: Original) -> Tensor:
        return -original.log_probability(logits.argmax(-1))


@dataclass(frozen=True)
class ReverseSurprisal(_Comparison):
    """The other direction: {"reverse_surprisal": -log p_target(argmax p_source)}, nats. Some tools call it surprisal.

    Example:
        >>> from bathyscope.readouts import ReverseSurprisal
        >>> ReverseSurprisal().spec()
        {'readout': 'ReverseSurprisal'}
    """

    name: ClassVar[str] = "reverse_surprisal"

    @override
    def compare(self, logits: Tensor, original: Original) -> Tensor:
        return logits.logsumexp(-1) - logits.gather(-1, original.best[:, None]).squeeze(1)


@dataclass(frozen=True)
class PrecisionAtK(_Comparison):
    """Whether the source's likeliest token is among the target's k likeliest: {"precision_at_1": 1.0 or 0.0}.

    Example:
        >>> from bathyscope.readouts import PrecisionAtK
        >>> PrecisionAtK(1).name
        'precision_at_1'
    """

    k: int = 1

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"precision at {self.k} was asked for", "at least 1")

    @property
    def name(self) -> str:  # type: ignore[override]  # it depends on k
        """What the value is called."""
        return f"precision_at_{self.k}"

    @override
    def compare(self, logits: Tensor, original: Original) -> Tensor:
        best = logits.topk(min(self.k, logits.shape[-1])).indices
        return (best == original.best[:, None]).any(-1)


@dataclass(frozen=True)
class KL(_Comparison):
    """How far the target's distribution is from the source's: {"kl": KL(p_source || p_target)}, nats.

    Example:
        >>> from bathyscope.readouts import KL
        >>> KL().spec()
        {'readout': 'KL'}
    """

    name: ClassVar[str] = "kl"

    @override
    def compare(self, logits: Tensor, original: Original) -> Tensor:
        wanted = original.log_probabilities()
        return (wanted.exp() * (wanted - torch.log_softmax(logits, -1))).sum(-1)


@dataclass(frozen=True)
class Several(Readout):
    """Several readouts of the same runs; text and candidates are those of the first, values those of all.

    Args:
        readouts: those; all generate equally many tokens.

    Example:
        >>> from bathyscope.readouts import PrecisionAtK, Several, Surprisal
        >>> Several((PrecisionAtK(1), Surprisal())).compares
        True
    """

    readouts: tuple[Readout, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "readouts", tuple(self.readouts))
        kinds = [(type(one), getattr(one, "k", None)) for one in self.readouts]
        if len(set(kinds)) < len(kinds):
            raise UsageError(
                "two readouts of one kind were given", "their values would have one name", "cells of their own"
            )
        if len({one.new_tokens for one in self.readouts}) != 1:
            raise UsageError(
                "readouts of different numbers of new tokens were given", "one number for all, of at least 1 readout"
            )

    @property
    def new_tokens(self) -> int:  # type: ignore[override]  # it is that of its members
        """How many tokens have to be generated."""
        return self.readouts[0].new_tokens

    @property
    def compares(self) -> bool:  # type: ignore[override]
        """Whether any of them does."""
        return any(one.compares for one in self.readouts)

    @override
    def check(self, source: Model, target: Model) -> None:
        for one in self.readouts:
            one.check(source, target)

    @override
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        columns = [one.read(model, logits, continuations, original) for one in self.readouts]
        found = []
        for row in zip(*columns, strict=True):
            values = {name: value for reading in row for name, value in reading.values.items()}
            first = row[0]
            found.append(Reading(first.text, first.ids, first.candidates, first.stopped, values))
        return tuple(found)

    @override
    def spec(self) -> dict[str, Any]:
        return {"readout": "Several", "readouts": [one.spec() for one in self.readouts]}
