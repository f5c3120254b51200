"""Metrics: readouts that are one number of the next token's logits, and can be differentiated."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model
from bathyscope.readouts.base import Original, Reading, Readout, measured, needed
from bathyscope.readouts.tokens import token_id


class Metric(Readout):
    """A readout that is one number a run, computed by torch from the logits after the prompt."""

    name: ClassVar[str]
    """What the number is called."""

    @classmethod
    def in_words(cls) -> str:
        """The name for people, such as "logit difference"."""
        return cls.name.replace("_diff", " difference").replace("_", "-")

    @abstractmethod
    def measure(self, model: Model, logits: Tensor) -> Tensor:
        """The number of each run, (runs,), from its logits, (runs, d_vocab)."""

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
        return measured(model, logits, **{self.name: self.measure(model, logits)})


@dataclass(frozen=True)
class _OfToken(Metric):
    token: str | int

    @override
    def check(self, source: Model, target: Model) -> None:
        token_id(target, self.token)


@dataclass(frozen=True)
class Probability(_OfToken):
    """How probable one next token is: {"probability": p}.

    Args:
        token: as text, which must be one token of the target model, or its id.

    Example:
        >>> import bathyscope
        >>> from bathyscope.readouts import Probability
        >>> model = bathyscope.load()
        >>> logits = bathyscope.run(model, "The capital of France is Paris").logits[0][-1:]
        >>> Probability(".").read(model, logits, ())[0].values["probability"] > 0.5
        True
    """

    name: ClassVar[str] = "probability"

    @override
    def measure(self, model: Model, logits: Tensor) -> Tensor:
        return (logits[:, token_id(model, self.token)] - logits.logsumexp(-1)).exp()


@dataclass(frozen=True)
class LogProbability(_OfToken):
    """The logarithm of one next token's probability: {"log_probability": log p}, nats.

    Args:
        token: as text, which must be one token of the target model, or its id.

    Example:
        >>> from bathyscope.readouts import LogProbability
        >>> LogProbability(" Paris").spec()
        {'readout': 'LogProbability', 'token': ' Paris'}
    """

    name: ClassVar[str] = "log_probability"

    @override
    def measure(self, model: Model, logits: Tensor) -> Tensor:
        return logits[:, token_id(model, self.token)] - logits.logsumexp(-1)


@dataclass(frozen=True)
class Logit(_OfToken):
    """The logit of one next token: {"logit": l}.

    Args:
        token: as text, which must be one token of the target model, or its id.

    Example:
        >>> from bathyscope.readouts import Logit
        >>> Logit(" Paris").spec()
        {'readout': 'Logit', 'token': ' Paris'}
    """

    name: ClassVar[str] = "logit"

    @override
    def measure(self, model: Model, logits: Tensor) -> Tensor:
        return logits[:, token_id(model, self.token)]


@dataclass(frozen=True)
class LogitDiff(Metric):
    """The logit of one next token less that of another: {"logit_diff": d}.

    Args:
        answer: as text, which must be one token of the target model, or its id.
        wrong_answer: the same.

    Example:
        >>> from bathyscope.readouts import LogitDiff
        >>> LogitDiff(" is", " are").spec()
        {'readout': 'LogitDiff', 'answer': ' is', 'wrong_answer': ' are'}
    """

    answer: str | int
    wrong_answer: str | int

    name: ClassVar[str] = "logit_diff"

    @override
    def check(self, source: Model, target: Model) -> None:
        if token_id(target, self.answer) == token_id(target, self.wrong_answer):
            raise UsageError(f"answer and wrong answer are both {self.answer!r}", "two tokens are compared")

    @override
    def measure(self, model: Model, logits: Tensor) -> Tensor:
        return logits[:, token_id(model, self.answer)] - logits[:, token_id(model, self.wrong_answer)]
