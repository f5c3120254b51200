"""fit_affine: linear maps between sites, of one model or two, fitted on text and measured on other text."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from bathyscope.engine import Stop
from bathyscope.errors import BathyscopeWarning, UsageError
from bathyscope.fitting.collecting import Collected, Pair, Reader
from bathyscope.fitting.methods import METHODS, best_ridge, ridge_regression
from bathyscope.fitting.moments import Moments
from bathyscope.generation import Progress
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.sites import Site
from bathyscope.texts import Texts, split_texts

ENOUGH = 10
"""Fewer positions than so many times the width are too few to trust a matrix by."""


def fit_affine(  # noqa: PLR0913 (each is one thing that a user decides)
    source: Model,
    target: Model,
    texts: Texts,
    *,
    pairs: Sequence[tuple[Site | str, Site | str]],
    method: str = "ridge",
    n_positions: int = 20_000,
    length: int = 128,
    held_out: float = 0.1,
    ridge: float | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Affine:
    """Fit what turns representations at one site into those at another, for each pair of sites.

    Both models read the same text, each window once. Attention sinks are left out in both (`usable`). The
    last documents are held out: no fit sees them, but ridge's penalty is chosen by them. What is kept in
    memory are products, 2.6 MB for each pair of width 576, twice: all 961 pairs of 30 layers take 5 GB.

    Methods:
        - "ridge": matrix and bias with the least squared error plus a penalty on the matrix.
        - "least-squares": matrix and bias with the least squared error.
        - "linear": a matrix alone with the least squared error: the linear shortcut (arXiv 2303.09435).
        - "procrustes": an orthogonal matrix and a bias; between widths, one with orthonormal rows or columns.
        - "scalar-affine": one factor and a bias (the form of arXiv 2602.10352); one width only.
        - "mean-shift": the difference of the means, added; one width only.

    Args:
        source: the model that is read at the source sites.
        target: the model that is read at the target sites; it may be the same.
        texts: what both read.
        pairs: source and target sites. `resid_post` is before the final norm, so that a mapping to the last block
            is one of what the model itself would norm.
        method: how.
        n_positions: positions to fit on, spread over the text; where there are fewer, all of them. Held out are
            `held_out` times as many more.
        length: tokens of a window.
        held_out: share of the documents, and of `n_positions`, that errors are measured on.
        ridge: the penalty, as a multiple of the mean eigenvalue of the source's centred Gram matrix; by default the
            best of `methods.RIDGES` on the held-out text, for each pair.
        progress: called with the positions that were read and those there may be.
        stop: looked at between blocks of windows, and between pairs.

    Returns:
        A mapping with terms in float32 (float64 for a model in float64). `fit.held_out` has for each pair the
        squared errors on the held-out text, divided by the variation of what was to be predicted: "error",
        "identity_error" of writing the representation unchanged (where the widths are equal), and "mean_error" of
        the mean of what was fitted on, which is about 1.

    Raises:
        UsageError: an unknown method, a site without one vector a position, another width where the method keeps it,
            too little text for any fit, or a site that does not vary.
        CancelledError: `stop` said so.

    Warns:
        BathyscopeWarning: a matrix was fitted on fewer than 10 positions for each number of its width.

    Example:
        >>> import bathyscope
        >>> from bathyscope.fitting import fit_affine
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> texts = given_texts([f"{name} lives in {place}." for name in ("Ann", "Bo") for place in ("Rome", "Oslo")])
        >>> shift = fit_affine(
        ...     model, model, texts, pairs=[("resid_post.3", "resid_post.5")], method="mean-shift", length=6
        ... )
        >>> shift.fit.n_samples, sorted(shift.fit.held_out["resid_post.3>resid_post.5"])
        (12, ['error', 'identity_error', 'mean_error'])
    """
    asked = _Asked(
        Reader(source, target, _sites(source, target, pairs), length, stop or Stop()),
        method,
        ridge,
        n_positions,
        held_out,
    )
    fitted, kept = asked.collect(texts, progress)
    dtype = torch.promote_types(torch.float32, torch.promote_types(source.dtype, target.dtype))
    terms, errors, strengths = {}, {}, {}
    for pair in asked.reader.pairs:
        asked.reader.check_stop()
        name = f"{pair[0]}>{pair[1]}"
        moments, unseen = fitted.of(pair), kept.of(pair)
        if method == "ridge":
            strengths[name] = best_ridge(moments, unseen) if ridge is None else ridge
            term = ridge_regression(moments, strengths[name])
        else:
            term = METHODS[method].fit(moments)
        terms[pair] = Term(term.weight.to(dtype), None if term.bias is None else term.bias.to(dtype))
        errors[name] = _errors(terms[pair], moments, unseen, pair)
    options = asked.options(fitted, kept)
    if strengths:
        options["lambda"] = strengths
    found = Fit(method, model_identity(source), model_identity(target), texts.describe(), fitted.n, errors, options)
    if METHODS[method].matrix:
        _warn_of_too_little(found)
    return Affine(terms, found)


@dataclass(frozen=True)
class _Asked:
    """One call of `fit_affine`, checked."""

    reader: Reader
    method: str
    ridge: float | None
    n_positions: int
    held_out: float

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method={self.method!r} was given", f"methods are {', '.join(METHODS)}", 'method="ridge"')
        if self.ridge is not None and (self.method != "ridge" or not 0 <= self.ridge < math.inf):
            raise UsageError(
                f"ridge={self.ridge} was given for {self.method}", "at least 0, and for ridge only", 'method="ridge"'
            )
        if self.n_positions < 2:
            raise UsageError(f"n_positions={self.n_positions} was given", "at least 2")
        widths = self.reader.widths
        for source, target in self.reader.pairs if METHODS[self.method].keeps_width else ():
            if widths[0][source] != widths[1][target]:
                raise UsageError(
                    f"{self.method} from {source} of width {widths[0][source]} to {target} of width "
                    f"{widths[1][target]} was asked for",
                    f"{self.method} has no matrix, so it keeps the width",
                    'method="ridge"',
                )

    def collect(self, texts: Texts, progress: Progress | None) -> tuple[Collected, Collected]:
        """Moments of the text to fit on, and of that held out."""
        wanted = self.n_positions, max(2, math.ceil(self.held_out * self.n_positions))
        found: list[Collected] = []
        for part, most in zip(split_texts(texts, held_out=self.held_out), wanted, strict=True):
            before = sum(one.n for one in found)
            tick = partial(_tick, progress, before, sum(wanted))
            found.append(self.reader.collect(part, most, tick))
            if found[-1].n < 2:
                raise UsageError(
                    f"{found[-1].n} positions {'are left to fit on' if len(found) == 1 else 'are held out'}",
                    "at least 2, and many more than the width; the first of each window and other sinks are left out",
                    "more text",
                )
        return found[0], found[1]

    def options(self, fitted: Collected, kept: Collected) -> dict[str, Any]:
        """What a file says of how it was fitted, as JSON values."""
        width = max(self.reader.widths[0][source] for source, _ in self.reader.pairs)
        return {
            "n_positions": self.n_positions,
            "length": self.reader.length,
            "held_out": self.held_out,
            "held_out_positions": kept.n,
            "sinks_left_out": fitted.left_out,
            "width": width,
            "samples_per_width": fitted.n / width,
        }


def _tick(progress: Progress | None, before: int, total: int, n: int) -> None:
    if progress is not None:
        progress(before + n, total)


def _sites(source: Model, target: Model, pairs: Sequence[tuple[Site | str, Site | str]]) -> tuple[Pair, ...]:
    found = tuple(dict.fromkeys((source.site(one), target.site(other)) for one, other in pairs))
    if not found:
        raise UsageError("no pair of sites was given", "at least one", 'pairs=[("resid_post.3", "resid_post.5")]')
    return found


def _errors(term: Term, fitted: Moments, unseen: Moments, pair: Pair) -> dict[str, float]:
    """Squared errors on text that was held out, in units of the variation of what was to be predicted."""
    variation = unseen.variation
    if not variation:
        raise UsageError(
            f"{pair[1]} is the same at all {unseen.n} held-out positions", "a site that varies with the text"
        )
    found = {"error": unseen.error(term) / variation}
    if unseen.widths[0] == unseen.widths[1]:
        found["identity_error"] = unseen.error(Term(torch.ones(()))) / variation
    off = unseen.mean_y - fitted.mean_y
    return {**found, "mean_error": 1 + unseen.n * float(off.square().sum()) / variation}


def _warn_of_too_little(fit: Fit) -> None:
    n, width = fit.n_samples, fit.options["width"]
    if n >= ENOUGH * width:
        return
    errors = [one["error"] for one in fit.held_out.values()]
    warnings.warn(
        f"{fit.method} was fitted on {n} positions at width {width}, "
        + ("so few that it can repeat them all by heart" if n <= width else f"fewer than {ENOUGH} for each number")
        + f"; its squared error on held-out text is {min(errors):.3g} to {max(errors):.3g} of the variation",
        BathyscopeWarning,
        stacklevel=3,
    )
