"""The picture of a circuit: a column a site, a row a position, a disc a feature, a line an edge. Knows no model."""

from collections.abc import Sequence
from typing import Final

from bathyscope.circuits.edges import Edge, site_order
from bathyscope.circuits.features import Feature
from bathyscope.circuits.nodes import Node
from bathyscope.pictures import DOWN, INK, QUIET, UP, Disc, Line, Picture, Words, shade, signed

LEFT, TOP, BOTTOM = 150, 120, 70
COLUMN, PITCH, GAP = 170, 62, 26
"""From a site to the next at least, from a feature to the one below it, and between positions."""
RADIUS: Final = 13
MOST_PER_PLACE: Final = 6
"""Features of one site and position that are drawn; the rest are counted."""
SHARE_OF_EDGES: Final = 0.02
"""An edge is drawn from this share of the largest on."""
WIDEST, NARROWEST = 7.0, 0.8
LETTERS: Final = 20
LEAST_WIDTH: Final = 1000
"""The legend's."""


def circuit_picture(
    nodes: Sequence[Node], edges: Sequence[Edge], positions: Sequence[str], captions: Sequence[str]
) -> Picture:
    """Where everything stands.

    Args:
        nodes: the circuit's, the largest attributions first.
        edges: between their features, and to the logit difference.
        positions: what stands at each position.
        captions: a heading, and smaller lines.
    """
    sites = sorted({one.feature.site for one in nodes}, key=site_order)
    column = max(COLUMN, min(2 * COLUMN, (LEAST_WIDTH - 2 * LEFT) / max(1, len(sites))))
    rows = sorted({one.feature.position for one in nodes})
    grouped: dict[tuple[str, int], list[Node]] = {}
    for one in nodes:
        grouped.setdefault((one.feature.site, one.feature.position), []).append(one)
    tops, top = {}, float(TOP + 40)
    for row in rows:
        tops[row] = top
        most = max((min(MOST_PER_PLACE + 1, len(grouped.get((site, row), ()))) for site in sites), default=1)
        top += PITCH * max(1, most) + GAP
    places: dict[Feature | None, tuple[float, float]] = {}
    discs, words = [], [*_captions(captions)]
    largest = max((abs(one.attribution) for one in nodes), default=1.0) or 1.0
    for (site, row), ones in grouped.items():
        x = LEFT + column * sites.index(site)
        for number, one in enumerate(ones[:MOST_PER_PLACE]):
            at = (x, tops[row] + PITCH * number)
            places[one.feature] = at
            discs.append(_disc(one, at, largest))
            words += _named(one, at)
        if len(ones) > MOST_PER_PLACE:
            at = (x, tops[row] + PITCH * MOST_PER_PLACE - 12)
            words.append(Words(at, f"and {len(ones) - MOST_PER_PLACE} more", 11, QUIET))
    words += [Words((LEFT + column * n, TOP), site, 12.5, QUIET, bold=True) for n, site in enumerate(sites)]
    words += [
        Words((24, tops[row]), _short(f"{row}: {positions[row]}", 15), 12.5, INK, bold=True, start=True) for row in rows
    ]
    end = (LEFT + column * len(sites), TOP + 40 + (top - TOP - 40) / 2)
    words.append(Words((end[0], end[1] + RADIUS + 12), "logit difference", 12.5, INK, bold=True, boxed=True))
    discs.append(Disc(end, RADIUS, "#ffffff", "#ffffff", INK, told="right answer's logit less the wrong one's"))
    lines = _lines(edges, {**places, None: end})
    keys = _legend(top, tuple(halves(nodes[0])) if nodes else ("clean", "corrupted"))
    return Picture(
        max(LEAST_WIDTH, LEFT + column * (len(sites) + 0.6)),
        top + BOTTOM,
        (*lines, *keys.lines),
        (*discs, *keys.discs),
        (*words, *keys.words),
    )


def halves(node: Node) -> dict[str, float]:
    """What the halves of a node's disc show: its mean activation in two kinds of prompts, or in either run."""
    if len(node.by_kind) == 2:
        return dict(sorted(node.by_kind.items(), reverse=True))
    return {"clean": node.clean, "corrupted": node.corrupted}


def _disc(one: Node, at: tuple[float, float], largest: float) -> Disc:
    shown = halves(one)
    most = max(*shown.values(), 1e-9)
    left, right = (shade(value / most) for value in shown.values())
    activations = ", ".join(f"{value:.3g} {name}" for name, value in shown.items())
    separates = "" if one.separates is None else f"; told apart {one.separates:.2f}"
    told = (
        f"{one.feature}\n{one.label}\nattribution {one.attribution:+.3f}, effect {one.effect:+.3f}\n"
        f"activation {activations}{separates}\npromotes {' '.join(one.promotes)}"
    )
    radius = RADIUS * (0.45 + 0.55 * (abs(one.attribution) / largest) ** 0.5)
    return Disc(at, radius, left, right, UP if one.attribution > 0 else DOWN, one.feature.index is None, told)


def _named(one: Node, at: tuple[float, float]) -> Sequence[Words]:
    x, y = at
    is_error = one.feature.index is None
    name = "error" if is_error else str(one.feature.index)
    label = "" if is_error else _short(" ".join(text.strip() for text in one.promotes[:3]), LETTERS)
    if not is_error and not one.label.startswith("promotes"):
        label = _short(one.label, LETTERS)
    return [
        Words((x, y + RADIUS + 9), f"{name}  {signed(one.attribution)}", 11.5, INK, bold=True, boxed=True),
        Words((x, y + RADIUS + 24), label, 10.5, QUIET, boxed=bool(label)),
    ]


def _lines(edges: Sequence[Edge], places: dict[Feature | None, tuple[float, float]]) -> list[Line]:
    drawn = [one for one in edges if one.source in places and one.target in places]
    largest = max((abs(one.weight) for one in drawn), default=1.0) or 1.0
    found = []
    for one in sorted(drawn, key=lambda one: abs(one.weight)):
        size = abs(one.weight) / largest
        if size < SHARE_OF_EDGES:
            continue
        (x, y), (to_x, to_y) = places[one.source], places[one.target]
        told = f"{one.source} to {one.target or 'the logit difference'}: {one.weight:+.3f}"
        colour = UP if one.weight > 0 else DOWN
        found.append(Line((x, y), (to_x, to_y), colour, max(NARROWEST, WIDEST * size), one.weight < 0, told))
    return found


def _captions(captions: Sequence[str]) -> list[Words]:
    return [
        Words((24, 26 + 22 * number + (4 if number else 0)), caption, 13 if number else 17, bold=not number, start=True)
        for number, caption in enumerate(captions)
    ]


def _legend(top: float, shown: Sequence[str]) -> Picture:
    y = top + 24
    words = [
        Words((24 + 58, y), "helps the right answer", 12, start=True),
        Words((270 + 58, y), "helps the wrong one", 12, start=True),
        Words((500 + 40, y), f"mean activation, {' | '.join(shown)}; size: attribution; dashed: error", 12, start=True),
    ]
    lines = [Line((24, y), (72, y), UP, 5), Line((270, y), (318, y), DOWN, 5, True)]
    return Picture(0, 0, tuple(lines), (Disc((515, y), 12, shade(0.1), shade(0.9), INK),), tuple(words))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "\u2026"
