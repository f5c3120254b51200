"""The options of `bathyscope circuit show` and `convert`: which graph is read, and what is written."""

from pathlib import Path
from typing import Annotated

import typer

CIRCUIT = "Circuit"

File = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="A circuit, a result of study agreement, an attribution graph, or a graph in the public JSON schema.",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Draw it instead: --out circuit.html to explore, or a name that ends in .svg or .png.",
        rich_help_panel=CIRCUIT,
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default="FILE.labels.json, where it is there",
        help="Your own labels and groups, as the page saves them: --labels mine.labels.json.",
        rich_help_panel=CIRCUIT,
    ),
]
Converted = Annotated[
    Path | None,
    typer.Argument(
        metavar="OUT",
        show_default="nothing is written",
        help="A name that ends in .json (the public schema) or .dot (Graphviz); without it FILE is checked.",
    ),
]
Slug = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default="FILE without its ending",
        help="What the graph is called there, such as --slug boats-are.",
        rich_help_panel=CIRCUIT,
    ),
]
