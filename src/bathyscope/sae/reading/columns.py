"""Columns over all latents that were read: what a result keeps, a page shows and a file holds. Knows no model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.sae.reading.activity import Activity
from bathyscope.sae.reading.directions import Neighbours, Promoted
from bathyscope.sae.reading.examples import Examples
from bathyscope.sae.reading.latent import Description, LabelSource, is_label
from bathyscope.sae.reading.rules import MeasuredRule
from bathyscope.sae.reading.text import ReadText


@dataclass(frozen=True, eq=False)
class Columns:
    """Everything that is known of some latents of a coder.

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
    """

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

    def __len__(self) -> int:
        return len(self.latents)

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

    def of(self, latents: Iterable[int]) -> Self:
        """The same of some of the latents only, and of the text the windows that their examples are in.

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
        kept, examples, samples = self.latents[rows], self.examples[rows], self.samples[rows]
        promoted, rules = self.promoted and self.promoted[rows], tuple(self.rules[row] for row in chosen)
        named = {token for one in rules if one for token in one.rule.tokens}
        named |= set(torch.cat([promoted.up, promoted.down]).flatten().tolist()) if promoted else set()
        both = torch.cat([examples.places, samples.places], 1)
        text, places = self.text.part(both, named)
        width = examples.places.shape[1]
        return replace(
            self,
            latents=kept,
            activity=activity,
            examples=replace(examples, places=places[:, :width]),
            samples=replace(samples, places=places[:, width:]),
            text=text,
            promoted=promoted,
            neighbours=self.neighbours[rows],
            rules=rules,
            descriptions={one: self.descriptions[one] for one in kept.tolist() if one in self.descriptions},
        )

    def with_descriptions(self, descriptions: Mapping[int, Description]) -> Self:
        """The same with what the model says of some latents."""
        return replace(self, descriptions={**self.descriptions, **descriptions})

    def column_tensors(self) -> dict[str, Tensor]:
        """Every column, by name."""
        found = {"latents": self.latents, "ids": self.text.ids.int(), "starts": self.text.starts}
        found |= {"histogram": self.activity.histogram, "largest": self.activity.largest}
        for name, columns in (("examples", self.examples), ("samples", self.samples), ("neighbours", self.neighbours)):
            found |= _named(name, columns)
        if self.promoted is not None:
            found |= _named("promoted", self.promoted)
        return {name: tensor.contiguous() for name, tensor in found.items()}

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {latent: row for row, latent in enumerate(self.latents.tolist())}


def columns_from(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of `Columns` that a stored result and its tensors describe."""
    folded, latents = data["norm_folded"], tensors["latents"]
    counted = data["n_rows"], data["n_sinks"], tensors["histogram"], tensors["largest"]
    words = {int(token): word for token, word in data["words"].items()}
    return {
        "site": data["site"],
        "n_latents": data["n_latents"],
        "latents": latents,
        "activity": Activity(len(latents), *counted),
        "examples": Examples(**_of("examples", tensors), before=data["before"]),
        "samples": Examples(**_of("samples", tensors), before=data["before"]),
        "text": ReadText(tensors["ids"].long(), tensors["starts"], words),
        "promoted": None if folded is None else Promoted(**_of("promoted", tensors), folded=folded),
        "neighbours": Neighbours(**_of("neighbours", tensors)),
        "rules": tuple(one and MeasuredRule.from_list(one) for one in data["rules"]),
        "descriptions": {int(latent): Description(**one) for latent, one in data["descriptions"].items()},
    }


def _named(name: str, columns: object) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in vars(columns).items() if isinstance(value, Tensor)}


def _of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
