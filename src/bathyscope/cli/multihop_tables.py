"""Tables of the multi-hop study: counts by configuration and by pair of relations. Knows results, not models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import MultihopResult

FEW: Final = 30
"""Of fewer queries no percentages are printed."""
FIGURES: Final = {
    "vanilla": "vanilla",
    "statement": "vanilla, with ' is' behind it",
    "chain_of_thought": "chain of thought",
    "patchscope": "patchscope, at the chosen cell",
    "corrected": "  corrected",
    "broken": "  broken",
    "control_other": "  control: another query's patch",
    "control_random": "  control: random vector",
    "control_unpatched": "  control: nothing written",
    "patchscope_oracle": "ORACLE, any cell, as the paper counts",
    "corrected_oracle": "  corrected",
    "broken_oracle": "  broken",
    "control_other_oracle": "  control: another query's patch",
    "control_random_oracle": "  control: random vector",
}


def show(result: "MultihopResult", console: Console) -> None:
    """Print the counts of both configurations, the joins, and how to read them."""
    model = result.provenance["models"][0]["model"]
    n = result.records[0]["n"]
    console.print(terminal.cell(f"{result.heading}: {model}", wrap=True))
    heads = [f"configuration {record['configuration']}" for record in result.records]
    table = terminal.grid(f"right, of {n} queries", *heads, texts=())
    for name, shown in FIGURES.items():
        whole = [record["n_other"] if "other" in name else n for record in result.records]
        counts = [record[name] for record in result.records]
        table.add_row(
            shown, *(_count(*one) for one in zip(counts, whole, strict=True)), end_section="control_unp" in name
        )
    for name, shown in {"chosen_cells": "chosen cells (read, written)", "best_cell": "best cell, not held out"}.items():
        table.add_row(shown, *(_cells(record[name], record) for record in result.records))
    console.print(table)
    joined = terminal.grid(texts=())
    joined.padding = (0, 1, 0, 0)
    joined.add_column(Text("first hop,\nsecond hop"))  # it may wrap, so that figures keep their width
    for head in ("queries", "hop 1", "hop 2", "both", "vanilla", "patched", "oracle 1", "oracle 2"):
        joined.add_column(Text(head.replace(" ", "\n")), no_wrap=True, justify="right")
    for record in result.joins:
        names = ("queries", "hop1", "hop2", "both", "vanilla", "patched", "oracle_1", "oracle_2")
        shown = f"{record['first_relation']}, {record['second_relation']}"
        joined.add_row(terminal.cell(shown, wrap=True), *(str(record[name]) for name in names))
    console.print(joined)
    for line in result.notes:
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _count(count: int, n: int) -> str:
    return f"{count} of {n}" if n < FEW else f"{count} ({count / n:.0%})"


def _cells(cells: list[Any], record: Mapping[str, Any]) -> str:
    if isinstance(cells[0], int):
        return f"{_cell(cells)}: {_count(record['best_cell_right'], record['n'])}"
    return ", ".join(dict.fromkeys(map(_cell, cells)))


def _cell(cell: list[int]) -> str:
    return ", ".join("embed" if layer == EMBEDDING_LAYER else str(layer) for layer in cell).join("()")
