"""Panel "What to fit": the text, the layers and the method of a mapping, and where it is kept."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.fit_request import POSITIONS
from bathyscope.cli.fits import AHEAD, METHODS, SOFT_AHEAD, method_name
from bathyscope.cli.options.texts import column_in

FIT = "What to fit"

Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME",
        callback=method_name,
        help=f"How: {', '.join(METHODS)}; such as --method tuned-lens.",
        rich_help_panel=FIT,
    ),
]
TextFile = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=readable,
        show_default="written by the model itself",
        help="What the models read: --text news.txt (plain text), --text news.jsonl, --text news.parquet, or "
        "--text hf:owner/name:config:split (a data set of the Hugging Face hub). For a relation, lines such as "
        '"The capital of [France] is".',
        rich_help_panel=FIT,
    ),
]
Column = Annotated[str | None, column_in(FIT, show_default="text")]
SourceLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        metavar="LAYERS",
        callback=readable,
        show_default="all, or six of them between models of different depth",
        help="Layers of the source model, such as --layers 0-10 or --layers 5,10,15.",
        rich_help_panel=FIT,
    ),
]
TargetLayers = Annotated[
    str | None,
    typer.Option(
        "--target-layers",
        metavar="same|last|LAYERS",
        callback=readable,
        show_default="last in one model, same between two of one depth, else six of them",
        help="Layers of the target model that each of them is mapped to, such as --target-layers same or "
        "--target-layers 5,10,15.",
        rich_help_panel=FIT,
    ),
]
Positions = Annotated[
    int | None,
    typer.Option(
        "--positions",
        metavar="N",
        min=2,
        show_default=f"{POSITIONS:,}, or what the method needs",
        help="How many token positions are used, such as --positions 5000; fewer than 10 times the width are few.",
        rich_help_panel=FIT,
    ),
]
FitAhead = Annotated[
    int | None,
    typer.Option(
        "--ahead",
        metavar="N",
        min=0,
        show_default=f"{AHEAD}; {SOFT_AHEAD} for soft-prompt",
        help="future-lens and soft-prompt: how many tokens beyond the next one, such as --ahead 2.",
        rich_help_panel=FIT,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="N",
        show_default="the file's own order",
        help="Shuffle the documents, or decide what the model writes: --seed 1.",
        rich_help_panel=FIT,
    ),
]
SavedMap = Annotated[
    Path,
    typer.Option(
        "--out",
        metavar="MAP",
        show_default=False,
        help="The file that the mapping is kept in, such as --out gpt2.safetensors.",
        rich_help_panel=FIT,
    ),
]
