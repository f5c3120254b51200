"""Tokens of two ways of running the same grid, compared cell by cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loop import Generated

TIE = 1e-4
"""Two logits closer than this may change places with the order of a sum."""
END = -1
"""What stands for the token that ends a text, whoever reports it and whoever leaves it out."""

Place = tuple[int, int]
"""A layer, -1 for the embedding, and a position of the source."""


@dataclass(frozen=True)
class Difference:
    """Where a cell's tokens first leave the loop's.

    Args:
        place: the cell.
        step: which new token.
        gap: how far the loop's best logit stood above its second there.
        tokens: the loop's token and the other's.
    """

    place: Place
    step: int
    gap: float
    tokens: tuple[int, int]


def compare(cells: Sequence[Generated], others: Sequence[Sequence[int]], job: dict[str, Any]) -> list[Difference]:
    """Where other tokens leave the loop's, each cell's first place only: what follows reads another text."""
    found = []
    for place, cell, other in zip(job["cells"], cells, others, strict=True):
        mine, theirs = ended(cell.ids, job), ended(other, job)
        for step, pair in enumerate(zip(mine, theirs, strict=False)):
            if pair[0] != pair[1]:
                found.append(Difference(tuple(place), step, cell.gaps[step], pair))
                break
        else:
            if len(mine) != len(theirs):
                raise ValueError(f"cell {place} has {len(mine)} tokens in the loop and {len(theirs)} elsewhere")
    return found


def ended(ids: Sequence[int], job: dict[str, Any]) -> tuple[int, ...]:
    """Tokens up to the one that ends the text, which is told as END whoever wrote it."""
    kept: list[int] = []
    for token in ids:
        if token == END or token in job["stop_ids"]:
            return (*kept, END)
        kept.append(token)
    return tuple(kept)


def real(differences: Sequence[Difference]) -> list[Difference]:
    """Those that no tie explains."""
    return [one for one in differences if one.gap >= TIE]


def told(name: str, differences: Sequence[Difference]) -> list[str]:
    """The differences in words, each with the loop's own gap."""
    if not differences:
        return [f"{name}: every token is the loop's"]
    return [
        f"{name}: layer {one.place[0]}, position {one.place[1]}, token {one.step}: {one.tokens[1]} for "
        f"{one.tokens[0]}, where the loop's own best two are {one.gap:.1e} apart"
        + ("" if one.gap < TIE else ", which is no tie")
        for one in differences
    ]


def share(wanted: Sequence[Any], found: Sequence[Any]) -> float:
    """How many are equal, of all."""
    return sum(one == other for one, other in zip(wanted, found, strict=True)) / len(wanted)
