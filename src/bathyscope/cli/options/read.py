"""Panel "What to read": the text, and where in it a model is looked into."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable

READ = "What to read"

Text = Annotated[
    str,
    typer.Argument(
        metavar="TEXT",
        callback=readable,
        show_default=False,
        help='What the model reads, such as "Diana, Princess of Wales".',
    ),
]
At = Annotated[
    str,
    typer.Option(
        metavar="last|all|INDEX|TEXT",
        callback=readable,
        help="Which token to look into: --at 3 is the fourth, --at -2 the last but one, --at Princess the last "
        "token of that text, --at all is every token.",
        rich_help_panel=READ,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="all|embed|3|3,7|0-10",
        callback=readable,
        show_default="all",
        help="After which layers to look, such as --layers 0-10 or --layers embed,3,7. They count from 0; "
        "-1 (or embed) is the embedding.",
        rich_help_panel=READ,
    ),
]
