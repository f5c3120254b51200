"""Where a study measures: positions drawn by a seed, spread over windows that are drawn by it, too."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy

from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.texts import Texts, windows

PER_WINDOW: Final = 4
"""Positions of a window: more would cost less to read, and tell less, since they share its text."""

POOL: Final = 5_000
"""Windows are drawn from the first so many, or four times as many as are needed: of a long text not all is read."""


@dataclass(frozen=True)
class Place:
    """One position of one window.

    Args:
        window: the window's number among those that are used, from 0.
        tokens: the window.
        position: a token index, at least 1.
    """

    window: int
    tokens: Tokens
    position: int


def draw_places(
    model: Model,
    texts: Texts,
    *,
    positions: int = 1000,
    per_window: int | None = None,
    length: int = 128,
    seed: int = 0,
) -> tuple[Place, ...]:
    """Draw windows, and in each of them positions, one from each of as many equal stretches.

    The first position of a window is never drawn: it is an attention sink, whose representation hardly
    depends on the text.

    Args:
        model: the model that reads them.
        texts: the text.
        positions: how many in all.
        per_window: at most so many of a window; unless said `PER_WINDOW`, or more where there are few windows.
        length: tokens of a window.
        seed: decides both.

    Raises:
        UsageError: the text is too short; how long it is, is said.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies.places import draw_places
        >>> from bathyscope.texts import given_texts
        >>> texts = given_texts(["One two three four five six", "Seven eight nine ten eleven twelve"])
        >>> places = draw_places(bathyscope.load(), texts, positions=4, per_window=2, length=6)
        >>> [place.window for place in places]
        [0, 0, 1, 1]
    """
    most = length // 2 - 1  # a window has at least half of its length, and its first position is left out
    if positions < 2 or not 1 <= (per_window or 1) <= most:
        raise UsageError(
            f"{positions} positions, {per_window or PER_WINDOW} of each window of {length} tokens, were wanted",
            f"at least 2, and 1 to {most} of each: a window may be half as long, and its first position is left out",
        )
    needed = _windows_for(positions, per_window or PER_WINDOW)
    # A window that stands in the text twice would be the same measurement twice.
    pool = list({one.ids: one for one in windows(model, texts, length=length, limit=max(POOL, 4 * needed))}.values())
    if per_window is None and len(pool) < needed:
        needed = max(len(pool), _windows_for(positions, most))
    if len(pool) < needed:
        raise _too_short(len(pool), positions, per_window or most, length)
    # One order of all windows: who asks for more positions gets these, and others besides.
    chosen = numpy.random.default_rng(seed).permutation(len(pool))[:needed].tolist()
    shares = [positions // needed + (number < positions % needed) for number in range(needed)]
    return tuple(
        Place(number, pool[index], position)
        for number, (index, share) in enumerate(zip(chosen, shares, strict=True))
        for position in _spread(len(pool[index]), share, numpy.random.default_rng([seed, index]))
    )


def _windows_for(positions: int, per_window: int) -> int:
    """How many windows it takes, at least two: of one alone there is no telling how far another would differ."""
    return max(2, -(-positions // per_window))


def _spread(length: int, share: int, generator: numpy.random.Generator) -> Sequence[int]:
    """So many positions from 1 on, one in each of so many stretches of a window."""
    bounds = numpy.linspace(1, length, share + 1).astype(int)
    return generator.integers(bounds[:-1], bounds[1:]).tolist()


def _too_short(n_windows: int, positions: int, per_window: int, length: int) -> UsageError:
    there = n_windows * per_window
    return UsageError(
        f"{positions:,} positions were wanted, at most {per_window} of each window of {length} tokens",
        f"the measured text has {n_windows:,} different windows of {length // 2} tokens or more: {there:,} positions",
        f"--positions {there}, or a longer text" if n_windows > 1 else "a longer text",
    )
