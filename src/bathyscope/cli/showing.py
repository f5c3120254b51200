"""A finished result on its way out: to a file, to another program, to a person."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from bathyscope.cli import heatmaps, ladders, terminal

if TYPE_CHECKING:
    from bathyscope.results import Result


def show_or_save(
    result: "Result", *, as_json: bool, out: Path | None, show: Callable[[Any, Console], None] | None = None
) -> None:
    """Save where a file was asked for, then print JSON or a table.

    Args:
        result: any.
        as_json: whether JSON is printed.
        out: where the result is saved, if it is.
        show: what prints its tables; that of patchscopes and lenses unless given.

    Raises:
        StorageError: the file could not be written; what was found is printed all the same.
    """
    try:
        if out is not None:
            result.save(out)
            terminal.note(f"saved to {out}")
    finally:  # a full disk is no reason to lose what was found
        if as_json:
            typer.echo(result.to_json().encode())
        else:
            (show or _show)(result, terminal.out())


def _show(result: Any, console: Console) -> None:
    from bathyscope.lens_result import LensResult

    if isinstance(result, LensResult):
        heatmaps.show(result, console)
    else:
        ladders.show(result, console)
