"""Panel "What to measure": the options of `bathyscope sae eval`."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.texts import column_in

MEASURE = "What to measure"

Folder = Annotated[
    str,
    typer.Argument(
        metavar="DIR",
        callback=readable,
        show_default=False,
        help="A folder with a coder, a folder of such folders, or hf:owner/name/folder@revision.",
    ),
]
Texts = Annotated[
    list[str],
    typer.Option(
        "--text",
        metavar="FILE",
        show_default=False,
        help="What the model reads: --text news.txt (plain text), --text news.jsonl, --text news.parquet, or "
        "--text hf:owner/name:config:split (a data set of the Hugging Face hub); it may be given several times.",
        rich_help_panel=MEASURE,
    ),
]
Column = Annotated[str, column_in(MEASURE)]
HeldOut = Annotated[
    float | None,
    typer.Option(
        "--held-out",
        metavar="SHARE",
        min=0.001,
        max=0.999,
        show_default="all of it",
        help="Measure on the last share of each file's documents, such as --held-out 0.1: what a coder that was "
        "trained on this text with --held-out 0.1 has not seen.",
        rich_help_panel=MEASURE,
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens",
        metavar="N",
        min=1,
        show_default="all",
        help="Read about so many tokens, spread over the text, such as --tokens 20000.",
        rich_help_panel=MEASURE,
    ),
]
LossTokens = Annotated[
    int,
    typer.Option(
        "--loss-tokens",
        metavar="N",
        min=1,
        help="Take losses from about so many of them, such as --loss-tokens 20000; each coder costs three more runs.",
        rich_help_panel=MEASURE,
    ),
]
Length = Annotated[
    int,
    typer.Option(
        "--length",
        metavar="N",
        min=2,
        help="Tokens of a window, such as --length 64; as long as those that the coder was trained on.",
        rich_help_panel=MEASURE,
    ),
]
