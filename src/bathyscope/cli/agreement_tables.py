"""Tables of the agreement study in the terminal: circuits and what they are compared with, then the features."""

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.studies import AgreementResult

MOST_FEATURES = 30


def show(result: "AgreementResult", console: Console) -> None:
    """Print circuits, sums, features, and how to read them."""
    for caption in result.captions():
        console.print(terminal.cell(caption, wrap=True))
    console.print(_circuits(result))
    console.print(_sums(result))
    console.print(_features(result))
    if (rest := len(result.nodes) - MOST_FEATURES) > 0:
        console.print(Text(f"and {rest} more features: all are in --json and --out", "dim"))
    for line in result.notes:
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _circuits(result: "AgreementResult") -> Table:
    table = terminal.grid("basis", texts=("chosen by",))
    table.padding = (0, 1, 0, 0)
    for name in ("errors", "size", "faith-\nfulness", "95%", "com-\npleteness", "accu-\nracy", "dis-\ntance", "train"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ""
    for one in result.records:
        key = f"{one['basis']}{one['errors']}{one['rule'].split(',')[0]}"
        if last and key != last:
            table.add_section()
        last = key
        train = one.get("train_faithfulness")
        row = (
            one["rule"],
            one["errors"],
            f"{one['size']:,}",
            f"{one['faithfulness']:.2f}",
            f"{one['low']:.2f}-{one['high']:.2f}",
            f"{one['completeness']:.2f}",
            f"{one['accuracy']:.2f}",
            f"{one['distance']:.2f}",
            "" if train is None else f"{train:.2f}",
        )
        style = "bold" if one.get("shown") else ""
        table.add_row(terminal.cell(one["basis"], style), *(terminal.cell(part, style) for part in row))
    return table


def _sums(result: "AgreementResult") -> Table:
    table = terminal.grid("sums at", texts=())
    for name in ("total", "sum", "gap", "one gradient", "share of errors"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in result.sums:
        table.add_row(
            terminal.cell(one["site"]),
            f"{one['total']:.3f}",
            f"{one['sum']:.3f}",
            f"{one['gap']:+.1%}",
            f"{one['one_gradient']:.0%}",
            f"{one['error_share']:.0%}",
        )
    return table


def _features(result: "AgreementResult") -> Table:
    table = terminal.grid("feature", texts=("label",))
    for name in ("attribution", "effect", "singular", "plural", "AUC"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in result.nodes[:MOST_FEATURES]:
        table.add_row(terminal.cell(one["feature"]), terminal.cell(one["label"]), *_figures(one))
    return table


def _figures(one: Any) -> tuple[str, ...]:
    return (
        f"{one['attribution']:+.3f}",
        f"{one['effect']:+.3f}",
        f"{one['singular']:.2f}",
        f"{one['plural']:.2f}",
        f"{one['auc']:.2f}",
    )
