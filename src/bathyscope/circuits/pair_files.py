"""Pairs of a file as examples: which of them a model can be asked position by position, and why the others cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bathyscope.causal.pairs import Pair, pair
from bathyscope.circuits.examples import Examples
from bathyscope.errors import UsageError
from bathyscope.facts import AgreementPair
from bathyscope.facts.agreement_files import agreement_lines
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff, token_id

CONGRUENT: Final = {True: "congruent", False: "incongruent", None: "all"}


@dataclass(frozen=True, eq=False)
class Asked:
    """Pairs that a model can be asked.

    Args:
        examples: those of one length, with answers of one token.
        pairs: the same, as they were read.
        left_out: why others were left out: a sentence a reason, with how many there are and the first.
    """

    examples: Examples
    pairs: tuple[AgreementPair, ...]
    left_out: tuple[str, ...]

    def records(self) -> tuple[dict[str, Any], ...]:
        """The pairs as JSON values, which `examples_of` takes back."""
        found = []
        for number, one in enumerate(self.pairs):
            own = self.examples
            texts = {"clean": one.clean, "corrupted": one.corrupted}
            answers = {"answer": one.answer, "wrong_answer": one.wrong_answer}
            told = {"group": own.groups[number], "case": own.cases[number], "kind": own.kinds[number]}
            found.append({**texts, **answers, **told})
        return tuple(found)


def read_examples(model: Model, path: str | Path, *, limit: int | None = None, length: int | None = None) -> Asked:
    """The pairs of a file of JSON lines that a model can be asked.

    A line has clean, corrupted, answer and wrong_answer, or the names of the public agreement data (arXiv 2403.19647).

    Args:
        model: the model.
        path: the file.
        limit: at most so many pairs, the first ones.
        length: tokens that each prompt has; the commonest length unless said.

    Raises:
        StorageError: it cannot be read.
        UsageError: a line lacks a field, or no pair is left: with the first line of each reason, and its tokens.
    """
    numbered = [(f"line {number}", one) for number, one in agreement_lines(path)]
    kept, reasons = checked(model, numbered, length=length)
    if not kept:
        raise UsageError(
            f"{path} has no pair that {model.name} can be asked: {'; '.join(reasons)}",
            "pairs of prompts with equally many tokens, and answers of one token",
        )
    kept = kept[:limit]
    return Asked(as_examples(model, kept), tuple(one for one, _ in kept), reasons)


def checked(
    model: Model, pairs: Sequence[tuple[str, AgreementPair]], *, length: int | None = None
) -> tuple[list[tuple[AgreementPair, Pair]], tuple[str, ...]]:
    """The pairs that a model can be asked position by position: of one length, with answers of one token.

    Args:
        model: the model.
        pairs: as they were drawn or read, each with where it stands ("line 7").
        length: tokens that each prompt has; the commonest length unless said.

    Returns:
        Each pair with its tokens, and why others were left out: a sentence a reason, with how many and the first.
    """
    found: list[tuple[str, AgreementPair, Pair]] = []
    reasons: dict[str, list[str]] = {}
    for where, one in pairs:
        try:
            made = pair(model, one.clean, one.corrupted, LogitDiff(one.answer, one.wrong_answer))
        except UsageError as error:
            reasons.setdefault(_kind(model, one), []).append(f"{where}: {error}")
            continue
        found.append((where, one, made))
    lengths = [len(made.clean) for _, _, made in found]
    length = max(set(lengths), key=lengths.count) if length is None and lengths else length
    for where, _, made in found:
        if len(made.clean) != length:
            reasons.setdefault(f"another length than {length} tokens", []).append(f"{where}: {made.clean.numbered()}")
    told = tuple(
        f"{len(ones):,} of {len(pairs):,} pairs, of {kind}; the first is {ones[0]}" for kind, ones in reasons.items()
    )
    return [(one, made) for _, one, made in found if len(made.clean) == length], told


def _kind(model: Model, one: AgreementPair) -> str:
    try:
        for answer in (one.answer, one.wrong_answer):
            token_id(model, answer)
    except UsageError:
        return "answers of several tokens"
    return "unlike lengths, or no difference"


def as_examples(model: Model, chosen: Sequence[tuple[AgreementPair, Pair]]) -> Examples:
    """Pairs with the noun that changes as their group, its number as their kind, and whether another noun has it."""
    return Examples(
        model,
        [made for _, made in chosen],
        groups=[one.noun or one.clean for one, _ in chosen],
        cases=[CONGRUENT[one.congruent] for one, _ in chosen],
        kinds=[one.number or "all" for one, _ in chosen],
    )


def examples_of(model: Model, records: Sequence[Mapping[str, Any]]) -> Examples:
    """The examples of `Asked.records`.

    Raises:
        UsageError: another model's tokens: prompts of another length, or answers of several tokens.
    """
    metrics = [LogitDiff(one["answer"], one["wrong_answer"]) for one in records]
    return Examples(
        model,
        [pair(model, one["clean"], one["corrupted"], metric) for one, metric in zip(records, metrics, strict=True)],
        groups=[one["group"] for one in records],
        cases=[one["case"] for one in records],
        kinds=[one["kind"] for one in records],
    )
