"""The options of `bathyscope study tokenization` that no other command has."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.study import MEASURE

Words = Annotated[
    int,
    typer.Option(
        "--words",
        metavar="N",
        min=4,
        help="How many split words are read, such as --words 71, which is all there are; fewer are drawn by the seed.",
        rich_help_panel=MEASURE,
    ),
]
Prompt = Annotated[
    str,
    typer.Option(
        "--prompt",
        metavar="repeat|token-identity",
        callback=readable,
        help="What a piece is written into: words that are each followed by themselves (repeat), or --prompt "
        "token-identity, that of the paper.",
        rich_help_panel=MEASURE,
    ),
]
TargetLayer = Annotated[
    str,
    typer.Option(
        "--target-layer",
        metavar="same|N",
        callback=readable,
        help="After which layer it is written, such as --target-layer 5; the one that was read, unless said.",
        rich_help_panel=MEASURE,
    ),
]
NewTokens = Annotated[
    int,
    typer.Option(
        "--new-tokens",
        metavar="N",
        min=1,
        help="How many tokens are written, such as --new-tokens 8; a word of four pieces needs four.",
        rich_help_panel=MEASURE,
    ),
]
