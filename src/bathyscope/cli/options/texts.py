"""Options that name texts: alike in every command that reads some, each in the command's own panel."""

from typing import Any

import typer

from bathyscope.cli.choices import readable


def column_in(panel: str, **more: Any) -> Any:
    """The column of a table that has the texts.

    Args:
        panel: of the help.
        more: what else typer is told.
    """
    return typer.Option(
        "--column",
        metavar="NAME",
        callback=readable,
        help="Where JSON lines or Parquet keep the text, such as --column content.",
        rich_help_panel=panel,
        **more,
    )
