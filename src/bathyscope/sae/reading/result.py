"""What reading latents returns: columns over all latents, and each latent by itself. Knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from bathyscope import pages
from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.sae.reading.activity import Activity, edge
from bathyscope.sae.reading.directions import Neighbours, Promoted
from bathyscope.sae.reading.examples import Examples
from bathyscope.sae.reading.latent import (
    Description,
    Example,
    LabelSource,
    LatentReading,
    Neighbour,
    TokenWeight,
    is_label,
)
from bathyscope.sae.reading.rules import MeasuredRule
from bathyscope.sae.reading.text import ReadText

Order = Literal["informative", "density", "max", "f1", "number"]
"""What latents are sorted by."""

FEW: int = 10
"""A latent that is active less often is too little known to be called informative."""

SHOWN: int = 20
"""Latents that stand on a page without a script."""


@dataclass(frozen=True, eq=False)
class LatentReadings(Result):
    """What `read_latents` returns: by number, `readings[12]` is one latent's `LatentReading`.

    Args:
        site: what the coder encodes.
        n_latents: how many latents the coder has.
        latents: those that were read, ascending, (latents,); all columns are in this order.
        activity: how often and how strongly each is active.
        examples: of the highest rank.
        samples: some of each quarter of activations.
        text: what was read, and the words of tokens.
        promoted: tokens; None for a coder that does not write into the residual stream.
        neighbours: the nearest latents.
        rules: for each latent, or None.
        descriptions: of some latents, by number (`describe_latents`).
        provenance: model, coder, text, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "latent-readings"

    site: str
    n_latents: int
    latents: Tensor
    activity: Activity
    examples: Examples
    samples: Examples
    text: ReadText
    promoted: Promoted | None
    neighbours: Neighbours
    rules: tuple[MeasuredRule | None, ...]
    descriptions: Mapping[int, Description]
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, latent: int) -> LatentReading:
        """One latent.

        Raises:
            UsageError: it was not read.
        """
        row = self.row(latent)
        label, label_from = self.label(row)
        rule, counts = self.rules[row], self.activity.histogram[row].tolist()
        there = [number for number, count in enumerate(counts) if count]
        return LatentReading(
            latent=latent,
            label=label,
            label_from=label_from,
            active=sum(counts),
            density=sum(counts) / max(1, self.activity.n_rows),
            largest=float(self.activity.largest[row]),
            histogram=tuple((edge(one), counts[one]) for one in range(there[0], there[-1] + 1)) if there else (),
            examples=tuple(self._examples(self.examples, row)),
            samples=tuple(self._examples(self.samples, row)),
            promoted=self._weights(row, "up"),
            suppressed=self._weights(row, "down"),
            neighbours=tuple(
                Neighbour(int(one), float(cosine))
                for one, cosine in zip(self.neighbours.latents[row], self.neighbours.cosines[row], strict=True)
            ),
            own_cosine=float(self.neighbours.own[row]),
            rule=rule,
            rule_words=rule.rule.words(self.text.word) if rule else "",
            description=self.descriptions.get(latent),
        )

    def row(self, latent: int) -> int:
        """Where a latent stands in the columns.

        Raises:
            UsageError: it was not read.
        """
        if latent not in self._rows:
            known = f"0 to {self.n_latents - 1}" if len(self) == self.n_latents else f"{len(self)} of {self.n_latents}"
            raise UsageError(f"latent {latent} was asked for", f"those that were read are {known}", "latents=[...]")
        return self._rows[latent]

    def label(self, row: int) -> tuple[str, LabelSource]:
        """A latent's label, and what it is made from: its rule where that is right enough, else promoted tokens."""
        rule = self.rules[row]
        if rule is not None and is_label(rule):
            return rule.rule.words(self.text.word), "rule"
        if self.promoted is not None:
            tokens = ", ".join(f'"{self.text.word(token)}"' for token in self.promoted.up[row, :4].tolist())
            return f"promotes {tokens}", "promoted tokens"
        return f"latent {int(self.latents[row])}", "number"

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

    def of(self, latents: Iterable[int]) -> Self:
        """The same for some of the latents only.

        Raises:
            UsageError: one of them was not read.
        """
        chosen = sorted({self.row(latent) for latent in latents})
        rows = torch.tensor(chosen, dtype=torch.int64)
        activity = replace(
            self.activity,
            n_latents=len(rows),
            histogram=self.activity.histogram[rows],
            largest=self.activity.largest[rows],
        )
        kept = self.latents[rows]
        return replace(
            self,
            latents=kept,
            activity=activity,
            examples=self.examples[rows],
            samples=self.samples[rows],
            promoted=self.promoted and self.promoted[rows],
            neighbours=self.neighbours[rows],
            rules=tuple(self.rules[row] for row in chosen),
            descriptions={one: self.descriptions[one] for one in kept.tolist() if one in self.descriptions},
        )

    def with_descriptions(self, descriptions: Mapping[int, Description]) -> Self:
        """The same with what the model says of some latents."""
        return replace(self, descriptions={**self.descriptions, **descriptions})

    def rows(self) -> list[dict[str, Any]]:
        """One flat record a latent, with its first example."""
        return [self._record(int(latent)) for latent in self.latents]

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
        found = {"latents": self.latents, "ids": self.text.ids.int(), "starts": self.text.starts}
        found |= {"histogram": self.activity.histogram, "largest": self.activity.largest}
        for name, columns in (("examples", self.examples), ("samples", self.samples), ("neighbours", self.neighbours)):
            found |= _columns(name, columns)
        if self.promoted is not None:
            found |= _columns("promoted", self.promoted)
        return {name: tensor.contiguous() for name, tensor in found.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The result that was saved."""
        words = {int(token): word for token, word in data["words"].items()}
        folded = data["norm_folded"]
        return cls(
            site=data["site"],
            n_latents=data["n_latents"],
            latents=tensors["latents"],
            activity=Activity(
                len(tensors["latents"]), data["n_rows"], data["n_sinks"], tensors["histogram"], tensors["largest"]
            ),
            examples=Examples(**_named("examples", tensors), before=data["before"]),
            samples=Examples(**_named("samples", tensors), before=data["before"]),
            text=ReadText(tensors["ids"].long(), tensors["starts"], words),
            promoted=None if folded is None else Promoted(**_named("promoted", tensors), folded=folded),
            neighbours=Neighbours(**_named("neighbours", tensors)),
            rules=tuple(one and MeasuredRule.from_list(one) for one in data["rules"]),
            descriptions={int(latent): Description(**one) for latent, one in data["descriptions"].items()},
            provenance=data["provenance"],
            timing=data["timing"],
        )

    def facts(self) -> dict[str, str]:
        """What was read, by name, for people."""
        spec, activity = self.provenance["spec"], self.activity
        return {
            "coder": f"{self.n_latents:,} latents at {self.site}",
            "model": self.provenance["models"][0]["model"],
            "text": f"{spec['text'].get('name', 'text')}: {activity.n_rows:,} positions, "
            f"{activity.n_sinks:,} sinks and first tokens left out",
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
                    f1_told(one.rule),
                    " ".join(repr(token.token) for token in one.promoted[:5]),
                    one.examples[0].marked() if one.examples else "",
                ]
                for one in shown
            },
        )

    def to_html(self) -> str:
        """A whole page of every latent, to search and sort: one file, no network, its only script inside."""
        from bathyscope.sae.reading.dashboard import dashboard

        return dashboard(self)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {latent: row for row, latent in enumerate(self.latents.tolist())}

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

    def _examples(self, examples: Examples, row: int) -> Iterable[Example]:
        for rank, place in enumerate(examples.places[row].tolist()):
            if place < 0:
                continue
            size = examples.contexts.shape[2]
            first, stop = self.text.bounds(place, examples.before, size - examples.before - 1)
            begin = first - place + examples.before
            yield Example(
                tokens=self.text.texts(first, stop),
                activations=tuple(examples.contexts[row, rank, begin : begin + stop - first].tolist()),
                peak=place - first,
                activation=float(examples.values[row, rank]),
                score=float(examples.scores[row, rank]),
            )

    def _weights(self, row: int, side: Literal["up", "down"]) -> tuple[TokenWeight, ...]:
        if self.promoted is None:
            return ()
        tokens, by = getattr(self.promoted, side)[row], getattr(self.promoted, f"{side}_by")[row]
        pairs: Sequence[tuple[int, float]] = list(zip(tokens.tolist(), by.tolist(), strict=True))
        return tuple(TokenWeight(self.text.word(token), weight) for token, weight in pairs)

    def _record(self, latent: int) -> dict[str, Any]:
        one = self[latent]
        return {
            "latent": latent,
            "label": one.label,
            "label_from": one.label_from,
            "active": one.active,
            "density": one.density,
            "max": one.largest,
            "rule": one.rule_words or None,
            "precision": one.rule and one.rule.held_out.precision,
            "recall": one.rule and one.rule.held_out.recall,
            "f1": one.rule and one.rule.held_out.f1,
            "held_out_active": one.rule and one.rule.held_out.active,
            "control_f1": one.rule and one.rule.control and one.rule.control.f1,
            "promoted": [token.token for token in one.promoted],
            "suppressed": [token.token for token in one.suppressed],
            "neighbours": [neighbour.latent for neighbour in one.neighbours],
            "own_cosine": one.own_cosine,
            "example": one.examples[0].marked() if one.examples else None,
            "description": one.description and one.description.shown,
        }


def f1_told(rule: MeasuredRule | None) -> str:
    """A rule's held-out F1 beside its control's."""
    if rule is None:
        return "no rule"
    return f"{rule.held_out.f1:.2f} ({rule.control.f1 if rule.control else 0.0:.2f})"


def _tokens_told(promoted: Promoted) -> str:
    gain = "folded in" if promoted.folded else "left out"
    return f"the largest and smallest entries of W_dec W_U, the final norm's gain {gain}"


def _said(descriptions: Mapping[int, Description]) -> str:
    said = sum(one.says_something for one in descriptions.values())
    by_chance = sum(1 / (one.n_controls + 1) for one in descriptions.values())
    return f"{said} of {len(descriptions)} beat their controls; {by_chance:.1f} would by chance"


def _columns(name: str, columns: object) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in vars(columns).items() if isinstance(value, Tensor)}


def _named(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
