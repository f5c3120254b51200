"""Activations: what coders are trained on, token by token, in an order that a seed decides.

They may be given, kept on disk (`cache`) or made as they are needed (`stream`): training sees portions
of rows, and shuffles each.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.sae.training.weights import Scaling
from bathyscope.sites import Site


@dataclass(frozen=True)
class Stretch:
    """Which part of a training a portion is, in a unit that is known before anything is read.

    Args:
        before: what was done of the training when it begins.
        size: how much it is itself.
        all: how much the training is.
        ends_epoch: whether an epoch ends with it.
    """

    before: int
    size: int
    all: int
    ends_epoch: bool = True

    def share(self, done: float) -> float:
        """What of the training is done, 0 to 1, when a share of the portion is: exactly 1 at the end."""
        return (self.before + self.size * done) / self.all


@dataclass(frozen=True, eq=False)
class Portion:
    """Rows that are shuffled together.

    Args:
        number: which of all portions of the training it is, from 0.
        rows: for each row the place in `tables` that it is kept at, (rows,).
        tables: for each site activations, (places, width).
        stretch: which part of the training it is.
        carried: for each site the rows that the portion before it left over, (fewer than a batch, width).
    """

    number: int
    rows: Tensor
    tables: Mapping[Site, Tensor]
    stretch: Stretch
    carried: Mapping[Site, Tensor] = field(default_factory=dict)

    def batches(self, size: int, seed: int, first: int = 0) -> Iterator[dict[Site, Tensor]]:
        """Batches of one size: what was carried, then the rows in a random order.

        Where an epoch ends, what does not fill the last batch is left out; but if there is no batch at all, all rows
        make one that is smaller.

        Args:
            size: rows of a batch.
            seed: of the training.
            first: batches that are passed over.
        """
        order, n_carried = self._order(seed), self.n_carried
        for number in range(first, self.n_batches(size)):
            begin, end = number * size - n_carried, (number + 1) * size - n_carried
            chosen = order[max(0, begin) : end]
            found = {site: table[chosen].float() for site, table in self.tables.items()}
            if begin < 0:
                found = {site: torch.cat([self.carried[site], rows]) for site, rows in found.items()}
            yield found

    def left(self, size: int, seed: int) -> dict[Site, Tensor]:
        """The rows that the next portion begins with: those of no batch, unless an epoch ends here."""
        if self.stretch.ends_epoch:
            return {}
        used = self.n_batches(size) * size - self.n_carried
        found = {site: table[self._order(seed)[max(0, used) :]].float() for site, table in self.tables.items()}
        return found if used >= 0 else {site: torch.cat([self.carried[site], rows]) for site, rows in found.items()}

    def n_batches(self, size: int) -> int:
        """How many batches of that size it makes."""
        there = self.n_carried + len(self.rows)
        return max(there // size, int(self.stretch.ends_epoch and there > 0))

    @property
    def n_carried(self) -> int:
        """How many rows the portion before it left over."""
        return max(map(len, self.carried.values()), default=0)

    def _order(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + self.number)
        return self.rows[torch.randperm(len(self.rows), generator=generator)]


class Activations(ABC):
    """Activations at some sites.

    Args:
        sites: where they were read; every row has all of them.
        model: what they were read in (`model_identity`), as far as it is known.
    """

    sites: tuple[Site, ...]
    model: Mapping[str, Any]

    @property
    @abstractmethod
    def n_tokens(self) -> int:
        """Tokens of an epoch; of a stream, at most."""

    @abstractmethod
    def n_portions(self, epochs: int) -> int:
        """How many portions so many epochs have."""

    @abstractmethod
    def portions(self, epochs: int, seed: int, first: int = 0) -> Iterator[Portion]:
        """The portions of so many epochs, the first ones passed over."""

    @abstractmethod
    def scaling(self, site: Site) -> Scaling:
        """Mean and length of what is at a site."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What they depend on, as JSON values."""


@dataclass(frozen=True, eq=False)
class GivenActivations(Activations):
    """Activations from memory.

    Args:
        tables: for each site activations, (tokens, width), as many at each.
        model: what they were read in (`model_identity`), if that is known.

    Raises:
        UsageError: there is none, or they are not of one length, or not finite.

    Example:
        >>> import torch
        >>> from bathyscope.sae import GivenActivations
        >>> GivenActivations({"resid_post.3": torch.randn(8, 4)}).n_tokens
        8
    """

    tables: Mapping[Site, Tensor]
    model: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = {Site.parse(site): table for site, table in self.tables.items()}
        object.__setattr__(self, "tables", tables)
        for site, table in tables.items():
            check_rows(site, table)
        if len({len(table) for table in tables.values()}) != 1:
            lengths = ", ".join(f"{site} {len(table)}" for site, table in tables.items())
            raise UsageError(f"activations of {lengths or 'no'} tokens were given", "as many at each site, at least 1")

    @property
    def sites(self) -> tuple[Site, ...]:  # type: ignore[override]
        """Where they were read."""
        return tuple(self.tables)

    @property
    @override
    def n_tokens(self) -> int:
        return len(next(iter(self.tables.values())))

    @override
    def n_portions(self, epochs: int) -> int:
        return epochs

    @override
    def portions(self, epochs: int, seed: int, first: int = 0) -> Iterator[Portion]:
        for epoch in range(first, epochs):
            yield Portion(epoch, torch.arange(self.n_tokens), self.tables, Stretch(epoch, 1, epochs))

    @override
    def scaling(self, site: Site) -> Scaling:
        return Scaling.of(*sums(self.tables[site]), self.n_tokens)

    @override
    def spec(self) -> dict[str, Any]:
        squares = {str(site): sums(table)[1] for site, table in self.tables.items()}
        return {"activations": "given", "n_tokens": self.n_tokens, "squares": squares}


def sums(rows: Tensor) -> tuple[Tensor, float]:
    """The sum of activations, (width,), and of their squared lengths, in float64."""
    total, squares = rows.new_zeros(rows.shape[1], dtype=torch.float64), 0.0
    for block in rows.split(8192):
        double = block.double()
        total += double.sum(0)
        squares += float(double.square().sum())
    return total, squares


def check_rows(site: Site, rows: Tensor) -> None:
    """Refuse what no coder can learn from.

    Raises:
        UsageError: another shape than (tokens, width), or a number that is not finite.
    """
    if rows.ndim != 2:
        raise UsageError(f"activations of shape {tuple(rows.shape)} at {site} were given", "(tokens, width)")
    finite = torch.isfinite(rows).all(1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise UsageError(
            f"activations at {site} are not finite, the first at token {first} of {len(rows)}",
            "a coder learns from finite numbers",
            "dtype=float32 for the model",
        )


def weighted_order(weights: Tensor, seed: int, epoch: int) -> Tensor:
    """What an epoch goes through, shuffled: each thing as often as its weight says, the rest of it by chance.

    As many things for every seed.

    Args:
        weights: of each thing, (things,).
        seed: of the training.
        epoch: which epoch.

    Example:
        >>> import torch
        >>> from bathyscope.sae.training.activations import weighted_order
        >>> sorted(weighted_order(torch.tensor([2.0, 1.0, 0.5, 0.5]), seed=0, epoch=0).tolist())[:3]
        [0, 0, 1]
        >>> len(weighted_order(torch.tensor([2.0, 1.0, 0.5, 0.5]), seed=1, epoch=0))
        4
    """
    generator = torch.Generator().manual_seed(seed * 7919 + epoch)
    whole = weights.floor()
    rest = weights - whole
    chosen = [torch.arange(len(weights)).repeat_interleave(whole.long())]
    for value in rest.unique().tolist():
        some = (rest == value).nonzero().squeeze(1) if value else weights.new_zeros(0, dtype=torch.long)
        chosen.append(some[torch.randperm(len(some), generator=generator)[: round(value * len(some))]])
    order = torch.cat(chosen)
    return order[torch.randperm(len(order), generator=generator)]
