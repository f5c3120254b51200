"""Panel "Output": what is printed, written and kept, and what that may cost."""

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = "Output"

AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        metavar="",
        help="Print one JSON object instead of a table, for another program.",
        rich_help_panel=OUTPUT,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also write a file: --out diana.json to compute with, --out diana.html to look at.",
        rich_help_panel=OUTPUT,
    ),
]
Explain = Annotated[
    bool,
    typer.Option(
        "--explain",
        metavar="",
        help="With --explain, say on stderr before running what will be run and what each saving saves.",
        rich_help_panel=OUTPUT,
    ),
]
Stored = Annotated[
    bool,
    typer.Option(
        "--store/--no-store",
        metavar="",
        help="--store keeps finished cells, so that none is computed twice (see bathyscope runs); --no-store does not.",
        rich_help_panel=OUTPUT,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        metavar="MB",
        min=1,
        show_default="2048",
        help="How much memory a batch may take above the model, such as --memory 256; less means more batches.",
        rich_help_panel=OUTPUT,
    ),
]
