"""Panel "What to measure": the options of `bathyscope study attribute-extraction` and of `multihop`."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.study import FITTED, MEASURE

Relations = Annotated[
    list[str] | None,
    typer.Option(
        "--relation",
        metavar="NAME|FILE",
        show_default="the project's own",
        help="Which facts to ask about: --relation capitals.json (the public relation format) or a table of the "
        "project's own, --relation country-capital; it may be given several times.",
        rich_help_panel=MEASURE,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="all|3,7|0-10",
        callback=readable,
        show_default="ten, many of them early",
        help="After which layers to read, such as --layers 0-10, or --layers all. They count from 0; -1 (or embed) is "
        "the embedding.",
        rich_help_panel=MEASURE,
    ),
]
TargetLayers = Annotated[
    str | None,
    typer.Option(
        "--target-layers",
        metavar="all|3,7|0-10",
        callback=readable,
        show_default="as --layers",
        help="After which layers to write, such as --target-layers 0-5.",
        rich_help_panel=MEASURE,
    ),
]
Pairs = Annotated[
    str,
    typer.Option(
        "--pairs",
        metavar="N|all",
        callback=readable,
        help="At most so many pairs of a relation, drawn by the seed, such as --pairs 100 or --pairs all.",
        rich_help_panel=MEASURE,
    ),
]
Contexts = Annotated[
    int,
    typer.Option(
        "--contexts",
        metavar="N",
        min=1,
        help="In how many sentences each subject is read, such as --contexts 5, as the paper has it.",
        rich_help_panel=MEASURE,
    ),
]
NewTokens = Annotated[
    int,
    typer.Option(
        "--new-tokens",
        metavar="N",
        min=1,
        help="How many tokens the model may write, such as --new-tokens 20, as the paper has it.",
        rich_help_panel=MEASURE,
    ),
]
Folds = Annotated[
    int,
    typer.Option(
        "--folds",
        metavar="N",
        min=2,
        help="Folds of the probe's cross-validation, by subject, such as --folds 5.",
        rich_help_panel=MEASURE,
    ),
]
TopTokens = Annotated[
    int,
    typer.Option(
        "--top",
        metavar="N",
        min=1,
        help="A lens has an attribute if its first token is among so many, such as --top 1.",
        rich_help_panel=MEASURE,
    ),
]
TunedLens = Annotated[
    Path | None,
    typer.Option(
        "--tuned-lens",
        metavar="MAP",
        show_default="not measured",
        help="What bathyscope mapping fit --method tuned-lens wrote, such as --tuned-lens tuned.safetensors.",
        rich_help_panel=FITTED,
    ),
]
