"""Heat maps: what a lens found, in the terminal, layers upwards and tokens across. Knows results, not models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.cli.lenses import LENSES
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.lens_result import LensCell, LensResult

RAMP: Final = (
    ("#5f005f", "#ffffff"),
    ("#5f00af", "#ffffff"),
    ("#005f87", "#ffffff"),
    ("#008787", "#000000"),
    ("#00af87", "#000000"),
    ("#5fd75f", "#000000"),
    ("#d7d75f", "#000000"),
    ("#ffff5f", "#000000"),
)
"""Background and text from 0 to 1: from purple over blue and green to yellow, each brighter than the one before, so
that it is read without telling hues apart too. All are colours of the 256 that most terminals have."""

PERCENT: Final = len(" 100%")
NARROWEST, NARROWEST_TEXT = 12, 24
"""Columns of a cell with its percent, and with a whole text: what is narrower says nothing."""
WIDEST: Final = 20
"""Columns of a row's name."""


@dataclass(frozen=True)
class Square:
    """One cell of a heat map.

    Args:
        text: what stands in it.
        heat: its colour from 0 to 1, or None for none.
        percent: whether the heat is printed, too.
    """

    text: str
    heat: float | None
    percent: bool = True


@dataclass(frozen=True)
class _View:
    """A lens's result as rows and columns.

    Args:
        corner: what the rows are.
        heads: names of the columns.
        rows: for each row's name a square for each column.
        hidden: how many candidates of each cell are not shown.
    """

    corner: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Square | None, ...]], ...]
    hidden: int

    @classmethod
    def of(cls, result: "LensResult") -> Self:
        """Layers up and tokens across; where there is one token, or one layer, its candidates across."""
        cells = {(cell.layer, cell.position): cell for cell in result.cells}
        layers, positions = result.layers[::-1], result.positions
        most = max(len(cell.candidates) for cell in result.cells)
        weights = "units" in LENSES[result.lens].takes
        names = {
            position: str(position) if weights else f"{position} {_shown(token)}"
            for position, token in positions.items()
        }
        if most and len(positions) == 1:
            (position,) = positions
            rows = {_layer(layer): _ranked(cells.get((layer, position)), most) for layer in layers}
            return cls("layer", _ordinals(most), tuple(rows.items()), 0)
        if most and len(layers) == 1:
            rows = {names[position]: _ranked(cells.get((layers[0], position)), most) for position in positions}
            return cls("unit" if weights else "token", _ordinals(most), tuple(rows.items()), 0)
        rows = {
            _layer(layer): tuple(_square(cells.get((layer, position))) for position in positions) for layer in layers
        }
        return cls("layer", tuple(names.values()), tuple(rows.items()), max(0, most - 1))

    @property
    def squares(self) -> tuple[Square, ...]:
        """All there are."""
        return tuple(square for _, squares in self.rows for square in squares if square is not None)

    @property
    def percent(self) -> bool:
        """Whether the squares have percents."""
        return any(square.percent for square in self.squares)

    @property
    def coloured(self) -> bool:
        """Whether the squares have colours."""
        return any(square.heat is not None for square in self.squares)

    def natural_width(self) -> int:
        """How wide a column would be if nothing were cut."""
        heads = max(map(cell_len, self.heads))
        return max(
            heads,
            *(cell_len(one.text) + (PERCENT if one.heat is not None and one.percent else 0) for one in self.squares),
        )


def show(result: "LensResult", console: Console) -> None:
    """Print what was read, then a heat map, and one more where a terminal has not room for all columns."""
    view = _View.of(result)
    for line in _about(result):
        console.print(terminal.cell(line, wrap=True))
    longest = max(len(view.corner), *(cell_len(name) for name, _ in view.rows))
    label = min(longest, WIDEST)
    room, narrowest = console.width - label, NARROWEST if view.percent else NARROWEST_TEXT
    tables = list(fitting(len(view.heads), room, narrowest))
    natural = view.natural_width()
    width = max(1, min(natural, room // max(map(len, tables)) - 1))
    for columns in tables:
        console.print()
        print_row(console, label, view.corner, [Text(view.heads[column], "bold") for column in columns], width)
        for name, squares in view.rows:
            print_row(console, label, name, [_painted(squares[column], width) for column in columns], width)
    console.print()
    for line in _legend(result, view, console, cut=width < natural or label < longest):
        console.print(line, no_wrap=False)


def print_row(console: Console, label: int, name: str, cells: Sequence[Text], width: int) -> None:
    """Print a row of a map: its name in so many columns, then cells of one width."""
    line = Text(name, "bold")
    line.truncate(label, overflow="ellipsis")
    line.align("right" if name.isdecimal() else "left", label)  # numbers of layers stand below one another
    for cell in cells:
        cell.truncate(width, overflow="ellipsis", pad=True)
        line.append(" ").append_text(cell)
    if not str(cells[-1].style).count(" on "):
        line.rstrip()
    console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _painted(square: Square | None, width: int) -> Text:
    """A square of one width, its percent at the right."""
    if square is None:
        return Text("")
    if square.heat is None:
        return Text(square.text)
    style = "{1} on {0}".format(*RAMP[_step(square.heat)])
    if not square.percent:
        return Text(square.text, style)
    text = Text(square.text, style)
    text.truncate(max(0, width - PERCENT), overflow="ellipsis", pad=True)
    return text.append(f"{square.heat:>{PERCENT}.0%}")


def _step(heat: float) -> int:
    return min(int(max(0.0, heat) * len(RAMP)), len(RAMP) - 1)


def _about(result: "LensResult") -> Iterator[str]:
    model, lens = result.provenance["models"][0]["model"], LENSES[result.lens]
    weights = "units" in lens.takes
    yield f"{result.lens}: {result.text} of {model}" if weights else f"{result.lens}: {model} reads {result.text!r}"
    yield f"Each cell: {lens.shows}."


def _legend(result: "LensResult", view: _View, console: Console, *, cut: bool) -> Iterator[Text]:
    if console.color_system and not console.no_color and view.coloured:
        scale = Text("probability " if view.percent else "relevancy ")
        for step, (background, text) in enumerate(RAMP):
            scale.append(f" {step / len(RAMP):>3.0%} ", f"{text} on {background}")
        yield scale.append(" to 100%")
    notes = ["Layers count from 0; embed is what comes before them."] if view.corner == "layer" else []
    if view.coloured and not view.percent:
        notes.append("Relevancy is by how much the vector changed the probability of the text's tokens, on average.")
    if view.hidden:
        others = "--at INDEX, --json and --out" if "at" in LENSES[result.lens].takes else "--json and --out"
        notes.append(f"Only the likeliest of {view.hidden + 1} tokens is shown; {others} have all.")
    if cut:
        notes.append("Texts are cut to fit; --json and --out keep them whole.")
    if notes:
        yield Text(" ".join(notes), "dim")


def _ranked(cell: "LensCell | None", most: int) -> tuple[Square | None, ...]:
    found = [] if cell is None else [Square(_shown(one.token), one.probability) for one in cell.candidates]
    return (*found, *[None] * (most - len(found)))


def _square(cell: "LensCell | None") -> Square | None:
    if cell is None:
        return None
    if cell.probability is not None:
        return Square(_shown(cell.text), cell.probability)
    relevancy = sum(cell.relevancy) / len(cell.relevancy) if cell.relevancy else None
    return Square(_shown(cell.text), relevancy, percent=False)


def _shown(token: str) -> str:
    """A token without the space that most begin with; one that is nothing but spaces shows them."""
    shown = terminal.clean(token.strip(" "))
    return shown if shown.strip() else "␣" * len(token) or "(nothing)"


def _layer(layer: int) -> str:
    return "embed" if layer == EMBEDDING_LAYER else str(layer)


def _ordinals(most: int) -> tuple[str, ...]:
    return tuple(f"#{rank}" for rank in range(1, most + 1))


def fitting(count: int, room: int, narrowest: int) -> Iterator[range]:
    """The columns, as many at a time as a terminal has room for."""
    at_once = max(1, room // (narrowest + 1))
    tables = -(-count // at_once)
    for index in range(tables):  # of even width, so that no table has one column left over
        yield range(count * index // tables, count * (index + 1) // tables)
