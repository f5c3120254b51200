"""Tables of measured coders in the terminal. Knows results, not models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.sae import CoderEvaluation, CoderEvaluations

MEASURES: Final = {
    "fvu": "fvu",
    "l0": "l0",
    "dead_fraction": "dead",
    "dense_fraction": "dense",
    "loss_recovered": "recovered",
    "loss_recovered_mean": "over mean",
    "delta_ce": "delta ce",
    "kl_spliced": "kl",
}
"""The measures that are shown, and what their columns are called."""

PLACES: Final = ("first", "sink", "first half", "second half")
"""The classes of positions."""

SHARES: Final = ("dead_fraction", "dense_fraction")


def show(result: "CoderEvaluation | CoderEvaluations", console: Console) -> None:
    """Print what was measured, where in a window, and what the numbers mean."""
    from bathyscope.sae import CoderEvaluation

    coders = {result.target: result} if isinstance(result, CoderEvaluation) else result.coders
    for line in _about(next(iter(coders.values()))):
        console.print(terminal.cell(line, wrap=True))
    figures = {name: _figures(one) for name, one in coders.items()}
    classes = {name: _by_class(one) for name, one in coders.items()}
    for rows in (figures, classes):
        table = _across(rows)
        if terminal.natural_width(table) <= console.width:
            console.print(table)
        else:
            for name, row in rows.items():
                console.print(_down(name, row))
    for line in _legend(next(iter(coders.values()))):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _about(one: "CoderEvaluation") -> list[str]:
    spec, measured = one.provenance["spec"], one.reconstruction
    texts = ", ".join(str(text.get("name")) for text in spec["texts"])
    return [
        f"model: {one.provenance['models'][0]['model']}",
        f"text:  {texts}, {spec['tokens']:,} tokens in windows of {spec['length']}; losses on {one.loss.n:,}",
        f"sinks and special tokens: {measured.left_out:.2%} of the tokens are left out, and left unspliced",
    ]


def _figures(one: "CoderEvaluation") -> dict[str, str]:
    measures = one.measures()
    return {
        label: _share(measures[name]) if name in SHARES else _number(measures[name]) for name, label in MEASURES.items()
    }


def _by_class(one: "CoderEvaluation") -> dict[str, str]:
    """FVU over all tokens and in each class, and how much of all variance sinks make."""
    classes: Mapping[str, Mapping[str, Any]] = one.reconstruction.by_class
    fvu = {f"fvu {name}": _number(classes[name]["fvu"]) for name in PLACES}
    sinks = [classes[name]["variance"] for name in PLACES[:2]]
    held = None if None in sinks else sum(sinks)
    return {"fvu with sinks": _number(one.reconstruction.fvu_all), "variance in sinks": _share(held), **fvu}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _across(rows: Mapping[str, Mapping[str, str]]) -> Table:
    """Coders downwards, measures across."""
    table = terminal.grid("coder", texts=())
    table.padding = (0, 1, 0, 0)  # so that all measures fit into 80 columns
    for label in next(iter(rows.values())):
        table.add_column(Text(label.replace(" ", "\n", 1)), justify="right", no_wrap=True)
    for name, row in rows.items():
        table.add_row(terminal.cell(name), *(Text(text) for text in row.values()))
    return table


def _down(name: str, row: Mapping[str, str]) -> Table:
    """Of one coder, where it has to be narrow: a measure a line."""
    table = terminal.grid(texts=(name,))
    table.add_column("", justify="right", no_wrap=True)
    for label, text in row.items():
        table.add_row(terminal.cell(label, wrap=True), Text(text))
    return table


def _legend(one: "CoderEvaluation") -> list[str]:
    from bathyscope.sae.evaluation import MEANINGS

    mean = "training text" if one.loss.mean_of == "fit" else "measured text"
    return [
        *(f"{label}: {MEANINGS[name]}." for name, label in MEASURES.items()),
        f"The mean is that of the {mean}. fvu of a class is about its own mean; a sink is a position over ten times "
        "as long as its window's median. dead and dense are counted on these tokens alone.",
        f"Cross-entropy in nats: clean {one.loss.ce_clean:.3f}"
        + f", and of {one.target} spliced {one.loss.ce_spliced:.3f}, zero {one.loss.ce_zero:.3f}, "
        f"mean {one.loss.ce_mean:.3f}. --json and --out have all numbers.",
    ]
