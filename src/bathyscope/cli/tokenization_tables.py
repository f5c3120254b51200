"""Tables of the tokenization study in the terminal: layers down, pieces and controls across; then word by word."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import TokenizationResult

COLUMNS: Final = {
    ("last", "whole"): "whole,\nlast",
    ("middle", "whole"): "whole,\nmiddle",
    ("first", "whole"): "whole,\nfirst",
    ("last", "alone"): "whole,\nalone",
    ("last", "swapped"): "whole,\nswapped",
    ("last", "shuffled"): "another\nword",
    ("last", "gloss"): "gloss\n",
    ("last", "gloss_shuffled"): "another's\ngloss",
    ("last", "own"): "own\nletters",
}
"""Columns by piece and field."""
MAIN: Final = ("whole", "gloss", "own")


def show(result: "TokenizationResult", console: Console) -> None:
    """Print shares by layer with their controls, the words that are read whole, and how to read it."""
    model = result.provenance["models"][0]["model"]
    console.print(terminal.cell(f"{result.heading}: {model}", wrap=True))
    console.print(_by_layer(result))
    if any(record["layer"] is not None for record in result.words):
        console.print(terminal.cell("Words that the last piece reads as at some layer:", wrap=True))
        console.print(_words(result))
    for line in (*_found(result), *_legend(result)):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _by_layer(result: "TokenizationResult") -> Table:
    by_place = {(record["piece"], record["layer"]): record for record in result.records}
    layers = [record["layer"] for record in result.of("last")]
    there = [(piece, field) for piece, field in COLUMNS if (piece, layers[0]) in by_place]
    table = terminal.grid("layer", texts=())
    table.padding = (0, 1, 0, 0)
    for piece, field in there:
        table.add_column(Text(COLUMNS[piece, field], _style(piece, field)), no_wrap=True)
    for layer in layers:
        shown = (Text(_share(by_place[piece, layer][field]), _style(piece, field)) for piece, field in there)
        table.add_row(Text("embed" if layer == EMBEDDING_LAYER else str(layer)), *shown)
    return table


def _style(piece: str, field: str) -> str:
    return "" if piece == "last" and field in MAIN else "dim"


def _words(result: "TokenizationResult") -> Table:
    table = terminal.grid("word", "pieces", "first at", texts=("what is said there",))
    for record in result.words:
        if record["layer"] is not None:
            table.add_row(
                terminal.cell(record["word"]),
                terminal.cell("|".join(record["pieces"]).strip()),
                Text("embed" if record["layer"] == EMBEDDING_LAYER else str(record["layer"])),
                terminal.cell(record["text"].strip()),
            )
    return table


def _found(result: "TokenizationResult") -> Iterator[str]:
    best, n = result.best, len(result.words)
    never = result.first_layers["never"]
    yield f"first read whole at some layer: {n - never} of {n} words; never: {never}"
    for record in result.by_pieces:
        median = record["median_first_layer"]
        since = "" if median is None else f", median first layer {median:g}"
        yield f"of {record['pieces']} pieces: {record['read']} of {record['n']}{since}"
    first, second = best["chosen_layers"]
    yield f"whole, chosen on the other half (layers {first} and {second}): {_interval(best, 'chosen')}"
    controls = ", ".join(f"{name} {_share(best[f'any_layer_{name}'])}" for name in ("alone", "swapped", "shuffled"))
    yield f"ORACLE, whole at any layer: {_interval(best, 'any_layer')}; the same of controls: {controls}"
    yield (
        f"ORACLE, gloss at any layer: {_interval(best, 'any_layer_gloss')}; another word's gloss: "
        f"{_share(best['any_layer_gloss_shuffled'])}"
    )
    for record in result.controls:
        yield f"{record['control']}: whole {_interval(record, 'whole')}, gloss {_interval(record, 'gloss')}"


def _interval(record: Mapping[str, Any], name: str) -> str:
    low, high = record[f"{name}_interval"]
    return f"{_share(record[name])} ({_share(low)} to {_share(high)})"


def _legend(result: "TokenizationResult") -> Iterator[str]:
    counts = {record["piece"]: record["n"] for record in result.records}
    told = ", ".join(f"{piece} of {n} words" for piece, n in counts.items())
    widest = max(high - low for low, high in (record["whole_interval"] for record in result.records))
    yield (
        f"Each figure: share of texts; pieces: {told}. Widest interval of the whole word \u00b1{widest / 2:.3f}; "
        "--json and --out have all of them."
    )
    yield from result.notes


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
