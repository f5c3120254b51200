"""Where everything in the picture of the toy's graph stands."""

from collections.abc import Iterator, Sequence
from typing import Final

from bathyscope.pictures import (
    DOWN,
    FAINT_LINE,
    INK,
    QUIET,
    UP,
    Disc,
    Line,
    Picture,
    Words,
    shade,
    signed,
)
from bathyscope.studies.toy_agreement_study.graph import COLUMNS, FAINT, Edge, Graph, Node

RADIUS: Final = 30
GAP, PITCH = 300, 104
"""From one column to the next, and from a node to the one below it."""
LEFT, TOP, BOTTOM = 90, 150, 110
WIDEST, NARROWEST = 9.0, 1.2


def laid_out(graph: Graph, captions: Sequence[str]) -> Picture:
    """The picture of a graph, below some lines of text.

    Args:
        graph: the graph.
        captions: a heading, and smaller lines.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.building import agreement_graph
        >>> from bathyscope.studies.toy_agreement_study.layout import laid_out
        >>> from bathyscope.studies.toy_agreement_study.worked import CODER, NETWORK
        >>> graph = agreement_graph(NETWORK, CODER, *torch.eye(2, dtype=torch.float64))
        >>> picture = laid_out(graph, ["by hand"])
        >>> len(picture.discs), [disc.dashed for disc in picture.discs[2:6]]  # H2 is hollow
        (14, [False, False, True, False])
    """
    rows = max(len(graph.column(name)) for name in COLUMNS)
    height = TOP + PITCH * rows + BOTTOM
    places = _places(graph, rows)
    lines, figures = _edges(graph, places)
    words = [*_captions(captions), *_heads(), *figures]
    discs = []
    for column in COLUMNS:
        nodes = graph.column(column)
        most = max(value for node in nodes for value in (node.clean, node.corrupted, 1e-9))
        for node in nodes:
            discs.append(_disc(graph, node, places[node.name], most))
            words += _of_node(graph, node, places[node.name])
    keys = _legend(graph, height - BOTTOM + 20)
    return Picture(
        2 * LEFT + GAP * (len(COLUMNS) - 1),
        height,
        (*lines, *keys.lines),
        (*discs, *keys.discs),
        (*words, *keys.words),
    )


def _places(graph: Graph, rows: int) -> dict[str, tuple[float, float]]:
    found, middle = {}, TOP + PITCH * rows / 2
    for number, column in enumerate(COLUMNS):
        nodes = graph.column(column)
        pitch = PITCH * (rows / len(nodes)) ** 0.5  # shorter columns are looser, so that edges are less steep
        for row, node in enumerate(nodes):
            found[node.name] = (LEFT + GAP * number, middle + pitch * (row - (len(nodes) - 1) / 2))
    return found


def _disc(graph: Graph, node: Node, at: tuple[float, float], most: float) -> Disc:
    told = _told(node, node.name)
    if not graph.has_effect(node):
        return Disc(at, RADIUS, "#ffffff", "#ffffff", QUIET if node.activation > 0 else FAINT_LINE, True, told)
    return Disc(at, RADIUS, shade(node.clean / most), shade(node.corrupted / most), INK, False, told)


def _of_node(graph: Graph, node: Node, at: tuple[float, float]) -> Iterator[Words]:
    x, y = at
    effective = graph.has_effect(node)
    ink = INK if effective else QUIET
    yield Words((x, y - RADIUS - 10), node.name, 14, ink, bold=True)
    if node.activation > 0:
        yield Words((x - RADIUS * 0.49, y), short(node.clean), 10.5, ink)
        yield Words((x + RADIUS * 0.49, y), short(node.corrupted), 10.5, ink)
    else:
        yield Words(at, "silent", 10.5, QUIET)
    if node.activation > 0:
        yield Words((x, y + RADIUS + 11), signed(node.effect), 13, _colour(node.effect) if effective else QUIET, True)


def _colour(effect: float) -> str:
    return UP if effect > 0 else DOWN


def short(value: float) -> str:
    """A number in the few letters that a half of a disc has room for.

    Example:
        >>> from bathyscope.studies.toy_agreement_study.layout import short
        >>> short(0.25), short(1.5), short(12.34), short(0)
        ('.25', '1.5', '12', '0')
    """
    if 0 < abs(value) < 0.005:
        return "<.01"
    if abs(value) < 0.995:
        return f"{value:.2f}".replace("0.", ".", 1).replace("-", "\N{MINUS SIGN}") if value else "0"
    return f"{value:.1f}".replace("-", "\N{MINUS SIGN}") if abs(value) < 10 else f"{value:.0f}"


def _told(part: Node | Edge, name: str) -> str:
    closed = "" if part.closed_form is None else f"\nclosed form {part.closed_form:+.4g}"
    return (
        f"{name}\nactivation {part.clean:.4g} clean, {part.corrupted:.4g} corrupted\neffect {part.effect:+.4g}"
        f"\ngradient {part.attribution:+.4g}\nintegrated gradients {part.integrated:+.4g}{closed}"
    )


def _edges(graph: Graph, places: dict[str, tuple[float, float]]) -> tuple[list[Line], list[Words]]:
    """Edges, those without effect below the others, and their figures where there is most room."""
    largest = max(abs(edge.effect) for edge in graph.edges) or 1.0
    faint, lines, effects = [], [], []
    for edge in sorted(graph.edges, key=lambda edge: abs(edge.effect)):
        (x, y), (to_x, to_y) = places[edge.source], places[edge.target]
        ends = (x + RADIUS - 5, y), (to_x - RADIUS + 5, to_y)  # the discs cover the ends, which are cut straight
        told = _told(edge, f"{edge.source} to {edge.target}")
        if graph.has_effect(edge):
            width = max(NARROWEST, WIDEST * abs(edge.effect) / largest)
            lines.append(Line(*ends, _colour(edge.effect), width, edge.effect < 0, told))
            effects.append(edge.effect)
        elif edge.activation > 0:
            faint.append(Line(*ends, FAINT_LINE, 0.9, told=told))
    return [*faint, *lines], list(_figures(lines, effects))


SHARES: Final = tuple(share / 40 for share in (20, 15, 25, 10, 30, 12, 28, 17, 23, 8, 32, 6, 34, 5, 35))
"""Places along an edge that its figure may take, the middle first."""


def _figures(lines: Sequence[Line], effects: Sequence[float]) -> Iterator[Words]:
    """A figure an edge, the largest first, each where it covers least of other figures and of other edges."""
    taken: list[Words] = []
    for line, effect in sorted(zip(lines, effects, strict=True), key=lambda one: -abs(one[1])):
        choices = [Words(line.at(s), signed(effect), 12, _colour(effect), True, boxed=True) for s in SHARES]
        others = [other for other in lines if other is not line]
        best = min(choices, key=lambda one: (sum(overlap(one, o) for o in taken), sum(_under(one, o) for o in others)))
        taken.append(best)
    yield from taken


def overlap(first: Words, second: Words) -> bool:
    """Whether two lines of text cover one another."""
    left, top, right, bottom = first.box()
    other_left, other_top, other_right, other_bottom = second.box()
    return left < other_right and other_left < right and top < other_bottom and other_top < bottom


def _under(words: Words, line: Line) -> bool:
    """Whether a line goes on below words: at the text's left, middle or right it is within its height."""
    left, top, right, bottom = words.box()
    (x, y), (to_x, to_y) = line.start, line.end
    heights = [y + (to_y - y) * (at - x) / (to_x - x) for at in (left, (left + right) / 2, right) if x <= at <= to_x]
    return any(top <= height <= bottom for height in heights)


def _captions(captions: Sequence[str]) -> Iterator[Words]:
    for number, caption in enumerate(captions):
        size = 13 if number else 18
        yield Words(
            (LEFT - RADIUS - 30, 28 + 22 * number + (4 if number else 0)), caption, size, bold=not number, start=True
        )


def _heads() -> Iterator[Words]:
    for number, column in enumerate(COLUMNS):
        yield Words((LEFT + GAP * number, TOP - 34), column, 14, QUIET, bold=True)


def _legend(graph: Graph, top: float) -> Picture:
    """What widths, colours and fills mean, in two lines below the graph."""
    first, second, third = (LEFT - RADIUS + GAP * shift for shift in (0, 0.92, 2.05))
    below = top + 44
    hidden = sum(not graph.has_effect(edge) for edge in graph.edges)
    told = {
        (first, top): "raises the metric",
        (second, top): "lowers it; width: size of effect",
        (third, top): f"under {FAINT:.0%} of the total ({hidden} edges)",
        (first, below): "activation, clean | corrupted",
        (second, below): "active, yet without effect",
        (third, below): "figures: effect by exact patch",
    }
    words = [Words((x + 62, y), text, start=True) for (x, y), text in told.items()]
    lines = [
        Line((first, top), (first + 48, top), UP, 6),
        Line((second, top), (second + 48, top), DOWN, 6, True),
        Line((third, top), (third + 48, top), FAINT_LINE, 1.5),
    ]
    discs = [
        Disc((first + 24, below), 15, shade(0.9), shade(0.2), INK),
        Disc((second + 24, below), 15, "#ffffff", "#ffffff", QUIET, True),
    ]
    sample = Words((third + 24, below), signed(2.5), 12, UP, True)
    return Picture(0, 0, tuple(lines), tuple(discs), (*words, sample))
