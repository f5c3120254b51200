"""Tables of circuits in the terminal: those that were tried, what attributions add up to, and features."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult, Faithfulness, Node

MOST_FEATURES = 30


def show(result: "CircuitResult", console: Console) -> None:
    """Print what was tried, sums, features, and how to read them."""
    for caption in result.captions():
        console.print(terminal.cell(caption, wrap=True))
    if result.tried:
        console.print(tried(result.tried))
    show_parts(result, console)
    for line in result.notes:
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def show_parts(result: "CircuitResult", console: Console) -> None:
    """Print sums and features."""
    if result.sums:
        console.print(_sums(result))
    if ranked := [one for one in result.sums if "effects" in one]:
        console.print(_ranks(ranked))
    console.print(features(result.nodes[:MOST_FEATURES]))
    if (rest := len(result.nodes) - MOST_FEATURES) > 0:
        console.print(Text(f"and {rest} more features: all are in --json and --out", "dim"))


def tried(records: Sequence[Any], *, first: str = "errors") -> Table:
    """Circuits with their figures, a row each.

    Args:
        records: `Faithfulness.to_dict` with "rule" and "errors", and "basis" where there are several.
        first: what the first column says; a line parts its values.
    """
    table = terminal.grid(first, texts=("chosen by",))
    table.padding = (0, 1, 0, 0)
    names = ("size", "faith-\nfulness", "95%", "com-\npleteness", "accu-\nracy", "dis-\ntance")
    others = ("errors",) if first != "errors" else ()
    last_column = ("train",) if any("train_faithfulness" in one for one in records) else ()
    for name in (*others, *names, *last_column):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for one in records:
        key = f"{one.get('basis')}{one['errors']}{one['rule'].split(',')[0]}"
        if last and key != last:
            table.add_section()
        last = key
        train = one.get("train_faithfulness")
        row = (
            one["rule"].replace("largest attributions, ", "").replace("learned mask", "mask"),
            *((one["errors"],) if others else ()),
            f"{one['size']:,}",
            f"{one['faithfulness']:.2f}",
            f"{one['low']:.2f}-{one['high']:.2f}",
            f"{one['completeness']:.2f}",
            f"{one['accuracy']:.2f}",
            f"{one['distance']:.2f}",
            *(("" if train is None else f"{train:.2f}",) if last_column else ()),
        )
        style = "bold" if one.get("shown") else ""
        table.add_row(terminal.cell(one[first], style), *(terminal.cell(part, style) for part in row))
    return table


def cases(measured: "Faithfulness") -> Table:
    """Mean logit differences: of all pairs and of each case, the model's and the circuit's."""
    table = terminal.grid("logit difference", texts=())
    for name in ("model", "circuit", "all ablated", "without it"):
        table.add_column(name, justify="right", no_wrap=True)
    values = (measured.model, measured.circuit, measured.nothing, measured.rest)
    table.add_row(f"all {measured.n} pairs", *(f"{value:.3f}" for value in values))
    for case, means in measured.by_case.items():
        if len(measured.by_case) > 1:
            table.add_row(terminal.cell(case), *(f"{value:.3f}" for value in means), "", "")
    return table


def features(nodes: "Sequence[Node]") -> Table:
    """Features with their figures, a row each."""
    from bathyscope.circuits.drawing import halves

    shown = list(halves(nodes[0])) if nodes else []
    table = terminal.grid("feature", texts=("label",))
    for name in ("attribution", "effect", *shown, "told apart"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in nodes:
        figures = [f"{one.attribution:+.3f}", f"{one.effect:+.3f}", *(f"{value:.2f}" for value in halves(one).values())]
        figures.append("" if one.separates is None else f"{one.separates:.2f}")
        table.add_row(terminal.cell(str(one.feature)), terminal.cell(one.label), *figures)
    return table


def _sums(result: "CircuitResult") -> Table:
    table = terminal.grid("sums at", texts=())
    for name in ("total", "sum", "gap", "10 to 90%\nof pairs", "one\ngradient", "RelP", "errors'\nshare"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in result.sums:
        table.add_row(
            terminal.cell(one["site"]),
            f"{one['total']:.3f}",
            f"{one['sum']:.3f}",
            f"{one['gap']:+.1%}",
            f"{one['gap_q10']:+.1%} to {one['gap_q90']:+.1%}",
            f"{one['one_gradient']:.0%}",
            f"{one['relp']:.0%}",
            f"{one['error_share']:.0%}",
        )
    return table


def _ranks(sums: Sequence[Mapping[str, Any]]) -> Table:
    """How the largest attributions of each site compare with effects."""
    table = terminal.grid("attributions at", texts=())
    for name in ("effects measured", "rank correlation", "within a fifth of the effect"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sums:
        rank = one["rank_correlation"]
        told = "none" if rank is None else f"{rank:.2f}"
        table.add_row(terminal.cell(one["site"]), str(one["effects"]), told, f"{one['near']:.0%}")
    return table
