"""The options of `bathyscope study cross-model` that no other command has."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.model import MODEL
from bathyscope.cli.options.output import OUTPUT
from bathyscope.cli.options.study import MEASURE

MAPPED = "Mapping"

Pair = Annotated[
    str | None,
    typer.Option(
        "--pair",
        metavar="rotated|sliced|truncated",
        callback=readable,
        help="Instead of another model, one that is made of the model that is read: --pair rotated (the same in "
        "another basis), --pair sliced (narrower; it is fitted for some minutes; --pair sliced:441 says how wide) or "
        "--pair truncated (its last blocks removed; --pair truncated:24 says how many stay).",
        rich_help_panel=MODEL,
    ),
]
Keep = Annotated[
    Path | None,
    typer.Option(
        "--keep",
        metavar="FOLDER",
        help="Keep the model that was made, such as --keep ./sliced, for other commands to open.",
        rich_help_panel=OUTPUT,
    ),
]
Mapping = Annotated[
    str | None,
    typer.Option(
        "--mapping",
        metavar="identity|scale:X|FILE",
        callback=readable,
        show_default="fitted on the rest of the text",
        help="What is done to a vector on its way, such as --mapping other.safetensors, which bathyscope mapping fit "
        "wrote, or --mapping identity between models of one width.",
        rich_help_panel=MAPPED,
    ),
]
FitPositions = Annotated[
    int | None,
    typer.Option(
        "--fit-positions",
        metavar="N",
        min=2,
        show_default="20,000",
        help="On how many positions a mapping is fitted here, such as --fit-positions 50000.",
        rich_help_panel=MAPPED,
    ),
]
Positions = Annotated[
    int,
    typer.Option(
        "--positions",
        metavar="N",
        min=2,
        help="At how many token positions to measure, such as --positions 2000.",
        rich_help_panel=MEASURE,
    ),
]
SourceLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="all|embed|3|3,7|0-10",
        callback=readable,
        show_default="every fifth, or those of the mapping",
        help="After which layers of the one model to read, such as --layers 5,10,15.",
        rich_help_panel=MEASURE,
    ),
]
TargetLayers = Annotated[
    str | None,
    typer.Option(
        "--target-layers",
        metavar="all|embed|3|3,7|0-10",
        callback=readable,
        show_default="every fifth, or those of the mapping",
        help="After which layers of the other to write, such as --target-layers 5,10,15.",
        rich_help_panel=MEASURE,
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="TEXT",
        callback=lambda names: names and [readable(name) for name in names],
        show_default="three names",
        help='What is described in words, such as --name "New York City"; it may be given several times.',
        rich_help_panel=MEASURE,
    ),
]
Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE",
        help="Also draw heat maps, layers by layers, such as --plot study.png or --plot study.svg.",
        rich_help_panel=OUTPUT,
    ),
]
