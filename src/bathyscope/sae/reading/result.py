"""What reading latents returns: columns over all latents, and each latent by itself. Knows no model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, Self

from torch import Tensor

from bathyscope import pages
from bathyscope.results import Result
from bathyscope.sae.reading.columns import Columns, columns_from
from bathyscope.sae.reading.dashboard import dashboard
from bathyscope.sae.reading.directions import Promoted
from bathyscope.sae.reading.latent import Description, LatentReading
from bathyscope.sae.reading.view import latent_reading, record

Order = Literal["informative", "density", "max", "f1", "number"]
"""What latents are sorted by."""

FEW: Final = 10
"""A latent that is active less often is too little known to be called informative."""

SHOWN: Final = 20
"""Latents that stand on a page without a script."""


@dataclass(frozen=True, eq=False)
class LatentReadings(Columns, Result):
    """What `read_latents` returns: `Columns` over all latents; by number, `readings[12]` is one `LatentReading`.

    Args:
        provenance: model, coder, text, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "latent-readings"

    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    def __getitem__(self, latent: int) -> LatentReading:
        """One latent.

        Raises:
            UsageError: it was not read.
        """
        return latent_reading(self, latent)

    def order(self, by: Order = "informative") -> list[int]:
        """The latents that were read, sorted; those of equal rank by number.

        Args:
            by: "informative" puts those first whose rule is furthest above its control on held-out documents, and
                last those that are hardly ever active; or "density", "max", "f1", "number".
        """
        active, largest = self.activity.active.tolist(), self.activity.largest.tolist()
        ranks = {
            "informative": lambda row: (active[row] >= FEW, rule.gain if (rule := self.rules[row]) else 0.0),
            "density": lambda row: active[row],
            "max": lambda row: largest[row],
            "f1": lambda row: rule.held_out.f1 if (rule := self.rules[row]) else 0.0,
            "number": lambda row: -row,
        }
        rows = sorted(range(len(self)), key=ranks[by], reverse=True)
        return [int(one) for one in self.latents[rows]]

    def search(self, words: str) -> list[int]:
        """The latents whose number, label, promoted tokens or examples' tokens hold some text, whatever its case."""
        wanted = words.casefold().strip()
        return [int(latent) for row, latent in enumerate(self.latents.tolist()) if wanted in self._searched[row]]

    def rows(self) -> list[dict[str, Any]]:
        """One flat record a latent, with its first example."""
        return [record(self, latent) for latent in self.latents.tolist()]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; `rows` are its latents."""
        return {
            "kind": self.kind,
            "site": self.site,
            "n_latents": self.n_latents,
            "n_rows": self.activity.n_rows,
            "n_sinks": self.activity.n_sinks,
            "before": self.examples.before,
            "norm_folded": self.promoted.folded if self.promoted else None,
            "rules": [one and one.to_list() for one in self.rules],
            "words": {str(token): word for token, word in self.text.words.items()},
            "descriptions": {str(latent): asdict(one) for latent, one in self.descriptions.items()},
            "rows": self.rows(),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Every column, by name."""
        return self.column_tensors()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The result that was saved."""
        return cls(**columns_from(data, tensors), provenance=data["provenance"], timing=data["timing"])

    def facts(self) -> dict[str, str]:
        """What was read, by name, for people."""
        spec, activity = self.provenance["spec"], self.activity
        return {
            "coder": f"{self.n_latents:,} latents at {self.site}",
            "model": self.provenance["models"][0]["model"],
            "text": f"{spec['text'].get('name', 'text')}: {activity.n_rows:,} positions, "
            f"{activity.n_sinks:,} sinks, first and special tokens left out",
            "never active": f"{int((activity.active == 0).sum()):,} of {len(self):,} latents",
            "examples": "ranked by activation over the length of the centred input, one a window",
            **({"tokens": _tokens_told(self.promoted)} if self.promoted else {}),
            "rules": "chosen on every other document; precision, recall and F1 are of the others",
            **({"descriptions": _said(self.descriptions)} if self.descriptions else {}),
        }

    def page(self) -> str:
        """A table of the most informative latents, without a script; `to_html` shows all."""
        shown = [self[latent] for latent in self.order()[:SHOWN]]
        return pages.grid(
            heading="What latents stand for",
            facts=self.facts(),
            corner="latent",
            columns=["label", "density", "max", "held-out F1 (control)", "promotes", "example"],
            rows={
                str(one.latent): [
                    one.label,
                    f"{one.density:.3%}",
                    f"{one.largest:.3g}",
                    one.rule.f1_told() if one.rule else "no rule",
                    " ".join(repr(token.token) for token in one.promoted[:5]),
                    one.examples[0].marked() if one.examples else "",
                ]
                for one in shown
            },
        )

    def to_html(self) -> str:
        """A whole page of every latent, to search and sort: one file, no network, its only script inside."""
        return dashboard(self, self.facts())

    @cached_property
    def _searched(self) -> list[str]:
        """All that a latent is found by, in folded case."""
        places, found = self.examples.places.tolist(), []
        for row, latent in enumerate(self.latents.tolist()):
            rule, tokens = self.rules[row], [int(self.text.ids[place]) for place in places[row] if place >= 0]
            tokens += self.promoted.up[row].tolist() if self.promoted else []
            words = [str(latent), rule.rule.words(self.text.word) if rule else "", *map(self.text.word, tokens)]
            found.append("\n".join(words).casefold())
        return found


def _tokens_told(promoted: Promoted) -> str:
    gain = "folded in" if promoted.folded else "left out"
    return f"the largest and smallest entries of W_dec W_U, the final norm's gain {gain}"


def _said(descriptions: Mapping[int, Description]) -> str:
    said = sum(one.says_something for one in descriptions.values())
    by_chance = sum(1 / (one.n_controls + 1) for one in descriptions.values())
    return f"{said} of {len(descriptions)} beat their controls; {by_chance:.1f} would by chance"
