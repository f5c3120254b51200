"""Where a study of two models measures: positions up to which both have read the same text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy

from bathyscope.engine import Read
from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site
from bathyscope.studies.places import POOL
from bathyscope.texts import AlignedWindow, Texts, aligned_windows

PER_WINDOW: Final = 4
"""Positions of one window, unless the text has too few windows."""


@dataclass(frozen=True)
class SharedPlace:
    """One position of one window, in both models.

    Args:
        window: the window's number among those that are used, from 0.
        source: the window as the source reads it.
        position: a token index of it, at least 1.
        target: the same text as the target reads it, up to that position and no further.
    """

    window: int
    source: Tokens
    position: int
    target: Tokens

    def read(self, site: Site) -> Read:
        """What the source model holds there."""
        return Read(self.source, site, self.position)


def draw_shared_places(
    source: Model, target: Model, texts: Texts, *, positions: int, length: int = 128, seed: int = 0
) -> tuple[SharedPlace, ...]:
    """Draw windows, and in each of them positions at which tokens of both models end.

    The first position of a window is never drawn, in neither model: it is an attention sink.

    Args:
        source: one model.
        target: the other.
        texts: the text.
        positions: how many in all; `PER_WINDOW` of each window, or more where there are few windows.
        length: most tokens of a window, on either side.
        seed: decides both.

    Raises:
        UsageError: the text is too short; how many positions it has, is said.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies.cross_model_study.shared_places import draw_shared_places
        >>> from bathyscope.texts import given_texts
        >>> model, texts = bathyscope.load(), given_texts(["One two three four five six", "Seven eight nine ten"])
        >>> places = draw_shared_places(model, model, texts, positions=6, length=6)
        >>> [place.window for place in places], places[0].target.ids == places[0].source.ids[: places[0].position + 1]
        ([0, 0, 0, 1, 1, 1], True)
    """
    if positions < 2:
        raise UsageError(f"{positions} positions were wanted", "at least 2", "--positions 500")
    needed = max(2, -(-positions // PER_WINDOW))
    pool = _pool(aligned_windows(source, target, texts, length=length, limit=max(POOL, 4 * needed)))
    generator = numpy.random.default_rng(seed)
    chosen = [pool[index] for index in sorted(generator.permutation(len(pool))[:needed].tolist())]
    room = [len(_usable(window)) for window in chosen]
    if sum(room) < positions:
        raise UsageError(
            f"{positions:,} positions were wanted",
            f"the text to measure on has {len(pool):,} different windows of up to {length} tokens, in which tokens of "
            f"both models end together at {sum(room):,} positions",
            f"--positions {sum(room)}, or a longer text",
        )
    return tuple(
        _place(number, window, pair)
        for number, (window, share) in enumerate(zip(chosen, _dealt(positions, room), strict=True))
        for pair in sorted(generator.choice(_usable(window), share, replace=False).tolist())
    )


def _pool(windows: Iterable[AlignedWindow]) -> list[AlignedWindow]:
    """Windows with a position to measure at; one that stands in the text twice would be one measurement twice."""
    return list({(window.source.ids, window.target.ids): window for window in windows if _usable(window)}.values())


def _usable(window: AlignedWindow) -> list[tuple[int, int]]:
    """Pairs of positions that are the first of neither side."""
    return [pair for pair in window.pairs if all(pair)]


def _dealt(positions: int, room: Sequence[int]) -> list[int]:
    """How many positions each window gets, as evenly as their room allows."""
    shares = [0] * len(room)
    while (left := positions - sum(shares)) > 0:
        free = [number for number, most in enumerate(room) if shares[number] < most]
        for number in free[:left]:
            shares[number] += 1
    return shares


def _place(number: int, window: AlignedWindow, pair: Sequence[int]) -> SharedPlace:
    position, end = pair
    tokens, stop = window.target, end + 1
    text = tokens.text[: tokens.offsets[end][1]]
    return SharedPlace(number, window.source, position, Tokens(text, tokens.ids[:stop], (), tokens.offsets[:stop]))
