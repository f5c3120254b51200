"""The options of `bathyscope study entity-resolution` that no other command has."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.options.study import FITTED, MEASURE

Entities = Annotated[
    int,
    typer.Option(
        "--entities",
        metavar="N",
        min=4,
        help="How many entities are described, such as --entities 138, which is all of the project's own; fewer are "
        "drawn by the seed, of each type its share.",
        rich_help_panel=MEASURE,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        show_default="the project's own entities",
        help='Entities of your own, such as --file people.json: a list of {"name": ..., "type": ..., '
        '"description": ...}.',
        rich_help_panel=MEASURE,
    ),
]
NewTokens = Annotated[
    int,
    typer.Option(
        "--new-tokens",
        metavar="N",
        min=1,
        help="Of how many tokens a description is at most, such as --new-tokens 20; the time goes with it.",
        rich_help_panel=MEASURE,
    ),
]
TunedLens = Annotated[
    Path | None,
    typer.Option(
        "--tuned-lens",
        metavar="MAP",
        show_default="not measured",
        help="A lens to stand beside, which bathyscope mapping fit wrote, such as --tuned-lens tuned.safetensors.",
        rich_help_panel=FITTED,
    ),
]
