"""Activity: how often each latent is active, how strongly, and a histogram of it.

Knows numbers only.
"""

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

BINS: Final = 64
PER_OCTAVE: Final = 2
"""Bins of the histogram, so many for each doubling; the first begins at 2**-16, and the last has no end."""


@dataclass
class Activity:
    """What is counted of each latent.

    Args:
        n_latents: how many there are.
        n_rows: how many positions were encoded.
        n_sinks: how many were left out as sinks or special tokens.
        histogram: at how many positions it is so active, (latents, BINS), int64; bin b begins at `edge(b)`.
        largest: its largest activation, (latents,).
    """

    n_latents: int
    n_rows: int = 0
    n_sinks: int = 0
    histogram: Tensor = field(default_factory=lambda: torch.empty(0))
    largest: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if not self.histogram.numel():
            self.histogram = torch.zeros(self.n_latents, BINS, dtype=torch.int64)
            self.largest = torch.zeros(self.n_latents)

    def add(self, latents: Tensor, values: Tensor, n_rows: int, n_sinks: int) -> None:
        """Take in active latents, (entries,), and their values, of so many positions."""
        cells = latents * BINS + bins(values)
        self.histogram += torch.bincount(cells, minlength=self.n_latents * BINS).view(-1, BINS)
        self.largest.scatter_reduce_(0, latents, values, "amax")
        self.n_rows, self.n_sinks = self.n_rows + n_rows, self.n_sinks + n_sinks

    @property
    def active(self) -> Tensor:
        """At how many positions each latent is active, (latents,)."""
        return self.histogram.sum(1)

    @property
    def density(self) -> Tensor:
        """Share of the encoded positions at which each latent is active, (latents,)."""
        return self.active.double() / max(1, self.n_rows)


def bins(values: Tensor) -> Tensor:
    """The bin of each activation.

    Example:
        >>> import torch
        >>> from bathyscope.sae.reading.activity import bins, edge
        >>> bins(torch.tensor([1.0, 1.5, 2.0])).tolist(), edge(33)
        ([32, 33, 34], 1.4142135623730951)
    """
    return (torch.log2(values) * PER_OCTAVE + BINS // 2).floor().clamp(0, BINS - 1).long()


def edge(number: int) -> float:
    """Where a bin begins; the first has everything below its end in it."""
    return 2.0 ** ((number - BINS // 2) / PER_OCTAVE)
