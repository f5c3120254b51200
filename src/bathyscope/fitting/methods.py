"""The ways to fit one linear map: small functions from moments to a term, each a closed form.

All but "linear" have a bias that puts the mean of x on the mean of y. Knows no models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.fitting.moments import Moments
from bathyscope.mappings import Term

RIDGES: Final = tuple(10.0**exponent for exponent in range(-8, 3))
"""The strengths that `best_ridge` chooses among."""


@dataclass(frozen=True)
class Method:
    """One way to fit.

    Args:
        fit: from moments (and a strength, for ridge) to a term.
        matrix: whether a whole matrix is fitted, for which there may be too little text.
        keeps_width: whether x and y must have the same width.
    """

    fit: Callable[..., Term]
    matrix: bool = True
    keeps_width: bool = False


def ridge_regression(moments: Moments, strength: float) -> Term:
    """The affine map with the least squared error plus a penalty on its weight.

    Args:
        moments: of the pairs.
        strength: the penalty on the squared weight, as a multiple of the mean eigenvalue of x's centred products,
            so that it means the same at every layer and for any number of pairs.
    """
    values, vectors = moments.gram.eigen()
    return _through_the_means(moments, vectors @ (_inverse(values, strength)[:, None] * (vectors.T @ moments.xy)))


def least_squares(moments: Moments) -> Term:
    """The affine map with the least squared error; the shortest of them where x leaves a choice."""
    return ridge_regression(moments, 0.0)


def linear(moments: Moments) -> Term:
    """The linear map without bias that has the least squared error: the linear shortcut (arXiv 2303.09435)."""
    values, vectors = moments.gram.eigen(centred=False)
    products = torch.addr(moments.xy, moments.mean_x, moments.mean_y, alpha=moments.n)
    return Term(vectors @ (_inverse(values, 0.0)[:, None] * (vectors.T @ products)))


def scalar_affine(moments: Moments) -> Term:
    """One factor and a bias, the form of the adapters of arXiv 2602.10352, here with the least squared error."""
    variation = moments.xx.trace()
    return _through_the_means(moments, moments.xy.trace() / variation if variation else torch.zeros_like(variation))


def procrustes(moments: Moments) -> Term:
    """An orthogonal matrix and a bias: both clouds are centred, then one is turned onto the other.

    Between widths the matrix has orthonormal rows, or columns, whichever are fewer. It has the least squared
    error among those, except that towards a smaller width it is the one with the largest covariance with y.
    """
    left, _, right = torch.linalg.svd(moments.xy, full_matrices=False)
    return _through_the_means(moments, left @ right)


def mean_shift(moments: Moments) -> Term:
    """The difference between the two means, added to x."""
    return _through_the_means(moments, torch.ones((), dtype=torch.float64))


METHODS: Final[dict[str, Method]] = {
    "ridge": Method(ridge_regression),
    "least-squares": Method(least_squares),
    "linear": Method(linear),
    "scalar-affine": Method(scalar_affine, matrix=False, keeps_width=True),
    "procrustes": Method(procrustes),
    "mean-shift": Method(mean_shift, matrix=False, keeps_width=True),
}
"""Every method of `fit_affine` by its name."""


def best_ridge(moments: Moments, held_out: Moments, strengths: Sequence[float] = RIDGES) -> float:
    """The strength whose fit on `moments` has the least squared error on `held_out`."""
    return min(zip(ridge_errors(moments, held_out, strengths), strengths, strict=True))[1]


def ridge_errors(moments: Moments, held_out: Moments, strengths: Sequence[float]) -> list[float]:
    """Held-out squared errors of the fits of all strengths, for the price of little more than one.

    In the eigenvectors' coordinates a fit is its covariance with y, each row divided by an eigenvalue plus
    the penalty. So the error is a quadratic form of those quotients, whose matrix is made once.
    """
    values, vectors = moments.gram.eigen()
    covariance = vectors.T @ moments.xy
    quadratic = (vectors.T @ held_out.xx @ vectors) * (covariance @ covariance.T)
    cross = (covariance * (vectors.T @ held_out.xy)).sum(1)
    off_x, off_y = vectors.T @ (held_out.mean_x - moments.mean_x), held_out.mean_y - moments.mean_y
    errors = []
    for strength in strengths:
        inverse = _inverse(values, strength)
        off = off_y - (inverse * off_x) @ covariance
        around = held_out.variation - 2 * inverse @ cross + inverse @ quadratic @ inverse
        errors.append(float(around + held_out.n * off.square().sum()))
    return errors


def _inverse(values: Tensor, strength: float) -> Tensor:
    """One over each eigenvalue plus the penalty; 0 where the eigenvalue is."""
    return torch.where(values > 0, 1 / (values + strength * values.mean()), 0.0)


def _through_the_means(moments: Moments, weight: Tensor) -> Term:
    mapped = moments.mean_x @ weight if weight.ndim else moments.mean_x * weight
    return Term(weight, moments.mean_y - mapped)
