"""One latent as a person reads it: label, examples, tokens, neighbours, rule, description. Knows no tensors."""

from dataclasses import dataclass
from typing import Final, Literal

from bathyscope.sae.reading.rules import MeasuredRule

LABEL_F1: Final = 0.4
"""A rule is a latent's label if its F1 on held-out documents is at least this,"""
LABEL_GAIN: Final = 0.2
"""and at least so much above that of its control."""

SAYS_NOTHING: Final = "says nothing"

LabelSource = Literal["rule", "promoted tokens", "number"]


@dataclass(frozen=True)
class Example:
    """A place where a latent is active, with what stands around it.

    Args:
        tokens: as text.
        activations: how active the latent is at each.
        peak: which of them is the place itself.
        activation: how active it is there.
        score: what examples are ranked by: that, over the length of the centred input.
    """

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int
    activation: float
    score: float

    def marked(self, before: int = 8, after: int = 4) -> str:
        """The text around the peak, with the peak between « and »."""
        first, stop = max(0, self.peak - before), self.peak + after + 1
        parts = [*self.tokens[first : self.peak], f"«{self.tokens[self.peak]}»", *self.tokens[self.peak + 1 : stop]]
        return "".join(parts)


@dataclass(frozen=True)
class TokenWeight:
    """A token and by how much a decoder row moves its logit."""

    token: str
    weight: float


@dataclass(frozen=True)
class Neighbour:
    """Another latent and the cosine of their decoder rows."""

    latent: int
    cosine: float


@dataclass(frozen=True)
class Description:
    """What the model itself says of a latent's direction, and whether that is more than it says of any other.

    Args:
        text: what it wrote.
        layer: where the direction was written.
        scale: how long it was, in lengths of what it replaced.
        score: the latent's largest activation while the model reads the text, over its largest in all text that was
            read.
        control: the same of the best description of any control direction, chosen as this one was.
        n_controls: directions that it was compared with.
    """

    text: str
    layer: int
    scale: float
    score: float
    control: float
    n_controls: int

    @property
    def says_something(self) -> bool:
        """Whether it beats every control. By chance one of `n_controls` + 1 does."""
        return self.score > self.control

    @property
    def shown(self) -> str:
        """The text, or that it says nothing."""
        return self.text.strip() if self.says_something else SAYS_NOTHING


@dataclass(frozen=True)
class LatentReading:
    """Everything that is known of one latent.

    Args:
        latent: its number.
        label: in a few words.
        label_from: what the label is made from; never a description.
        active: at how many positions it is active.
        density: share of all positions.
        largest: its largest activation.
        histogram: where bins begin, and how many positions are in each; empty ones at either end left out.
        examples: of the highest rank.
        samples: some of each quarter of its activations, the highest first.
        promoted, suppressed: tokens; empty for a coder that does not write into the residual stream.
        neighbours: the nearest latents.
        own_cosine: of its encoder and decoder row.
        rule: when it is active, in words, with how right that is; None where there is none.
        rule_words: the rule in words.
        description: what the model says of it, where it was asked.
    """

    latent: int
    label: str
    label_from: LabelSource
    active: int
    density: float
    largest: float
    histogram: tuple[tuple[float, int], ...]
    examples: tuple[Example, ...]
    samples: tuple[Example, ...]
    promoted: tuple[TokenWeight, ...]
    suppressed: tuple[TokenWeight, ...]
    neighbours: tuple[Neighbour, ...]
    own_cosine: float
    rule: MeasuredRule | None
    rule_words: str
    description: Description | None


def is_label(rule: MeasuredRule | None) -> bool:
    """Whether a rule is right enough to be a latent's label."""
    return rule is not None and rule.held_out.f1 >= LABEL_F1 and rule.gain >= LABEL_GAIN
