"""A picture as SVG that stands in a page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Iterator
from html import escape

from bathyscope.pictures import Disc, Line, Picture, Words, dashes_of

FONT = "DejaVu Sans, Verdana, sans-serif"


def svg(picture: Picture) -> str:
    """The picture as one element; what a pointer rests on tells its figures.

    Example:
        >>> from bathyscope.pictures import Picture, Words
        >>> from bathyscope.svg import svg
        >>> "a &lt; b" in svg(Picture(100, 50, (), (), (Words((50, 25), "a < b"),)))
        True
    """
    parts = [
        *map(_line, picture.lines),
        *map(_disc, picture.discs),
        *(part for one in picture.words for part in _words(one)),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {picture.width:g} {picture.height:g}" '
        f'width="{picture.width:g}" font-family="{FONT}" style="max-width: 100%; height: auto">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(parts)}</svg>'
    )


def _line(line: Line) -> str:
    (x, y), (to_x, to_y) = line.start, line.end
    dashes = f' stroke-dasharray="{dashes_of(line)[0]:g} {dashes_of(line)[1]:g}"' if line.dashed else ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{line.colour}" '
        f'stroke-width="{line.width:.2f}"{dashes}>{_title(line.told)}</line>'
    )


def _disc(disc: Disc) -> str:
    (x, y), r = disc.at, disc.radius
    halves = (
        f'<path d="M{x:.1f} {y - r:.1f} a{r} {r} 0 0 {turn} 0 {2 * r} z" fill="{fill}"/>'
        for turn, fill in ((0, disc.left), (1, disc.right))
    )
    dashes = ' stroke-dasharray="4 3"' if disc.dashed else ""
    rim = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}" fill="none" stroke="{disc.rim}" stroke-width="1.6"{dashes}/>'
    return f"<g>{''.join(halves)}{rim}{_title(disc.told)}</g>"


def _words(words: Words) -> Iterator[str]:
    if words.boxed:
        left, top, right, bottom = words.box()
        yield (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" rx="3" '
            'fill="#ffffff"/>'
        )
    anchor = "start" if words.start else "middle"
    weight = ' font-weight="bold"' if words.bold else ""
    x, y = words.at
    yield (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{words.size:g}" fill="{words.colour}" text-anchor="{anchor}" '
        f'dominant-baseline="central"{weight} pointer-events="none">{escape(words.text)}</text>'
    )


def _title(told: str) -> str:
    return f"<title>{escape(told)}</title>" if told else ""
