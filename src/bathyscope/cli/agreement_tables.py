"""Tables of the agreement study in the terminal: circuits and what they are compared with, then the features."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bathyscope.cli import circuit_tables, terminal

if TYPE_CHECKING:
    from bathyscope.studies import AgreementResult


def show(result: "AgreementResult", console: Console) -> None:
    """Print circuits, sums, features, and how to read them."""
    for caption in result.found.captions():
        console.print(terminal.cell(caption, wrap=True))
    console.print(circuit_tables.tried(result.records, first="basis"))
    circuit_tables.show_parts(result.found, console)
    for line in result.notes:
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)
