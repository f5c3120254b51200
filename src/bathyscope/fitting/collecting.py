"""From texts to moments: each model reads each window once, however many sites are asked for.

Knows models, sites and sinks; what is made of the moments is in `methods` and `regression`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Final

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.moments import Moments
from bathyscope.fitting.sinks import usable
from bathyscope.forward import Activations, capture
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site, residual_site
from bathyscope.texts import AlignedWindow, Texts, aligned_windows, windows

BLOCK: Final = 2048
"""Tokens that are read together, and taken into the moments together."""

SPREAD: Final = 16
"""How many times the text that is needed is looked through: only every so many-th window of it is read."""

Pair = tuple[Site, Site]
"""A source site and a target site."""


@dataclass(frozen=True)
class Side:
    """One of the two models, and what is read in it.

    Args:
        model: the model.
        sites: where it is read.
    """

    model: Model
    sites: tuple[Site, ...]

    def widths(self) -> dict[Site, int]:
        """How wide the vectors at each site are, measured on one token.

        Raises:
            UsageError: there is not one vector, of one width in any text, at each position.
        """
        for site in self.sites:
            if site.component in ("pattern", "logits"):
                raise UsageError(f"a fit at {site} was asked for", "a fit is between vectors inside the model")
        found = {site: rows[0].shape[1:] for site, rows in capture(self.model, "a", self.sites).items()}
        for site, shape in found.items():
            if len(shape) != 1:
                raise UsageError(
                    f"a fit at {site} was asked for", "only one head has one vector a position", f"{site}.0"
                )
        return {site: shape[0] for site, shape in found.items()}

    def read(self, tokens: Sequence[Tokens]) -> Activations:
        """What is at the sites, and in the residual streams that tell where sinks are."""
        return capture(self.model, tokens, [*{*self.sites, *self.streams()}], batch_size=len(tokens))

    def usable(self, read: Activations, window: int) -> Tensor:
        """Which positions of a window are no sinks in any of those streams, (positions,)."""
        return torch.stack([usable(read[stream][window]).cpu() for stream in self.streams()]).all(0)

    def ordinary(self, read: Activations, window: int, tokens: Tokens) -> Tensor:
        """Which positions of a window are neither sinks nor special tokens, (positions,).

        What sparse coders are trained on is this, and so what they are measured on and read on.
        """
        return self.usable(read, window) & ~torch.isin(torch.tensor(tokens.ids), self._special)

    @cached_property
    def _special(self) -> Tensor:
        return torch.tensor(sorted(self.model.tokenizer.all_special_ids), dtype=torch.long)

    def streams(self) -> set[Site]:
        """The residual stream at the layer of each site, which tells where sinks are."""
        last = self.model.n_layers - 1
        return {residual_site(last if site.layer is None else site.layer) for site in self.sites}


@dataclass
class Collected:
    """Moments of many pairs of sites; what belongs to a source site alone is there once.

    Each source site takes 8 x its width x (its width + those of all its target sites) bytes: at width 576
    2.6 MB a pair.

    Args:
        moments: for each source site those of its target sites, side by side.
        columns: where each pair stands in them.
        left_out: pairs of positions that were sinks.
    """

    moments: dict[Site, Moments] = field(default_factory=dict)
    columns: dict[Pair, tuple[int, int]] = field(default_factory=dict)
    left_out: int = 0

    @classmethod
    def empty(cls, pairs: Sequence[Pair], sources: Mapping[Site, int], targets: Mapping[Site, int]) -> "Collected":
        """Of no positions, for pairs of sites of these widths."""
        found, filled = cls(), dict.fromkeys((source for source, _ in pairs), 0)
        for source, target in pairs:
            first = filled[source]
            filled[source] = first + targets[target]
            found.columns[source, target] = first, filled[source]
        found.moments = {source: Moments.empty(sources[source], width) for source, width in filled.items()}
        return found

    @property
    def n(self) -> int:
        """Pairs of positions that went in."""
        return next(iter(self.moments.values())).n

    def of(self, pair: Pair) -> Moments:
        """The moments of one pair of sites."""
        return self.moments[pair[0]].columns(*self.columns[pair])

    def add(self, x: Mapping[Site, Tensor], y: Mapping[Site, Tensor]) -> None:
        """Take in what was read at every site, (pairs of positions, width)."""
        y = {site: rows.to("cpu", torch.float64) for site, rows in y.items()}
        for source, moments in self.moments.items():
            targets = [y[target] for one, target in self.columns if one == source]
            moments.add(x[source], torch.cat(targets, 1))


@dataclass(frozen=True)
class Reader:
    """Reads texts for some pairs of sites.

    Args:
        source: the model of the source sites.
        target: the model of the target sites.
        pairs: source and target sites.
        length: tokens of a window.
        stop: looked at between blocks of windows.
        ahead: how many tokens later the target is read, where it is one model.
    """

    source: Model
    target: Model
    pairs: Sequence[Pair]
    length: int
    stop: Stop
    ahead: int = 0

    @cached_property
    def sides(self) -> tuple[Side, Side]:
        """The models with their sites; one and the same where it is one model."""
        ours, theirs = (tuple(dict.fromkeys(sites)) for sites in zip(*self.pairs, strict=True))
        if self.source is self.target:
            both = Side(self.source, tuple(dict.fromkeys(ours + theirs)))
            return both, both
        return Side(self.source, ours), Side(self.target, theirs)

    @cached_property
    def widths(self) -> tuple[dict[Site, int], dict[Site, int]]:
        """How wide what is read at the sites of either side is.

        Raises:
            UsageError: a site has not one vector a position.
        """
        source, target = self.sides
        widths = source.widths()
        return widths, widths if target is source else target.widths()

    def collect(self, texts: Texts, n_positions: int, progress: Callable[[int], None]) -> Collected:
        """Moments of positions of some texts, sinks left out.

        Which positions these are depends on the texts and on `n_positions` alone. They are spread over
        `SPREAD` times as much text, since few documents would be too much alike.

        Args:
            texts: what is read.
            n_positions: at most so many.
            progress: called with how many there are.

        Raises:
            CancelledError: `stop` said so.
            UsageError: a site is not one vector a position, or an activation is not finite.
        """
        source, target = self.sides
        found = Collected.empty(self.pairs, *self.widths)
        for block in self._blocks(texts, n_positions):
            self.check_stop()
            x = source.read([window.source for window in block])
            y = x if target is source else target.read([window.target for window in block])
            places = [_places(window, source.usable(x, row), target.usable(y, row)) for row, window in enumerate(block)]
            found.left_out += sum(len(window.pairs) for window in block) - sum(map(len, places))
            room = n_positions - found.n
            found.add(_rows(x, places, 0, room), _rows(y, places, 1, room))
            progress(found.n)
            if found.n == n_positions:
                break
        return found

    def check_stop(self) -> None:
        """Leave if somebody asked to.

        Raises:
            CancelledError: `stop` said so.
        """
        if self.stop.now or self.stop.soon:
            raise CancelledError("the fit was stopped", "nothing of it is kept")

    def _blocks(self, texts: Texts, n_positions: int) -> Iterator[list[AlignedWindow]]:
        found, wanted = self._windows(texts), math.ceil(n_positions / self.length)
        ahead = list(islice(found, SPREAD * wanted))
        stride = math.ceil(len(ahead) / wanted)
        order = chain(*(ahead[first::stride] for first in range(stride)), found)
        while block := list(islice(order, max(1, BLOCK // self.length))):
            yield block

    def _windows(self, texts: Texts) -> Iterator[AlignedWindow]:
        if self.source is not self.target:
            yield from aligned_windows(self.source, self.target, texts, length=self.length)
            return
        for window in windows(self.source, texts, length=self.length):
            places = range(len(window) - self.ahead)
            yield AlignedWindow(window, window, tuple((place, place + self.ahead) for place in places))


def _places(window: AlignedWindow, ours: Tensor, theirs: Tensor) -> Tensor:
    """The pairs of positions that are usable on both sides, (pairs, 2)."""
    places = torch.tensor(window.pairs, dtype=torch.long).reshape(-1, 2)
    return places[ours[places[:, 0]] & theirs[places[:, 1]]]


def _rows(read: Activations, places: Sequence[Tensor], side: int, room: int) -> dict[Site, Tensor]:
    """What was read at those positions of all windows, one after another, (at most `room`, width)."""
    return {
        site: torch.cat([rows[kept[:, side]] for rows, kept in zip(found, places, strict=True)])[:room]
        for site, found in read.items()
    }
