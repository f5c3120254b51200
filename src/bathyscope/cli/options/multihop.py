"""The options of `bathyscope study multihop` that no other command has."""

from typing import Annotated

import typer

from bathyscope.cli.choices import readable
from bathyscope.cli.options.study import MEASURE

Queries = Annotated[
    str,
    typer.Option(
        "--queries",
        metavar="N|all",
        callback=readable,
        help="How many two-hop queries are asked, drawn by the seed, such as --queries 400 or --queries all.",
        rich_help_panel=MEASURE,
    ),
]
Every = Annotated[
    bool,
    typer.Option(
        "--every",
        metavar="",
        help="With --every, patch queries as well whose hops the model does not answer alone.",
        rich_help_panel=MEASURE,
    ),
]
