"""The terminal: consoles, progress, one-line errors, and text that cannot harm it.

Knows rich. Knows no model and no result: whatever a model wrote is hostile text, and reaches the
terminal only through `clean`.
"""

import io
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from bathyscope.errors import BathyscopeWarning

PIPED_WIDTH = 100
"""Columns of a table that goes to a file or to another program, unless COLUMNS says otherwise."""

JOINERS = "\u200c\u200d"
"""Invisible characters that scripts and emoji need; they cannot reorder or hide text."""


def out() -> Console:
    """The console for what was asked for; made anew, since stdout may be replaced."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without Unicode gets question marks, not an error
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def err() -> Console:
    """The console for progress, notes and errors. Lines are not wrapped: one message is one line."""
    return Console(file=sys.stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def clean(text: str) -> str:
    r"""Text on one line, with nothing in it that a terminal obeys: such characters are spelled out.

    Example:
        >>> from bathyscope.cli.terminal import clean
        >>> print(clean("two" + chr(10) + "lines" + chr(7)))
        two⏎lines\x07
    """
    return "".join(_spelled(character) for character in text)


def _spelled(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return " "
    # Controls, invisible formats such as those that reverse text, lone surrogates, separators of lines.
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in JOINERS:
        return character.encode("unicode_escape").decode()
    return character


def cell(text: str, style: str = "", *, wrap: bool = False) -> Text:
    """A table's text: cleaned, never read as markup, and cut to one line unless it may wrap."""
    return Text(clean(text), style=style, no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")


def grid(*labels: str, texts: Sequence[str]) -> Table:
    """An empty table with a head, in the one look of all tables.

    Args:
        labels: names of the columns that keep their width; they stand on the left.
        texts: names of the columns that share the rest.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in labels:
        table.add_column(cell(name), no_wrap=True)
    for name in texts:
        table.add_column(cell(name))  # rich takes room from columns that may wrap, whatever their cells do
    return table


def natural_width(table: Table) -> int:
    """How wide a table would be if nothing of it were cut or wrapped."""
    console = Console(width=1_000_000)
    return Measurement.get(console, console.options, table).maximum


def may_animate(*, as_json: bool) -> bool:
    """Whether a bar may be drawn: not beside JSON that another program reads."""
    return not as_json or sys.stdout.isatty()


def note(text: str) -> None:
    """A line on stderr."""
    err().print(Text(clean(text)))


def note_lines(text: str) -> None:
    """Several lines on stderr, one below the other."""
    for line in text.splitlines():
        note(line)


def complain(text: str) -> None:
    """What went wrong, as one line on stderr."""
    err().print(Text.assemble(("bathyscope: ", "bold red"), clean(re.sub(r"\s*\n\s*", " ", text))))


class _Rate(ProgressColumn):
    """Cells a second, or whatever is counted."""

    def __init__(self, per_cell: int, unit: str) -> None:
        super().__init__()
        self._per_cell, self._unit = per_cell, unit

    def render(self, task: Task) -> Text:
        """The rate so far, or nothing before there is one."""
        return Text(f"{task.speed / self._per_cell:.1f} {self._unit}/s, left" if task.speed else "")


class Bar:
    """A bar under way, which is told how far things are; and, where it helps, what is going on."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, done: int, total: int) -> None:
        """So much is done, of so much."""
        self._bar.update(self._task, completed=done, total=total)

    def say(self, what: str) -> None:
        """Another description."""
        self._bar.update(self._task, description=clean(what))


@contextmanager
def progress(what: str, *, shown: bool = True, per_cell: int = 0, unit: str = "cells") -> Iterator[Bar]:
    """A bar on stderr that goes away, where a person is looking; it pulses until it is told how much there is.

    Args:
        what: is under way.
        shown: whether there is a bar at all.
        per_cell: steps that make a cell, to tell cells a second and the time left; 0 tells neither.
        unit: what is counted.

    Yields:
        What is called with what is done and what there is to do.
    """
    console = err()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        *((_Rate(per_cell, unit), TimeRemainingColumn(compact=True)) if per_cell else ()),
    )
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not (shown and console.is_terminal)
    ) as bar:
        yield Bar(bar, bar.add_task(clean(what), total=None))


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Have our own warnings, which are about numbers that were asked for, said as a line on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", BathyscopeWarning)
        warnings.showwarning = lambda message, *_: note(f"warning: {message}")
        yield


def quiet_libraries() -> None:
    """Keep what is not about the user's request off the terminal. Called before any of them is imported."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
