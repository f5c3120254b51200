"""How good a finished coder is: one function for all of them, of what they make of un-normalised activations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.sae import Code

ROWS = 8192
"""Rows that are summed together, in float64."""


@dataclass(frozen=True)
class Quality:
    """What is told of a coder.

    Args:
        fvu: share of the held-out variance that it leaves unexplained.
        l0: latents active in a held-out row, on average.
        dead: latents active neither in a held-out row nor in one of the last rows it was trained on.
    """

    fvu: float
    l0: float
    dead: int


def quality(rows: Tensor, reconstruction: Tensor, code: Code, recent: Code) -> Quality:
    """Measure a coder by what it made.

    Args:
        rows: held-out activations, (rows, width).
        reconstruction: what it makes of them, (rows, width).
        code: their latents.
        recent: latents of the last rows of the training set.

    Raises:
        ValueError: shapes that do not fit, or a reconstruction that is not finite.
    """
    if rows.shape != reconstruction.shape or len(rows) != len(code) or code.n_latents != recent.n_latents:
        raise ValueError(
            f"{tuple(rows.shape)} activations, {tuple(reconstruction.shape)} reconstructed, {len(code)} codes; "
            f"{code.n_latents} and {recent.n_latents} latents"
        )
    if not torch.isfinite(reconstruction).all():
        raise ValueError("a reconstruction is not finite")
    mean = rows.mean(0, dtype=torch.float64)
    left, whole = 0.0, 0.0
    for row, made in zip(rows.split(ROWS), reconstruction.split(ROWS), strict=True):
        left += float((row.double() - made.double()).square().sum())
        whole += float((row.double() - mean).square().sum())
    alive = (code.counts() > 0) | (recent.counts() > 0)
    return Quality(left / whole, float(code.l0().double().mean()), int((~alive).sum()))
