"""Readouts: what is taken from the target run."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from bathyscope.errors import UsageError
from bathyscope.readouts.base import Candidate, Original, Reading, Readout
from bathyscope.readouts.comparisons import KL, PrecisionAtK, ReverseSurprisal, Several, Surprisal
from bathyscope.readouts.metrics import Logit, LogitDiff, LogProbability, Metric, Probability
from bathyscope.readouts.next_token import NextToken, Rank
from bathyscope.readouts.texts import Contains, Generate, normalized
from bathyscope.readouts.tokens import AnswerToken, answer_token, token_id

__all__ = [
    "KL",
    "READOUTS",
    "AnswerToken",
    "Candidate",
    "Contains",
    "Generate",
    "LogProbability",
    "Logit",
    "LogitDiff",
    "Metric",
    "NextToken",
    "Original",
    "PrecisionAtK",
    "Probability",
    "Rank",
    "Reading",
    "Readout",
    "ReverseSurprisal",
    "Several",
    "Surprisal",
    "answer_token",
    "metric_in_words",
    "normalized",
    "readout_of",
    "token_id",
]

READOUTS: Final[dict[str, type[Readout]]] = {
    kind.__name__: kind
    for kind in (
        Contains,
        Generate,
        KL,
        LogProbability,
        Logit,
        LogitDiff,
        NextToken,
        PrecisionAtK,
        Probability,
        Rank,
        ReverseSurprisal,
        Surprisal,
    )
}
"""The readouts by name, as `Readout.spec` names them; `Several` holds specs of others."""


def readout_of(spec: Mapping[str, Any]) -> Readout:
    """The readout that a spec describes.

    Raises:
        UsageError: no readout has that name.
    """
    if spec["readout"] == "Several":
        return Several(tuple(readout_of(one) for one in spec["readouts"]))
    kind = READOUTS.get(spec["readout"])
    if kind is None:
        raise UsageError(f"no readout is called {spec['readout']!r}", f"readouts are {', '.join(READOUTS)}, Several")
    return kind(**{entry.name: spec[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]


def metric_in_words(spec: Mapping[str, Any], *, tokens: bool = True) -> str:
    """A metric as people read it.

    Args:
        spec: of a metric, with the texts of its tokens where they were given as ids.
        tokens: whether they are named, too.

    Example:
        >>> from bathyscope.readouts import metric_in_words
        >>> metric_in_words({"readout": "LogitDiff", "answer": " are", "wrong_answer": 314, "wrong_answer_text": " is"})
        "logit difference of ' are' and ' is'"
    """
    kind = READOUTS.get(spec["readout"])
    name = kind.in_words() if kind is not None and issubclass(kind, Metric) else str(spec["readout"])
    named = [repr(spec.get(f"{one}_text", spec[one])) for one in ("token", "answer", "wrong_answer") if one in spec]
    return f"{name} of {' and '.join(named)}" if tokens and named else name
