"""From texts to the active latents of every position: each window is read once, up to the coder's site.

Knows models, texts and coders; what is gathered of the latents is in the files beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.collecting import Side
from bathyscope.model import Model, Tokens
from bathyscope.sae.coder import SparseCoder
from bathyscope.sites import Site
from bathyscope.texts import Texts, windows

BLOCK: Final = 2048
"""Tokens that are read and encoded together."""

Half = Literal["fit", "held out"]
"""Documents that rules are chosen on, and those that they are measured on."""


@dataclass(frozen=True)
class Entries:
    """Active latents, one entry for each position and latent, positions ascending.

    Args:
        latents: which, (entries,), counted among the latents that are read.
        places: where, (entries,): a position in the text of all windows, one after another.
        values: how active, (entries,).
        scores: what examples are ranked by, (entries,).
    """

    latents: Tensor
    places: Tensor
    values: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, kept: Tensor) -> "Entries":
        return Entries(self.latents[kept], self.places[kept], self.values[kept], self.scores[kept])


@dataclass(frozen=True)
class Block:
    """Some windows, read and encoded.

    Args:
        half: the documents that they are of.
        first: the place of their first token.
        ids: all their tokens, (places,).
        starts: where each window begins, and where the last one ends, (windows + 1,).
        rows: the places that are neither sinks nor special tokens, (rows,).
        entries: their active latents.
    """

    half: Half
    first: int
    ids: Tensor
    starts: Tensor
    rows: Tensor
    entries: Entries

    def windows(self, places: Tensor) -> Tensor:
        """Which window of the block each place is in."""
        return torch.searchsorted(self.starts, places, right=True) - 1

    def tokens(self, places: Tensor, offset: int = 0) -> Tensor:
        """The token so many places on, -1 where that is outside the window."""
        window, there = self.windows(places), places + offset
        inside = (there >= self.starts[window]) & (there < self.starts[window + 1])
        return torch.where(inside, self.ids[(there - self.first).clamp(0, len(self.ids) - 1)], -1)


@dataclass(frozen=True)
class Pass:
    """One pass over text.

    Args:
        model: what reads it.
        coder: what encodes it.
        site: where the coder reads.
        latents: which latents are looked at, (latents,), ascending.
        texts: the documents; every other one is held out.
        n_tokens: at most so many tokens are read, half of them of either half of the documents.
        length: tokens of a window.
        stop: looked at between blocks.
    """

    model: Model
    coder: SparseCoder
    site: Site
    latents: Tensor
    texts: Texts
    n_tokens: int
    length: int
    stop: Stop

    def blocks(self, progress: Callable[[int], None]) -> Iterator[Block]:
        """The blocks, those to fit on first.

        Raises:
            CancelledError: `stop` said so.
            UsageError: the text has no window in one of its halves, or an activation is not finite.
        """
        side, done = Side(self.model, (self.site,)), 0
        halves: tuple[Half, Half] = ("fit", "held out")
        for number, half in enumerate(halves):
            # What one half leaves unread, the other may not have: each stands for itself.
            room = (self.n_tokens + (number == 0)) // 2
            for batch in self._batches(_EveryOther(self.texts, number), room):
                if self.stop.now or self.stop.soon:
                    raise CancelledError("reading was stopped", "nothing of it is kept")
                yield self._read(side, half, batch, done)
                done += sum(map(len, batch))
                progress(done)

    def _batches(self, texts: Texts, room: int) -> Iterator[list[Tokens]]:
        found = iter(_at_most(windows(self.model, texts, length=self.length), room))
        while batch := list(islice(found, max(1, BLOCK // self.length))):
            yield batch

    def _read(self, side: Side, half: Half, batch: Sequence[Tokens], first: int) -> Block:
        read = side.read(batch)
        kept = torch.cat([side.ordinary(read, row, window) for row, window in enumerate(batch)])
        x = torch.cat([rows.detach().cpu() for rows in read[self.site]])[kept]
        starts = torch.tensor([0, *map(len, batch)]).cumsum(0) + first
        rows = kept.nonzero().squeeze(1) + first
        ids = torch.tensor([one for window in batch for one in window.ids])
        return Block(half, first, ids, starts, rows, self._entries(x, rows))

    def _entries(self, x: Tensor, rows: Tensor) -> Entries:
        code = self.coder.encode(x)
        row, column = (code.values > 0).nonzero(as_tuple=True)
        latents, values = code.indices[row, column], code.values[row, column].float()
        slots = torch.searchsorted(self.latents, latents).clamp_max(len(self.latents) - 1)
        wanted = self.latents[slots] == latents
        norms = self._norms(x.to(code.values)).float()
        return Entries(slots[wanted], rows[row[wanted]], values[wanted], values[wanted] / norms[row[wanted]])

    def _norms(self, x: Tensor) -> Tensor:
        """How long each input is once its centre is taken out: what an activation is measured by."""
        if self.coder.normed:  # inputs are of one length there already
            return torch.ones(len(x))
        centre = self.coder.centre
        if centre is None and not self.coder.is_transcoder:
            centre = self.coder.decoder_bias
        centred = x if centre is None else x - centre.to(x)
        return centred.norm(dim=-1).clamp_min(1e-12)


@dataclass(frozen=True)
class _EveryOther(Texts):
    """Every other document, the first or the second of each two."""

    texts: Texts
    first: int

    @override
    def documents(self) -> Iterator[str]:
        return islice(self.texts.documents(), self.first, None, 2)

    @override
    def describe(self) -> dict[str, object]:
        return {**self.texts.describe(), "every_other": self.first}


def _at_most(found: Iterator[Tokens], room: int) -> Iterator[Tokens]:
    """Windows, as long as there is room for the next."""
    read = 0
    for window in found:
        read += len(window)
        if read > room:
            return
        yield window


def which(latents: Sequence[int] | None, coder: SparseCoder) -> Tensor:
    """The latents that are looked at, ascending, (latents,); all unless said.

    Raises:
        UsageError: there is none, or one that the coder does not have.
    """
    if latents is None:
        return torch.arange(coder.n_latents)
    chosen = sorted(set(latents))
    if not chosen or chosen[0] < 0 or chosen[-1] >= coder.n_latents:
        given = ", ".join(map(str, chosen[:5])) or "no latent"
        raise UsageError(f"latents {given} were asked for", f"the coder has 0 to {coder.n_latents - 1}", "latents=[0]")
    return torch.tensor(chosen)
