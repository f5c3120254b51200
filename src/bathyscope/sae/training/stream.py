"""A stream of activations: the model reads texts while coders learn, and nothing is kept on disk.

For text that is gone through once, or too long to keep. Windows of all texts are shuffled in every epoch,
and some hundred of them make a portion, whose tokens are shuffled again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.sae.training.activations import Activations, Portion, Stretch, sums, weighted_order
from bathyscope.sae.training.reader import Reader
from bathyscope.sae.training.weights import Scaling
from bathyscope.sites import Site

WINDOWS: Final = 512
"""Windows of a portion at most: so many places of texts are mixed, 64k tokens of 128 each."""


@dataclass(frozen=True, eq=False)
class StreamedActivations(Activations):
    """Activations made by a model as they are needed.

    Args:
        reader: what reads what.

    Example:
        >>> import bathyscope
        >>> from bathyscope.sae import Reader, StreamedActivations, WeightedTexts
        >>> from bathyscope.sites import Site
        >>> from bathyscope.texts import given_texts
        >>> texts = WeightedTexts(given_texts(["The cat sat on the mat and looked at the dog."]))
        >>> reader = Reader(bathyscope.load(), (Site("resid_post", 3),), (texts,), length=8)
        >>> [len(portion.rows) for portion in StreamedActivations(reader).portions(1, seed=0)]
        [10]
    """

    reader: Reader

    @property
    def sites(self) -> tuple[Site, ...]:  # type: ignore[override]
        """Where they are read."""
        return self.reader.sites

    @property
    def model(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What they are read in."""
        return self.reader.spec()["model"]

    @property
    @override
    def n_tokens(self) -> int:
        return int(sum(len(ids) * self.reader.texts[number].weight for number, ids in self._windows))

    @override
    def n_portions(self, epochs: int) -> int:
        return sum(_portions_of(len(self._order(epoch, 0))) for epoch in range(epochs))

    @override
    def portions(self, epochs: int, seed: int, first: int = 0) -> Iterator[Portion]:
        lengths = torch.tensor([len(ids) for _, ids in self._windows])
        orders = [self._order(epoch, seed) for epoch in range(epochs)]
        number, done, everything = 0, 0, int(sum(lengths[order].sum() for order in orders))
        for order in orders:
            # Of nearly one size, so that none is too small to learn from.
            parts = order.tensor_split(_portions_of(len(order))) if len(order) else ()
            for part, some in enumerate(parts):
                tokens = int(lengths[some].sum())
                if number >= first:
                    tables = self._read([self._windows[window][1] for window in some.tolist()])
                    rows = torch.arange(len(next(iter(tables.values()))))
                    yield Portion(number, rows, tables, Stretch(done, tokens, everything, part == len(parts) - 1))
                number, done = number + 1, done + tokens

    @override
    def scaling(self, site: Site) -> Scaling:
        return self._scalings[site]

    @override
    def spec(self) -> dict[str, Any]:
        return {"activations": "streamed", **self.reader.spec(), "weights": [one.weight for one in self.reader.texts]}

    @cached_property
    def _windows(self) -> tuple[tuple[int, Tensor], ...]:
        return tuple((number, ids) for number, some in self.reader.portions for ids in some)

    @cached_property
    def _scalings(self) -> dict[Site, Scaling]:
        """From as much as one portion holds: the mean of millions is not needed to begin at."""
        portion = next(self.portions(1, seed=0), None)
        if portion is None:
            raise UsageError("a stream of no window was given", "a text with more, or a larger weight")
        return {site: Scaling.of(*sums(table), len(table)) for site, table in portion.tables.items()}

    def _order(self, epoch: int, seed: int) -> Tensor:
        weights = torch.tensor([self.reader.texts[number].weight for number, _ in self._windows])
        return weighted_order(weights, seed, epoch)

    def _read(self, windows: list[Tensor]) -> dict[Site, Tensor]:
        blocks = list(self.reader.read(windows))
        return {site: torch.cat([block[site] for block in blocks]) for site in self.sites}


def _portions_of(n_windows: int) -> int:
    """How many portions an epoch of so many windows has."""
    return -(-n_windows // WINDOWS)
