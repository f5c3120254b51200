"""What steering returns: texts by direction and factor, and how far the next token's distribution moved."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, Self

from bathyscope import pages
from bathyscope.errors import UsageError
from bathyscope.results import Result

Which = Literal["none", "direction", "random"]


@dataclass(frozen=True)
class SteeredText:
    """What the model wrote under one write.

    Args:
        direction: "direction" for the one that was given, "random" for a control of the same length, "none" for no
            write at all.
        factor: what the direction was multiplied by.
        text: what the model wrote.
        kl: how far its next-token distribution after the prompt is from the one without a write, KL(without || with),
            nats.
        next_token: the likeliest next token after the prompt.
        probability: of it.
    """

    direction: Which
    factor: float
    text: str
    kl: float
    next_token: str
    probability: float


@dataclass(frozen=True, eq=False)
class SteeringResult(Result):
    """What `steer` returns.

    Args:
        prompt: what the model read.
        site: where the direction was added, at every token of the prompt and every one that was written.
        norm: the direction's length.
        texts: without a write, then by factor the direction and its random control.
        provenance: model, specification, token ids, versions.
        plan: how it was computed (`engine.Plan.to_dict`).
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "steering"

    prompt: str
    site: str
    norm: float
    texts: tuple[SteeredText, ...]
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    timing: Mapping[str, float]

    def at(self, factor: float, direction: Which = "direction") -> SteeredText:
        """The text of one factor; factor 0 is the text without a write.

        Raises:
            UsageError: that was not run.
        """
        for one in self.texts:
            if one.factor == factor and (one.direction == direction or not factor):
                return one
        known = ", ".join(f"{one.factor:g}" for one in self.texts)
        raise UsageError(f"factor {factor:g} was asked for", f"there are {known}")

    def rows(self) -> list[dict[str, Any]]:
        """One record a text."""
        return [asdict(one) for one in self.texts]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; `rows` are its texts."""
        return {
            "kind": self.kind,
            "prompt": self.prompt,
            "site": self.site,
            "norm": self.norm,
            "rows": self.rows(),
            "provenance": dict(self.provenance),
            "plan": dict(self.plan),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        texts = tuple(SteeredText(**row) for row in data["rows"])
        same = ("prompt", "site", "norm", "provenance", "plan", "timing")
        return cls(texts=texts, **{name: data[name] for name in same})

    def facts(self) -> dict[str, str]:
        """What was asked, by name, for people."""
        asked = self.provenance["spec"]
        return {
            "prompt": self.prompt,
            "model": self.provenance["models"][0]["model"],
            "added": f"at {self.site}, a direction of length {self.norm:.2f}, at every token",
            "random": f"a direction of the same length, seed {asked['seed']}",
            "kl": "of the next token's distribution without and with the write, nats",
        }

    def page(self) -> str:
        """A table of texts."""
        return pages.grid(
            heading="What is written while a direction is added",
            facts=self.facts(),
            corner="added",
            columns=["text", "next token", "kl"],
            rows={
                f"{name(one)}": [one.text, f"{one.next_token!r} {one.probability:.1%}", f"{one.kl:.3f}"]
                for one in self.texts
            },
        )


def name(one: SteeredText) -> str:
    """What was added, in words.

    Example:
        >>> from bathyscope.steering.result import SteeredText, name
        >>> name(SteeredText("random", -2.0, "", 0.0, "", 0.0))
        '-2 x random'
    """
    return "nothing" if one.direction == "none" else f"{one.factor:g} x {one.direction}"
