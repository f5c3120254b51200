"""Draws docs/ladder.svg, the picture in the README: `python docs/picture.py`, with the embedded model."""

import io
import re
import shlex
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from bathyscope import cli
from bathyscope.cli import terminal

COMMAND = 'bathyscope patchscope "Diana, Princess of Wales" --layers embed,0-19 --new-tokens 8'
FILE = "ladder.svg"
WIDTH = 88
THEME = TerminalTheme(
    (16, 24, 31),
    (220, 230, 238),
    [
        (16, 24, 31),
        (240, 113, 120),
        (140, 200, 140),
        (230, 190, 110),
        (124, 198, 230),
        (190, 150, 230),
        (110, 205, 200),
        (220, 230, 238),
    ],
)


def draw() -> str:
    """Run the command, and give what it prints as a picture that needs nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(f"$ {COMMAND}", "bold"))
    usual, terminal.out = terminal.out, lambda: console
    try:
        code = cli.main(shlex.split(COMMAND)[1:])
    finally:
        terminal.out = usual
    if code:
        raise SystemExit(code)
    svg = console.export_svg(title="What each layer holds of Diana, Princess of Wales", theme=THEME, unique_id="ladder")
    # rich asks a server for its font; any fixed-width one will do.
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace")
    return re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE)


if __name__ == "__main__":
    (Path(__file__).parent / FILE).write_text(draw(), "utf-8")
