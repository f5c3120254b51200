"""The files that a study writes beside what it prints: the result, and pictures of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console

from bathyscope.cli import choices, terminal

if TYPE_CHECKING:
    from bathyscope.studies import StudyResult

RESULTS: Final = (".json", ".html")
PLOTS: Final = (".png", ".svg")
"""What their names end in."""


def check(out: Path | None, plots: Sequence[Path]) -> None:
    """Refuse files that cannot be written, before the work that they are for."""
    asked = [(out, "--out", RESULTS)] if out is not None else []
    for path, option, endings in (*asked, *((plot, "--plot", PLOTS) for plot in plots)):
        choices.check_out(path, *endings, option=option)
        choices.check_writable(path.parent)


def show_or_save(
    result: "StudyResult",
    *,
    as_json: bool,
    out: Path | None,
    plots: Sequence[Path],
    draw: str,
    show: Callable[[Any, Console], None],
) -> None:
    """Save and draw where that was asked for, then print JSON or tables, whatever became of the files.

    Args:
        result: of the study.
        as_json: whether JSON is printed.
        out: where the result is saved, if it is.
        plots: pictures to draw.
        draw: the function of `plots` that draws it, which is imported only where there is something to draw.
        show: what prints its tables.
    """
    try:
        if out is not None:
            result.save(out)
            terminal.note(f"saved to {out}")
        for path in plots:
            from bathyscope import plots as drawing

            getattr(drawing, draw)(result, path)
            terminal.note(f"drawn to {path}")
    finally:
        if as_json:
            typer.echo(result.to_json().encode())
        else:
            show(result, terminal.out())
