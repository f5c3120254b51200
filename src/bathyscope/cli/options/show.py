"""Panel "What to show": what is taken from the model that was written to."""

from typing import Annotated

import typer

from bathyscope.cli.choices import CANDIDATES, NEW_TOKENS

SHOW = "What to show"

NewTokens = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        show_default=str(NEW_TOKENS),
        help="How many tokens the model may write, such as --new-tokens 8.",
        rich_help_panel=SHOW,
    ),
]
NextToken = Annotated[
    bool,
    typer.Option(
        "--next-token",
        metavar="",
        help="Instead of a text, show the likeliest next tokens and their probabilities.",
        rich_help_panel=SHOW,
    ),
]
Top = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        show_default=str(CANDIDATES),
        help="How many next tokens, such as --top 5; it means --next-token.",
        rich_help_panel=SHOW,
    ),
]
