"""The cells of the cross-model study: every representation mapped, and the controls that it is to be held against.

In place of what the mapping gives, a random vector of the same length is written, and the mean of all that
the mapping gives; and nothing. The first two are known only once the source was read.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Final, Literal

import torch
from torch import Tensor

from bathyscope import prompts
from bathyscope.engine import Cell, Given, Read, Stop
from bathyscope.fitting import fit_affine
from bathyscope.forward import capture
from bathyscope.generation import Progress
from bathyscope.mappings import Identity, Mapping
from bathyscope.model import Model, Tokens
from bathyscope.prompts import Inspection
from bathyscope.readouts import Generate
from bathyscope.sites import residual_site
from bathyscope.studies.cross_model_study.asked import FIT_POSITIONS, LENGTH, NEW_TOKENS, Crossing, Pair
from bathyscope.studies.next_token_study.ways import READOUT

SAME_TEXT: Final = "same-text"
TOKEN_IDENTITY: Final = "token-identity"
COMPARED: Final = (SAME_TEXT, TOKEN_IDENTITY)
"""What is written into where next tokens are compared: the text that was read, up to that position; or a prompt."""

Written = Literal["mapped", "random", "mean", "nothing"]
UNCHANGED: Final = Identity()
"""One for all controls: the engine maps together what has the same mapping."""


@dataclass(frozen=True)
class Label:
    """What a cell measures, but for the place or the name.

    Args:
        prompt: what is written into, where next tokens are compared; None where a name is described.
        written: what is written.
        source_layer: that was read; None where the cell does not depend on it.
        target_layer: that is written at; None where nothing is.
    """

    prompt: str | None
    written: Written
    source_layer: int | None = None
    target_layer: int | None = None


@dataclass(frozen=True)
class Crossed:
    """A call with everything that its cells depend on.

    Args:
        asked: the call.
        mapping: what happens between the models.
    """

    asked: Crossing
    mapping: Mapping

    @classmethod
    def of(cls, asked: Crossing, progress: Progress | None = None, stop: Stop | None = None) -> "Crossed":
        """A call with the mapping that was given, or with one that is fitted: ridge for each pair of layers."""
        if asked.mapping is not None:
            return cls(asked, asked.mapping)
        assert asked.to_fit is not None
        fitted = fit_affine(
            asked.source,
            asked.target,
            asked.to_fit,
            pairs=[(residual_site(layer), residual_site(other)) for layer, other in asked.pairs],
            n_positions=asked.choices.get("fit_positions", FIT_POSITIONS),
            length=asked.choices.get("length", LENGTH),
            progress=progress,
            stop=stop,
        )
        return cls(asked, fitted)

    @cached_property
    def compared(self) -> tuple[Label, ...]:
        """What is measured at every place."""
        found = []
        for prompt in COMPARED:
            found.append(Label(prompt, "nothing"))
            for written in ("mapped", "random", "mean"):
                found += [Label(prompt, written, *pair) for pair in self.asked.pairs]
        return tuple(found)

    @cached_property
    def described(self) -> tuple[Label, ...]:
        """What is written of every name."""
        targets = dict.fromkeys(other for _, other in self.asked.pairs)
        mapped = (Label(None, "mapped", *pair) for pair in self.asked.pairs)
        return (*mapped, *(Label(None, "random", None, other) for other in targets))

    def cell(self, label: Label, number: int) -> Cell:
        """The measurement of one place.

        Args:
            label: one of `compared`.
            number: of the place.
        """
        place = self.asked.places[number]
        into = _end_of(place.target) if label.prompt == SAME_TEXT else self._identity
        against = place.read(residual_site(self.asked.source.n_layers - 1))
        if label.source_layer is None or label.target_layer is None:
            return Cell(into.tokens, READOUT, against=against)
        site, pair = residual_site(label.target_layer), (label.source_layer, label.target_layer)
        if label.written == "mapped":
            read = place.read(residual_site(label.source_layer))
            return Cell(into.tokens, READOUT, read, site, into.positions, self.mapping, against=against)
        value = self.means[pair] if label.written == "mean" else Given(self.random[pair][number], site)
        return Cell(into.tokens, READOUT, value, site, into.positions, UNCHANGED, against=against)

    def words(self, name: str | None) -> list[Cell]:
        """The descriptions of a name, in the order of `described`; of None, the one of nothing."""
        asked, into = self.asked, prompts.prepare(self.asked.target, prompts.entity_description())
        readout = Generate(asked.choices.get("new_tokens", NEW_TOKENS))
        asked.target.check_length(len(into.tokens) + readout.new_tokens - 1)
        if name is None:
            return [Cell(into.tokens, readout)]
        reads, random, found = self._reads_of(name), self._random_for(name), []
        for label in self.described:
            assert label.target_layer is not None
            site = residual_site(label.target_layer)
            if label.source_layer is None:
                found.append(Cell(into.tokens, readout, random[label.target_layer], site, into.positions, UNCHANGED))
            else:
                read = reads[label.source_layer]
                found.append(Cell(into.tokens, readout, read, site, into.positions, self.mapping))
        return found

    @cached_property
    def means(self) -> dict[Pair, Given]:
        """For each pair of layers the mean of what the mapping gives at all places."""
        return {pair: Given(mapped.mean(0), residual_site(pair[1])) for pair, mapped in self._mapped.items()}

    @cached_property
    def random(self) -> dict[Pair, Tensor]:
        """For each pair of layers a random vector a place, as long as what the mapping gives there."""
        generator = torch.Generator().manual_seed(self.asked.seed)
        return {pair: random_like(mapped, generator) for pair, mapped in self._mapped.items()}

    @cached_property
    def _mapped(self) -> dict[Pair, Tensor]:
        """For each pair of layers what the mapping gives at all places, (places, target width)."""
        places = self.asked.places
        sites = {layer: residual_site(layer) for layer, _ in self.asked.pairs}
        held = representations(self.asked.source, (place.read(site) for place in places for site in sites.values()))
        rows = {layer: torch.stack([held[place.read(site)] for place in places]) for layer, site in sites.items()}
        return {
            (layer, other): self.mapping.apply(rows[layer], sites[layer], residual_site(other))
            for layer, other in self.asked.pairs
        }

    @cached_property
    def _identity(self) -> Inspection:
        return prompts.prepare(self.asked.target, prompts.token_identity())

    def _reads_of(self, name: str) -> dict[int, Read]:
        """The last token of a name after each source layer."""
        tokens = self.asked.source.tokenize(name)
        return {layer: Read(tokens, residual_site(layer), len(tokens) - 1) for layer, _ in self.asked.pairs}

    def _random_for(self, name: str) -> dict[int, Given]:
        """For each target layer a random vector, as long as what is written there of a name is on average."""
        reads, mapped = self._reads_of(name), {}
        held = representations(self.asked.source, reads.values())
        for layer, other in self.asked.pairs:
            rows = self.mapping.apply(held[reads[layer]][None], reads[layer].site, residual_site(other))
            mapped.setdefault(other, []).append(rows)
        generator, found = torch.Generator().manual_seed(self.asked.seed), {}
        for other, several in mapped.items():
            rows = torch.cat(several)
            vector = random_like(rows[:1], generator)[0]
            found[other] = Given(vector * (rows.norm(dim=-1).mean() / vector.norm()), residual_site(other))
        return found


def random_like(rows: Tensor, generator: torch.Generator) -> Tensor:
    """A random direction for each row, at the row's length, (rows, width).

    Example:
        >>> import torch
        >>> from bathyscope.studies.cross_model_study.cells import random_like
        >>> round(random_like(torch.tensor([[3.0, 4.0]]), torch.Generator().manual_seed(0)).norm().item(), 4)
        5.0
    """
    drawn = torch.randn(rows.shape, generator=generator).to(rows)
    return drawn * (rows.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True))


def representations(model: Model, reads: Iterable[Read]) -> dict[Read, Tensor]:
    """What a model holds at some places, (d_model,) each; each prompt is run once."""
    found = {}
    for _, group in groupby(sorted(reads, key=_ids), key=_ids):
        of_prompt = list(group)
        activations = capture(model, of_prompt[0].prompt, list({read.site for read in of_prompt}))
        found |= {read: activations[read.site][0][read.position].clone() for read in of_prompt}
    return found


def _ids(read: Read) -> tuple[int, ...]:
    return read.prompt.ids


def _end_of(tokens: Tokens) -> Inspection:
    """A text whose last token is written over."""
    return Inspection(tokens, (len(tokens) - 1,), tokens.text)
