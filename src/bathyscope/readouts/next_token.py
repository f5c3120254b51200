"""Readouts of the target's next token: which are likeliest, and at what rank certain ones stand."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.generation import Continuation
from bathyscope.largest import largest, log_normaliser
from bathyscope.model import Model
from bathyscope.readouts.base import Candidate, Original, Reading, Readout, measured, needed
from bathyscope.readouts.tokens import token_id


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
        indices, values = largest(logits, self.k)
        values, order = values.sort(dim=-1, descending=True, stable=True)
        probabilities = (values - log_normaliser(logits, values[:, :1])).exp()
        rows = indices.gather(-1, order).tolist()
        known = list({token for row in rows for token in row})
        texts = dict(zip(known, model.token_texts(known), strict=True))
        readings = []
        for ids, shares in zip(rows, probabilities.tolist(), strict=True):
            candidates = tuple([Candidate(one, texts[one], share) for one, share in zip(ids, shares, strict=True)])
            readings.append(Reading(texts[ids[0]], (ids[0],), candidates))
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
