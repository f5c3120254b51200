"""A finished result on its way out: to a file, to another program, to a person."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bathyscope.cli import heatmaps, ladders, terminal

if TYPE_CHECKING:
    from bathyscope.lens_result import LensResult
    from bathyscope.patchscope_result import PatchscopeResult


def show_or_save(result: "PatchscopeResult | LensResult", *, as_json: bool, out: Path | None) -> None:
    """Save where a file was asked for, then print JSON or a table.

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
            _show(result)


def _show(result: "PatchscopeResult | LensResult") -> None:
    from bathyscope.lens_result import LensResult

    if isinstance(result, LensResult):
        heatmaps.show(result, terminal.out())
    else:
        ladders.show(result, terminal.out())
