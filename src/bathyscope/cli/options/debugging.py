"""The option that every command has, and what `main` remembers of it."""

import logging
from dataclasses import dataclass
from typing import Annotated

import typer

from bathyscope.cli.options.output import OUTPUT


@dataclass
class Session:
    """What `main` has to know of the options after a command has failed."""

    debug: bool = False


def remember_debug(context: typer.Context, wanted: bool) -> None:
    """Have `main` print tracebacks, and the log of what Bathyscope does."""
    if wanted:
        context.ensure_object(Session).debug = True
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("bathyscope").setLevel(logging.DEBUG)


Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        metavar="",
        callback=remember_debug,
        help="If something fails, print the traceback as well.",
        rich_help_panel=OUTPUT,
    ),
]
