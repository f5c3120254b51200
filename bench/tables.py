"""What was found, as tables that can be pasted into a Markdown page."""

from collections.abc import Iterable
from typing import Any

from measure import Check, Part, Row
from rich import box
from rich.console import Console
from rich.table import Table


def show(console: Console, part: Part, *, quick: bool) -> None:
    """One part: its table, its promises, its remarks."""
    console.print(f"\n### {part.title}\n")
    table(console, ["", "seconds", "first run", "times", "compared with", ""], map(_row, part.rows))
    if part.checks:
        console.print()
        show_checks(console, part.checks, quick=quick)
    if part.remarks:
        console.print()
    for remark in part.remarks:
        console.print(f"* {remark}")


def show_checks(console: Console, checks: Iterable[Check], *, quick: bool) -> None:
    """Promises beside what was measured."""
    table(console, ["promise", "measured", "wanted", ""], (_check(check, quick) for check in checks))


def show_machine(console: Console, facts: dict[str, Any]) -> None:
    """Where and with what it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    console.print(
        f"{facts['date']}, {facts['processor']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"{facts['torch']['capability']}{_load(facts)}; {facts['model']}; {versions}"
        + ("\n\nA quick run: a few cells, no figures to quote." if facts["quick"] else "")
    )


def _load(facts: dict[str, Any]) -> str:
    """How busy the machine was before; other people's work makes every figure worse."""
    return f", load {facts['load_before'][0]:.1f} before" if facts["load_before"] else ""


def table(console: Console, headings: list[str], rows: Iterable[list[str]]) -> None:
    """Rows below headings, in Markdown."""
    grid = Table(*headings, box=box.MARKDOWN, header_style="")
    for row in rows:
        grid.add_row(*row)
    with console.capture() as drawn:
        console.print(grid)
    # The box of Markdown has an empty edge above and below.
    console.print("\n".join(line for line in drawn.get().splitlines() if line.strip()))


def _row(row: Row) -> list[str]:
    times = "" if row.ratio is None else f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}"
    return [row.what, _seconds(row.median), _seconds(row.cold), times, row.versus, row.note]


def _check(check: Check, quick: bool) -> list[str]:
    value = "" if check.value is None else f"{check.value:.3g}"
    return [
        check.what,
        value,
        f"{'at least' if check.at_least else 'at most'} {check.wanted:g}",
        check.verdict(quick=quick),
    ]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"
