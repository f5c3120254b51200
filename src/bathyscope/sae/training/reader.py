"""From texts to activations: windows of tokens, read up to the last site that is needed, sinks left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.fitting.collecting import Side
from bathyscope.forward import capture
from bathyscope.mappings.affine import model_identity
from bathyscope.model import Model, Tokens
from bathyscope.sae.training.activations import check_rows
from bathyscope.sites import Site
from bathyscope.texts import Texts, windows

TOGETHER: Final = 2048
"""Tokens that the model reads together."""

PORTION: Final = 16_384
"""Tokens of a portion."""


@dataclass(frozen=True)
class WeightedTexts:
    """Texts, and how often they are gone through in an epoch.

    Args:
        texts: documents.
        weight: 1 for once; 0.5 takes a random half of their tokens, 2 all of them twice.
        length: tokens of their windows, where it is not the reader's: texts of single sentences have short ones.
    """

    texts: Texts
    weight: float = 1.0
    length: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1000:
            raise UsageError(f"a text with weight {self.weight} was given", "a number above 0", "weight 1")


@dataclass(frozen=True, eq=False)
class Reader:
    """Reads sites of a model on texts, window by window.

    Left out are the first token of each window, other attention sinks (`fitting.usable`, at the layer of any
    of the sites), and special tokens (`Side.ordinary`); evaluation and reading leave out the same.

    Args:
        model: the model.
        sites: what is read; the heads of one position make one row.
        texts: what the model reads.
        length: tokens of a window.

    Raises:
        UsageError: no site, or one that the model does not have.
    """

    model: Model
    sites: tuple[Site, ...]
    texts: tuple[WeightedTexts, ...]
    length: int = 128

    def __post_init__(self) -> None:
        if not self.sites or not self.texts:
            raise UsageError(
                f"{len(self.sites)} sites and {len(self.texts)} texts were given", "at least one of each is needed"
            )
        for site in self.sites:
            if site.component in ("pattern", "logits"):
                raise UsageError(f"a coder at {site} was asked for", "they take vectors inside the model apart")
            self.model.site(site)

    @cached_property
    def portions(self) -> tuple[tuple[int, tuple[Tensor, ...]], ...]:
        """The number of a text, and the token ids of some of its windows; for every portion of every text."""
        found, each = [], max(1, PORTION // self.length)
        for number, weighted in enumerate(self.texts):
            ids = [
                torch.tensor(window.ids, dtype=torch.int32)
                for window in windows(self.model, weighted.texts, length=weighted.length or self.length)
            ]
            found += [(number, tuple(ids[first : first + each])) for first in range(0, len(ids), each)]
        return tuple(found)

    @property
    def n_tokens(self) -> int:
        """All tokens of all windows, sinks among them."""
        return sum(sum(map(len, ids)) for _, ids in self.portions)

    def read(self, windows: Sequence[Tensor]) -> Iterator[dict[Site, Tensor]]:
        """Rows of some windows, a few windows at a time, (tokens, width) for each site.

        Raises:
            UsageError: an activation that is not finite.
        """
        side = Side(self.model, self.sites)
        each = max(1, TOGETHER // self.length)
        for first in range(0, len(windows), each):
            block = [Tokens("", tuple(ids.tolist()), ()) for ids in windows[first : first + each]]
            read = side.read(block)
            for site in self.sites:  # before any is left out: what is no number is no sink
                for one in read[site]:
                    check_rows(site, one.flatten(1))
            kept = [side.ordinary(read, row, window) for row, window in enumerate(block)]
            yield {
                site: torch.cat([one[keep].flatten(1) for one, keep in zip(read[site], kept, strict=True)]).cpu()
                for site in self.sites
            }

    @cached_property
    def widths(self) -> dict[Site, int]:
        """The width of what is at each site."""
        return {site: rows[0].flatten(1).shape[1] for site, rows in capture(self.model, "a", self.sites).items()}

    def spec(self) -> dict[str, Any]:
        """What is read depends on this."""
        return {
            "model": model_identity(self.model),
            "sites": [str(site) for site in self.sites],
            "texts": [
                {**one.texts.describe(), **({} if one.length is None else {"length": one.length})} for one in self.texts
            ],
            "length": self.length,
        }
