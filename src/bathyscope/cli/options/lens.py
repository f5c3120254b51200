"""Options of `bathyscope lens`: which lens, and what only some of them take."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.lenses import CANDIDATES, lens_name
from bathyscope.cli.options.read import READ
from bathyscope.cli.options.show import SHOW

LENS = "What only some lenses take"

LensName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        callback=lens_name,
        show_default=False,
        help="Which lens, such as logit-lens; a word of its name is enough, such as logit.",
    ),
]
LensText = Annotated[
    str,
    typer.Argument(
        metavar="TEXT",
        callback=readable,
        show_default=False,
        help='What the model reads, such as "The capital of France is"; for embedding-space a place whose weights '
        "are read, such as mlp_post.20 or z.20.3.",
    ),
]
LensAt = Annotated[
    str | None,
    typer.Option(
        metavar="all|last|INDEX|TEXT",
        callback=readable,
        show_default="all",
        help="Which token to look into: --at 3 is the fourth, --at last the last, --at Princess the last token of "
        "that text. One token is shown with all its candidates.",
        rich_help_panel=READ,
    ),
]
LensTop = Annotated[
    int | None,
    typer.Option(
        "--top",
        metavar="K",
        min=1,
        show_default=str(CANDIDATES),
        help="How many of the likeliest tokens are kept, such as --top 10.",
        rich_help_panel=SHOW,
    ),
]
Fitted = Annotated[
    Path | None,
    typer.Option(
        "--mapping",
        metavar="FILE",
        help="What bathyscope mapping fit wrote for this lens, such as --mapping tuned.safetensors. tuned-lens, "
        "jacobian-lens, linear-shortcut and attribute-lens need one; future-lens may have one.",
        rich_help_panel=LENS,
    ),
]
To = Annotated[
    int | None,
    typer.Option(
        "--to",
        metavar="N",
        show_default="the last",
        help="linear-shortcut: the layer that is jumped to, such as --to 20.",
        rich_help_panel=LENS,
    ),
]
Ahead = Annotated[
    int | None,
    typer.Option(
        "--ahead",
        metavar="N",
        show_default="4",
        help="future-lens: how many tokens ahead, such as --ahead 2.",
        rich_help_panel=LENS,
    ),
]
SelfieTokens = Annotated[
    int | None,
    typer.Option(
        "--new-tokens",
        metavar="N",
        show_default="20",
        help="selfie: how many tokens the model may write, such as --new-tokens 8.",
        rich_help_panel=LENS,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TEXT",
        callback=readable,
        show_default="the likeliest",
        help='backward-lens: the next token that is pushed for, such as --token " Rome" (with its space).',
        rich_help_panel=LENS,
    ),
]
Units = Annotated[
    str | None,
    typer.Option(
        "--units",
        metavar="0-15",
        callback=readable,
        show_default="the first 16",
        help="embedding-space: which neurons, or which numbers of a head, such as --units 3,7 or --units 100-120.",
        rich_help_panel=LENS,
    ),
]
Suppressed = Annotated[
    bool,
    typer.Option(
        "--suppressed",
        metavar="",
        help="embedding-space: with --suppressed, what a unit speaks against instead of what it promotes.",
        rich_help_panel=LENS,
    ),
]
