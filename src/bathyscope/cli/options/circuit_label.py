"""The options of `bathyscope circuit label` alone: how much is read and asked, and what is written."""

from pathlib import Path
from typing import Annotated

import typer

from bathyscope.cli.options.output import OUTPUT
from bathyscope.cli.options.show import SHOW

TOKENS = 50_000
"""Tokens that are read for each site unless said."""

Describe = Annotated[
    bool,
    typer.Option(
        "--describe/--no-describe",
        metavar="",
        help="--describe lets the model describe latents in its own words, too, beside control directions; "
        "--no-describe saves that time.",
        rich_help_panel=SHOW,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default="the circuit's own file",
        help="Where the labelled circuit is written, such as --out labelled.json.",
        rich_help_panel=OUTPUT,
    ),
]
