"""Rules: in plain words, when a latent is active; what such a rule is, and how right it is.

Knows no model, no coder and no text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

WHERE: Final = {0: "is", -1: "follows", -2: "comes two after"}
"""What a rule says of a token, by where the token that it looks at stands."""


@dataclass(frozen=True)
class Rule:
    """When a latent is active: where the token at an offset is in a set, or has a shape.

    Args:
        offset: of the token that is looked at: 0 for the one that the latent is active at, -1 and -2 for those before.
        tokens: the set, as token ids; empty for a shape.
        shape: one of `shapes.SHAPES`, or empty.

    Example:
        >>> from bathyscope.sae.reading import Rule
        >>> Rule(-1, tokens=(7, 9)).words({7: " cat", 9: " dog"}.get)
        'follows one of " cat", " dog"'
    """

    offset: int
    tokens: tuple[int, ...] = ()
    shape: str = ""

    def words(self, text: Callable[[int], str | None]) -> str:
        """The rule in words.

        Args:
            text: a token's text by its id.
        """
        if self.shape:
            return f"{WHERE[self.offset]} {self.shape}"
        shown = ", ".join(f'"{text(token)}"' for token in self.tokens)
        return f"{WHERE[self.offset]} {'one of ' if len(self.tokens) > 1 else ''}{shown}"


@dataclass(frozen=True)
class Agreement:
    """How a rule and a latent agree over some positions.

    Args:
        hits: positions where the rule holds and the latent is active.
        fires: where the rule holds.
        active: where the latent is active.

    Example:
        >>> from bathyscope.sae.reading import Agreement
        >>> found = Agreement(hits=6, fires=8, active=12)
        >>> found.precision, found.recall, round(found.f1, 3)
        (0.75, 0.5, 0.6)
    """

    hits: int
    fires: int
    active: int

    @property
    def precision(self) -> float:
        """Share of the positions where the rule holds at which the latent is active; 0 where it never holds."""
        return self.hits / self.fires if self.fires else 0.0

    @property
    def recall(self) -> float:
        """Share of the positions where the latent is active at which the rule holds; 0 where it is never active."""
        return self.hits / self.active if self.active else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return 2 * self.hits / (self.fires + self.active) if self.fires + self.active else 0.0


@dataclass(frozen=True)
class MeasuredRule:
    """A rule with how right it is.

    Args:
        rule: chosen on the documents to fit on.
        fitted: how it agrees there.
        held_out: how it agrees on other documents.
        control: the same of the rule that is found when positions have exchanged their codes, in both halves of the
            documents: what there is to get where nothing is to be found; None where no rule is.
    """

    rule: Rule
    fitted: Agreement
    held_out: Agreement
    control: Agreement | None

    @property
    def gain(self) -> float:
        """By how much its held-out F1 is above that of the control."""
        return self.held_out.f1 - self.control_f1

    @property
    def control_f1(self) -> float:
        """The F1 of its control; 0 where there is none."""
        return self.control.f1 if self.control else 0.0

    def f1_told(self) -> str:
        """Its held-out F1 with that of its control behind it."""
        return f"{self.held_out.f1:.2f} ({self.control_f1:.2f})"

    def to_list(self) -> list[Any]:
        """As JSON values, without names: there may be many thousands."""
        agreements = [one and [one.hits, one.fires, one.active] for one in (self.fitted, self.held_out, self.control)]
        return [self.rule.offset, list(self.rule.tokens), self.rule.shape, *agreements]

    @classmethod
    def from_list(cls, data: list[Any]) -> Self:
        """What `to_list` made."""
        offset, tokens, shape, fitted, held_out, control = data
        return cls(
            Rule(offset, tuple(tokens), shape),
            Agreement(*fitted),
            Agreement(*held_out),
            control and Agreement(*control),
        )
