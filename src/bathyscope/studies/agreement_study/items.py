"""Which pairs the agreement study finds a circuit on, and on which others it is checked."""

from dataclasses import dataclass
from typing import Final, Self

from bathyscope.causal.pairs import Pair
from bathyscope.circuits import Examples
from bathyscope.circuits.pair_files import Asked, as_examples, checked
from bathyscope.errors import UsageError
from bathyscope.facts import AgreementPair, agreement_pairs
from bathyscope.facts.agreement import Case
from bathyscope.facts.agreement_words import Split
from bathyscope.model import Model
from bathyscope.pages import Record

SPARE: Final = 4
"""How many times the pairs that are wanted are drawn, so that enough are left of one length."""


@dataclass(frozen=True, eq=False)
class Items:
    """Pairs to find a circuit on, and pairs of other nouns to check it on.

    Args:
        train: with nouns of the train split, changed ones and others.
        held_out: with held-out nouns, changed ones and others.
        records: the train pairs as JSON values.
        left_out: pairs that were drawn and cannot be asked, with the first reason of each kind.
    """

    train: Examples
    held_out: Examples
    records: tuple[Record, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, case: Case, n_train: int, n_held_out: int, seed: int) -> Self:
        """Draw both from the project's own words.

        Raises:
            UsageError: there is no such case, or the model's tokenizer leaves too few pairs of one length.
        """
        train, reasons = _drawn(model, case, "train", n_train, seed)
        held_out, more = _drawn(model, case, "held-out", n_held_out, seed, len(train[0][1].clean))
        found = as_examples(model, train)
        records = Asked(found, tuple(one for one, _ in train), ()).records()
        return cls(found, as_examples(model, held_out), records, (*reasons, *more))


def _drawn(
    model: Model, case: Case, nouns: Split, n: int, seed: int, length: int | None = None
) -> tuple[list[tuple[AgreementPair, Pair]], tuple[str, ...]]:
    if n < 4 or n % 4:
        raise UsageError(
            f"{n} pairs were asked for", "a multiple of 4: both numbers, congruent or not", f"{max(4, n - n % 4)}"
        )
    every = agreement_pairs(case, nouns=nouns, n=None if case == "simple" else SPARE * n, seed=seed)
    numbered = [(f"pair {number}", one) for number, one in enumerate(every)]
    kept, reasons = checked(model, numbered, length=length)
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
