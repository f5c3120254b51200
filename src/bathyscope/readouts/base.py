"""What a readout is: from logits and continuations of target runs to one reading a run.

Knows nothing of how they came about.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.model import Model

ROWS = 128
"""Rows whose logits are looked at together: 25 MB for 49,152 tokens, read again while a cache still holds them."""


@dataclass(frozen=True, slots=True)
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
        values: what was measured, by name, such as {"surprisal": 3.2}; in nats where it is an information.
    """

    text: str
    ids: tuple[int, ...]
    candidates: tuple[Candidate, ...] = ()
    stopped: bool = False
    values: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, eq=False)
class Original:
    """What the source model itself says next, at the positions that were read: what comparisons are made with.

    Args:
        model: the source model.
        hidden: what its unembedding is given there, (rows, width).
        best: its likeliest token, (rows,).
        normalizer: the logarithm of the sum of exponentiated logits, (rows,).
    """

    model: Model
    hidden: Tensor
    best: Tensor
    normalizer: Tensor

    @classmethod
    def of(cls, model: Model, residual: Tensor) -> "Original":
        """From the residual stream after the last block, (rows, d_model); a product with the vocabulary a row."""
        hidden = model.last_hidden(residual)
        best, normalizer = [], []
        for part in hidden.split(ROWS):
            logits = model.decide(part)
            best.append(logits.argmax(-1))
            normalizer.append(logits.logsumexp(-1))
        return cls(model, hidden, torch.cat(best), torch.cat(normalizer))

    def __getitem__(self, rows: Any) -> "Original":
        return Original(self.model, self.hidden[rows], self.best[rows], self.normalizer[rows])

    def log_probability(self, tokens: Tensor) -> Tensor:
        """Of one token a row, (rows,)."""
        return self.model.token_logits(self.hidden, tokens[:, None]).squeeze(1) - self.normalizer

    def log_probabilities(self) -> Tensor:
        """Of every token, (rows, d_vocab); one more product with the vocabulary a row."""
        return torch.log_softmax(self.model.decide(self.hidden), -1)


class Readout(ABC):
    """What is taken from runs of a target prompt; members are frozen dataclasses."""

    new_tokens: int = 0
    """How many tokens have to be generated; 0 where the logits after the prompt suffice."""

    compares: ClassVar[bool] = False
    """Whether it is read against what the source model itself says next (`Original`)."""

    @property
    def n_passes(self) -> int:
        """How many passes a target run takes: one a new token, and one where only the next token is read.

        Example:
            >>> from bathyscope.readouts import Generate, NextToken
            >>> Generate(new_tokens=3).n_passes, NextToken().n_passes
            (3, 1)
        """
        return max(1, self.new_tokens)

    @abstractmethod
    def read(
        self,
        model: Model,
        logits: Tensor | None,
        continuations: Sequence[Continuation],
        original: Original | None = None,
    ) -> tuple[Reading, ...]:
        """One reading a run.

        Args:
            model: the target model.
            logits: after the prompt's last token, (runs, d_vocab); None where `new_tokens` asks for texts,
                since keeping them while texts are written would take the memory of many runs.
            continuations: what each run wrote, where `new_tokens` asks for it.
            original: what the source says next where each run's representation was read, where it `compares`.
        """

    def check(self, source: Model, target: Model) -> None:
        """Refuse models that this cannot be read from, before anything is run.

        Raises:
            UsageError: saying why.
        """
        if self.compares and source is not target and not source.has_tokens_of(target):
            raise UsageError(
                f"{type(self).__name__} compares next tokens, and those of {source.name} and {target.name} are others",
                "models of one vocabulary are needed",
                "Generate or NextToken",
            )

    def spec(self) -> dict[str, Any]:
        """Name and parameters, as JSON values, for keys and provenance."""
        parameters = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"readout": type(self).__name__, **parameters}


def needed(logits: Tensor | None) -> Tensor:
    """The logits of a readout that is read from logits."""
    if logits is None:
        raise ValueError("this readout is read from logits, and texts were generated")
    return logits


def measured(model: Model, logits: Tensor, **values: Tensor) -> tuple[Reading, ...]:
    """A reading a row: its likeliest token, and values by name, each (rows,)."""
    best = logits.argmax(-1).tolist()
    texts = model.token_texts(best)
    columns = torch.stack([value.double() for value in values.values()], -1).tolist()
    return tuple(
        Reading(text, (token,), values=dict(zip(values, row, strict=True)))
        for text, token, row in zip(texts, best, columns, strict=True)
    )
