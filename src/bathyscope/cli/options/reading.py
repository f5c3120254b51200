"""Options of `bathyscope sae features` and `bathyscope sae explain`: which coder, latents and text."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.output import OUTPUT
from bathyscope.cli.options.read import READ
from bathyscope.cli.options.show import SHOW
from bathyscope.cli.options.texts import column_in

TOKENS = 200_000
"""Tokens that are read unless said."""
LENGTH = 128
"""Tokens of a window."""

Coder = Annotated[
    str,
    typer.Argument(
        metavar="DIR",
        callback=readable,
        show_default=False,
        help="The folder of a sparse coder, such as coders/resid_post.12.",
    ),
]
LatentText = Annotated[
    str,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=readable,
        show_default=False,
        help="What the model reads: --text news.txt (plain text), --text news.jsonl, --text news.parquet, or "
        "--text hf:owner/name:config:split (a data set of the Hugging Face hub).",
    ),
]
TextColumn = Annotated[str | None, column_in(READ, show_default="text")]
Tokens = Annotated[
    int,
    typer.Option(
        "--tokens",
        metavar="N",
        min=2 * LENGTH,
        help="At most so many tokens of it are read, such as --tokens 50000.",
        rich_help_panel=READ,
    ),
]
Latents = Annotated[
    list[int] | None,
    typer.Option(
        "--latent",
        metavar="N",
        min=0,
        show_default=False,
        help="Show all of one latent, such as --latent 954; may be given again.",
        rich_help_panel=SHOW,
    ),
]
Explained = Annotated[
    list[int],
    typer.Option(
        "--latent",
        metavar="N",
        min=0,
        show_default=False,
        help="Which latent, such as --latent 954; may be given again.",
    ),
]
TopLatents = Annotated[
    int,
    typer.Option(
        "--top", metavar="K", min=1, help="How many latents are listed, such as --top 50.", rich_help_panel=SHOW
    ),
]
Search = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="WORD",
        callback=readable,
        help="List only latents with a text in their rule, promoted tokens or examples, such as --search Paris.",
        rich_help_panel=SHOW,
    ),
]
Html = Annotated[
    Path | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Also write a page of every latent, to search, sort and link to: --html latents.html.",
        rich_help_panel=OUTPUT,
    ),
]
ReadingSeed = Annotated[
    int,
    typer.Option("--seed", metavar="N", help="Of samples and of controls, such as --seed 1.", rich_help_panel=READ),
]
DescriptionTokens = Annotated[
    int,
    typer.Option(
        "--new-tokens",
        metavar="N",
        min=1,
        help="How many tokens the model may write of each latent, such as --new-tokens 8.",
        rich_help_panel=SHOW,
    ),
]
