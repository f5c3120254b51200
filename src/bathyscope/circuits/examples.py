"""Examples: pairs of prompts that a circuit is found on, or checked on, position by position."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from bathyscope.causal.pairs import Pair
from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.readouts import LogitDiff, token_id


@dataclass(frozen=True, eq=False)
class Examples:
    """Pairs of one length, and what tells them apart.

    Args:
        model: that they are tokenized for.
        pairs: clean and corrupted prompts whose metric is a `LogitDiff`.
        groups: for each pair what it shares with others, such as the noun that changes; intervals are drawn by it.
        cases: for each pair which case it is, such as "congruent"; results are given for each.
        kinds: for each pair what its clean prompt is, such as "singular"; nodes say how well they tell.

    Raises:
        UsageError: none is given, they differ in length, or have another metric.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal.pairs import pair
        >>> from bathyscope.circuits import Examples
        >>> from bathyscope.readouts import LogitDiff
        >>> model = bathyscope.load()
        >>> pairs = [pair(model, "The boats", "The boat", LogitDiff(" they", " it"))]
        >>> Examples(model, pairs).length
        2
    """

    model: Model
    pairs: Sequence[Pair]
    groups: Sequence[str] = ()
    cases: Sequence[str] = ()
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.pairs:
            raise UsageError("no pair was given", "at least one is needed")
        object.__setattr__(self, "groups", tuple(self.groups) or tuple(str(n) for n in range(len(self.pairs))))
        object.__setattr__(self, "cases", tuple(self.cases) or ("all",) * len(self.pairs))
        object.__setattr__(self, "kinds", tuple(self.kinds) or ("all",) * len(self.pairs))
        if {len(self.groups), len(self.cases), len(self.kinds)} != {len(self.pairs)}:
            raise UsageError(
                f"{len(self.pairs)} pairs with {len(self.groups)} groups, {len(self.cases)} cases and "
                f"{len(self.kinds)} kinds were given",
                "as many of each",
            )
        first = self.pairs[0]
        for number, one in enumerate(self.pairs):
            if len(one.clean) != len(first.clean) or len(one.corrupted) != len(first.clean):
                raise UsageError(
                    f"pair {number} has {len(one.clean)} and {len(one.corrupted)} tokens ({one.clean.numbered()}; "
                    f"{one.corrupted.numbered()}), and the first pair {len(first.clean)} ({first.clean.numbered()})",
                    "a circuit's positions are the same in all pairs",
                    "pairs of one length",
                )
            if not isinstance(one.metric, LogitDiff):
                raise UsageError(
                    f"pair {number} has the metric {type(one.metric).__name__}", "circuits explain a LogitDiff"
                )

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return len(self.pairs[0].clean)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clean(self) -> list[Tokens]:
        """The clean prompts."""
        return [one.clean for one in self.pairs]

    @property
    def corrupted(self) -> list[Tokens]:
        """The corrupted prompts."""
        return [one.corrupted for one in self.pairs]

    @cached_property
    def answers(self) -> Tensor:
        """Token ids of the right and the wrong answer, (pairs, 2)."""
        metrics = [one.metric for one in self.pairs]
        return torch.tensor(
            [
                [token_id(self.model, one.answer), token_id(self.model, one.wrong_answer)]
                for one in metrics
                if isinstance(one, LogitDiff)
            ]
        )

    def positions(self) -> tuple[str, ...]:
        """What stands at each position of all clean prompts: the token, or how many there are."""
        found = []
        for position in range(self.length):
            texts = dict.fromkeys(one.clean.texts[position] for one in self.pairs)
            found.append(next(iter(texts)) if len(texts) == 1 else f"({len(texts)} tokens)")
        return tuple(found)

    def part(self, rows: Sequence[int]) -> "Examples":
        """Some of the pairs."""
        return Examples(
            self.model,
            [self.pairs[row] for row in rows],
            [self.groups[row] for row in rows],
            [self.cases[row] for row in rows],
            [self.kinds[row] for row in rows],
        )
