"""A graph as a still picture: layers upward, tokens across."""

from collections.abc import Sequence
from typing import Final

from bathyscope.circuits.viewer.view import Drawn, View
from bathyscope.pictures import DOWN, INK, QUIET, UP, Disc, Line, Picture, Words, shade

RADIUS: Final = 12.0
WIDEST, NARROWEST = 7.0, 0.6
SHARE_OF_EDGES: Final = 0.02
"""An edge is drawn from this share of the largest on."""
HEAD, LETTERS = 70.0, 17


def still_picture(view: View) -> Picture:
    """Where everything stands in a picture that nobody moves."""
    layout = view.layout
    places = [(x, y + HEAD) for x, y in layout.nodes]
    words = [
        Words((20, 24 + 20 * line), _short(caption, 140), 12 if line else 15, INK, bold=not line, start=True)
        for line, caption in enumerate(view.captions[:2])
    ]
    words += [
        Words((10, y + HEAD), name, 11, QUIET, start=True) for name, y in zip(view.rows, layout.rows, strict=True)
    ]
    discs = []
    for one, at in zip(view.nodes, places, strict=True):
        if one.kind in ("token", "output"):
            words.append(Words(at, _short(one.name, LETTERS), 11, INK, bold=True, boxed=True))
            continue
        discs.append(_disc(one, at))
        words.append(Words((at[0], at[1] + RADIUS + 9), one.name, 11, INK, bold=True, boxed=True))
        words.append(Words((at[0], at[1] + RADIUS + 22), _short(one.label, LETTERS), 10, QUIET))
    return Picture(layout.width, layout.height + HEAD, tuple(_edges(view, places)), tuple(discs), tuple(words))


def _disc(one: Drawn, at: tuple[float, float]) -> Disc:
    most = max((*one.halves.values(), 1e-9))
    fills = [shade(value / most) for value in one.halves.values()][:2]
    left, right = fills if len(fills) == 2 else ("#ffffff", "#ffffff")
    rim = QUIET if one.value is None else UP if one.value > 0 else DOWN
    return Disc(at, RADIUS, left, right, rim, one.kind == "error", f"{one.key}\n{one.label}")


def _edges(view: View, places: Sequence[tuple[float, float]]) -> list[Line]:
    largest = max((abs(weight) for _, _, weight in view.edges), default=1.0) or 1.0
    found = []
    for source, target, weight in reversed(view.edges):  # the strongest over the others
        size = abs(weight) / largest
        if size >= SHARE_OF_EDGES:
            told = f"{view.nodes[source].key} to {view.nodes[target].key}: {weight:+.3g}"
            colour = UP if weight > 0 else DOWN
            found.append(Line(places[source], places[target], colour, max(NARROWEST, WIDEST * size), weight < 0, told))
    return found


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
