"""Pictures: lines, discs and words at their places. Knows no way of drawing: `svg` and `plots` draw what is here.

Lengths are pixels, from the upper left corner. Colours are of the set by Okabe and Ito, which is made for every kind
of colour vision; what is negative is dashed besides, so that it can be told in print.
"""

from dataclasses import dataclass
from typing import Final

UP, DOWN, QUIET, INK, FAINT_LINE = "#0072b2", "#d55e00", "#8a949e", "#1b2733", "#d5dbe1"
"""More of the metric, less of it, no effect; text; an edge without effect."""
FULL: Final = (0, 158, 115)
"""The fill of the most active node of a column; white is not active."""


@dataclass(frozen=True)
class Words:
    """A line of text around a point, which is its middle unless it is a `start`."""

    at: tuple[float, float]
    text: str
    size: float = 13
    colour: str = INK
    bold: bool = False
    start: bool = False
    boxed: bool = False

    def box(self) -> tuple[float, float, float, float]:
        """About what it covers: left, top, right, bottom."""
        wide = len(self.text) * self.size * (0.68 if self.bold else 0.62)
        left = self.at[0] if self.start else self.at[0] - wide / 2
        return left, self.at[1] - self.size * 0.6, left + wide, self.at[1] + self.size * 0.6


@dataclass(frozen=True)
class Line:
    """From one point to another; `told` is what a pointer that rests on it shows."""

    start: tuple[float, float]
    end: tuple[float, float]
    colour: str
    width: float
    dashed: bool = False
    told: str = ""

    def at(self, share: float) -> tuple[float, float]:
        """A point on it, from 0 at its start to 1."""
        (x, y), (to_x, to_y) = self.start, self.end
        return x + share * (to_x - x), y + share * (to_y - y)


def dashes_of(line: Line) -> tuple[float, float]:
    """How long a dash and a gap of a line are, if it is dashed."""
    return 8 + line.width, 3 + line.width / 3


@dataclass(frozen=True)
class Disc:
    """A node: its left half filled for the clean run and its right half for the corrupted one."""

    at: tuple[float, float]
    radius: float
    left: str
    right: str
    rim: str
    dashed: bool = False
    told: str = ""


@dataclass(frozen=True)
class Picture:
    """Lines, then discs over them, then words."""

    width: float
    height: float
    lines: tuple[Line, ...]
    discs: tuple[Disc, ...]
    words: tuple[Words, ...]


def plain(text: str) -> str:
    r"""A text on one line, with what nobody sees, and half characters that no file can hold, spelled out.

    Example:
        >>> from bathyscope.pictures import plain
        >>> print(plain("two" + chr(10) + "lines" + chr(0xD800)))
        two\nlines\ud800
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shade(share: float) -> str:
    """White to full, for a share from 0 to 1; what is negative is white.

    Example:
        >>> from bathyscope.pictures import shade
        >>> shade(0), shade(1)
        ('#ffffff', '#009e73')
    """
    share = min(1.0, max(0.0, share))
    return "#" + "".join(f"{round(255 + share * (full - 255)):02x}" for full in FULL)


def signed(value: float) -> str:
    """An effect as it is written beside what has it.

    Example:
        >>> from bathyscope.pictures import signed
        >>> signed(2), signed(-0.25) == "\N{MINUS SIGN}0.25", signed(-1e-9)
        ('+2.00', True, '0')
    """
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}") if abs(value) >= 0.005 else "0"
