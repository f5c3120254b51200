"""Which pairs the agreement study finds a circuit on, and on which others it is checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from bathyscope.causal.pairs import Pair, pair
from bathyscope.circuits import Examples
from bathyscope.errors import UsageError
from bathyscope.facts import AgreementPair, agreement_pairs
from bathyscope.facts.agreement import Case
from bathyscope.facts.agreement_words import Split
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff

SPARE: Final = 4
"""How many times the pairs that are wanted are drawn, so that enough are left of one length."""


@dataclass(frozen=True, eq=False)
class Items:
    """Pairs to find a circuit on, and pairs of other nouns to check it on.

    Args:
        train: with nouns of the train split, changed ones and others.
        held_out: with held-out nouns, changed ones and others.
        train_numbers, held_out_numbers: "singular" or "plural", the changed noun's in each clean prompt.
        left_out: pairs that were drawn and cannot be asked, with the first reason of each kind.
    """

    train: Examples
    held_out: Examples
    train_numbers: tuple[str, ...]
    held_out_numbers: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, case: Case, n_train: int, n_held_out: int, seed: int) -> Self:
        """Draw both from the project's own words.

        Raises:
            UsageError: there is no such case, or the model's tokenizer leaves too few pairs of one length.
        """
        train, reasons = _drawn(model, case, "train", n_train, seed)
        held_out, more = _drawn(model, case, "held-out", n_held_out, seed, len(train[0][1].clean))
        return cls(
            as_examples(model, train),
            as_examples(model, held_out),
            _numbers(train),
            _numbers(held_out),
            (*reasons, *more),
        )


def checked(
    model: Model, pairs: Sequence[AgreementPair], *, length: int | None = None
) -> tuple[list[tuple[AgreementPair, Pair]], tuple[str, ...]]:
    """The pairs that a model can be asked position by position: of one length, with answers of one token.

    Args:
        model: the model.
        pairs: as they were drawn or read.
        length: tokens that each prompt has; the commonest length unless said.

    Returns:
        Each pair with its tokens, and why others were left out: a sentence a reason, with how many and the first.
    """
    found: list[tuple[AgreementPair, Pair]] = []
    reasons: dict[str, list[str]] = {}
    for one in pairs:
        try:
            made = pair(model, one.clean, one.corrupted, LogitDiff(one.answer, one.wrong_answer))
        except UsageError as error:
            kind = (
                "answers of several tokens" if "token" in str(error) and one.answer in str(error) else "unlike lengths"
            )
            reasons.setdefault(kind, []).append(str(error))
            continue
        found.append((one, made))
    lengths = [len(made.clean) for _, made in found]
    length = max(set(lengths), key=lengths.count) if length is None and lengths else length
    others = [made.clean.numbered() for _, made in found if len(made.clean) != length]
    if others:
        reasons["another length"] = others
    told = tuple(f"{len(ones)} pairs of {kind}, the first: {ones[0]}" for kind, ones in reasons.items())
    return [entry for entry in found if len(entry[1].clean) == length], told


def as_examples(model: Model, chosen: Sequence[tuple[AgreementPair, Pair]]) -> Examples:
    """Pairs with the noun that changes as their group, and whether the other noun has its number as their case."""
    named = {True: "congruent", False: "incongruent", None: "no other noun"}
    return Examples(
        model,
        [made for _, made in chosen],
        [one.noun or one.clean for one, _ in chosen],
        [named[one.congruent] for one, _ in chosen],
    )


def _drawn(
    model: Model, case: Case, nouns: Split, n: int, seed: int, length: int | None = None
) -> tuple[list[tuple[AgreementPair, Pair]], tuple[str, ...]]:
    if n < 4 or n % 4:
        raise UsageError(
            f"{n} pairs were asked for", "a multiple of 4: both numbers, congruent or not", f"{max(4, n - n % 4)}"
        )
    every = agreement_pairs(case, nouns=nouns, n=None if case == "simple" else SPARE * n, seed=seed)
    kept, reasons = checked(model, every, length=length)
    kinds: dict[tuple[object, object], list[tuple[AgreementPair, Pair]]] = {}
    for entry in kept:
        kinds.setdefault((entry[0].number, entry[0].congruent), []).append(entry)
    share = n // max(1, len(kinds))
    if any(len(ones) < share for ones in kinds.values()) or len(kinds) < (2 if case == "simple" else 4):
        raise UsageError(
            f"{n} pairs of {case} ({nouns} nouns) were asked for, and {len(kept)} of {len(every)} can be asked",
            "; ".join(reasons) or "as many of each number are needed",
            "fewer pairs",
        )
    return [ones[row] for row in range(share) for ones in kinds.values()], reasons


def _numbers(chosen: Sequence[tuple[AgreementPair, Pair]]) -> tuple[str, ...]:
    return tuple(str(one.number) for one, _ in chosen)
