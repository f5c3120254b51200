"""Maps of numbers with signs, in the terminal: blue above 0, red below. Knows numbers, not what they are of."""

from collections.abc import Iterable
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.cli.heatmaps import fitting, print_row
from bathyscope.signed_maps import SignedMap, number

ABOVE: Final = (("#87afd7", "#000000"), ("#5f87d7", "#000000"), ("#005fd7", "#ffffff"), ("#0000af", "#ffffff"))
BELOW: Final = (("#d7af87", "#000000"), ("#d7875f", "#000000"), ("#d75f00", "#000000"), ("#af0000", "#ffffff"))
"""Background and text from nearly 0 to the largest; all are colours of the 256 that most terminals have."""

FAINT: Final = 0.05
"""What is a smaller share of the largest number has no colour."""
WIDEST, NARROWEST = 14, 7
"""Columns of a square's head, and of a square."""


def show(maps: Iterable[SignedMap], console: Console) -> None:
    """Print maps, each in as many tables as a terminal needs for its columns."""
    for one in maps:
        console.print()
        console.print(terminal.cell(one.heading, "bold", wrap=True))
        label = max(len(one.corner), *(cell_len(name) for name in one.rows), 1)
        heads = [terminal.clean(head) for head in one.columns]
        shown = [number(value, one.largest) for row in one.rows.values() for value in row if value is not None]
        wanted = max(NARROWEST, *map(len, shown), *(min(WIDEST, cell_len(head)) for head in heads))
        for columns in fitting(len(heads), console.width - label, wanted):
            print_row(console, label, one.corner, [Text(heads[column], "bold") for column in columns], wanted)
            for name, numbers in one.rows.items():
                squares = [_painted(numbers[column], one.largest, wanted) for column in columns]
                print_row(console, label, name, squares, wanted)
    if console.color_system and not console.no_color:
        scale = Text("largest below 0 ")
        for background, text in (*reversed(BELOW), *ABOVE):
            scale.append("   ", f"{text} on {background}")
        console.print(scale.append(" largest above 0"))


def _painted(value: float | None, largest: float, width: int) -> Text:
    if value is None:
        return Text("")
    text = number(value, largest).rjust(width)
    share = abs(value) / largest
    if share < FAINT:
        return Text(text)
    ramp = ABOVE if value > 0 else BELOW
    background, colour = ramp[min(int(share * len(ramp)), len(ramp) - 1)]
    return Text(text, f"{colour} on {background}")
