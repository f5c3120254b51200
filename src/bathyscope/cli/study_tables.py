"""Tables of studies in the terminal: layers down, methods across, what is best marked. Knows results, not models."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import NextTokenResult

BEST: Final = "bold green"


def show(result: "NextTokenResult", console: Console) -> None:
    """Print what was measured, the table with its controls, and how to read it."""
    model = result.provenance["models"][0]["model"]
    console.print(terminal.cell(f"{result.heading}: {model}", wrap=True))
    console.print(_table(result))
    for line in _legend(result):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _table(result: "NextTokenResult") -> Table:
    table = terminal.grid("layer", texts=())
    table.padding = (0, 1, 0, 0)  # with heads of two lines, five methods fit into 80 columns
    for method in result.methods:
        table.add_column(Text(method.replace("-", "-\n", 1)), no_wrap=True)
    by_place = {(record["layer"], record["method"]): record for record in result.records}
    for layer in result.layers:
        best = result.best(layer)
        figures = (_figures(by_place[layer, method], best=method in best) for method in result.methods)
        table.add_row(Text("embed" if layer == EMBEDDING_LAYER else str(layer)), *figures)
    controls = {record["method"]: record for record in result.controls}
    if controls:
        table.add_section()
        figures = (_figures(controls[method]) if method in controls else Text("") for method in result.methods)
        table.add_row(Text("unpatched"), *figures, style="dim")
    return table


def _figures(record: Mapping[str, Any], *, best: bool = False) -> Text:
    """A cell such as ".141 (7.8)"; a star tells the best where nothing is bold."""
    shown = f"{record['precision_at_1']:.3f}".removeprefix("0")
    return Text(f"{shown} ({record['surprisal']:.1f}){'*' if best else ''}", BEST if best else "")


def _legend(result: "NextTokenResult") -> Iterator[str]:
    widest = {name: max(_half(record[f"{name}_interval"]) for record in result.records) for name in _MEASURES}
    yield "Each cell: precision at 1, and in brackets the surprisal in nats; * marks the best precision of a layer."
    if result.controls:
        yield "unpatched: what the prompt says with nothing written into it."
    yield from result.notes
    yield (
        f"The widest intervals are \u00b1{widest['precision_at_1']:.3f} and \u00b1{widest['surprisal']:.2f} nats; "
        "--json, --out and --plot have all of them."
    )


_MEASURES: Final = ("precision_at_1", "surprisal")


def _half(interval: list[float]) -> float:
    return (interval[1] - interval[0]) / 2
