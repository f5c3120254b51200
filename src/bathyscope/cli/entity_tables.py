"""Tables of the entity-resolution study in the terminal: layers down, measures and controls across."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import EntityResolutionResult

SCORES: Final = {
    "rouge_l": "patch-\nscope",
    "unpatched": "un-\npatched",
    "random": "ran-\ndom",
    "mean": "mean\n",
    "shuffled": "other\nentity",
    "shuffled_same_type": "same\ntype",
    "prompting": "prompt-\ning",
}
WORDS: Final = {
    "contains": "patch-\nscope",
    "contains_shuffled": "other\nentity",
    "logit_lens": "logit\nlens",
    "tuned_lens": "tuned\nlens",
    "similarity": "simi-\nlar",
    "similarity_shuffled": "other\nentity",
    "probe": "probe\n(type)",
    "majority": "major-\nity",
}
"""Columns by field: ROUGE-L with its controls; telling words beside the lenses, and the probe."""
MAIN: Final = ("rouge_l", "contains", "similarity")
"""The columns of the descriptions themselves."""


def show(result: "EntityResolutionResult", console: Console) -> None:
    """Print scores by layer, those of the first blocks apart, where names resolve, and how to read it."""
    model = result.provenance["models"][0]["model"]
    console.print(terminal.cell(f"{result.heading}: {model}", wrap=True))
    console.print(
        terminal.cell("ROUGE-L F1 with its controls, and the share with a telling word beside lenses:", wrap=True)
    )
    console.print(_by_layer(result))
    console.print(terminal.cell("Where names resolve, by their number of tokens:", wrap=True))
    console.print(_by_tokens(result.by_tokens))
    for line in (*_chosen(result), *_legend(result)):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _by_layer(result: "EntityResolutionResult") -> Table:
    table = terminal.grid("layer", texts=())
    table.padding = (0, 1, 0, 0)
    there = [name for name in (*SCORES, *WORDS) if any(record.get(name) is not None for record in result.records)]
    for name in there:
        table.add_column(Text((SCORES | WORDS)[name], "" if name in MAIN else "dim"), no_wrap=True)
    peak = max(record["rouge_l"] for record in result.records) or None
    for record in result.records:
        table.add_row(Text(_layer(record["layer"])), *(_figure(record, name, peak) for name in there))
    if result.early:
        table.add_section()
        table.add_row(Text(str(result.early["layer"])), *(_figure(result.early, name, None) for name in there))
    return table


def _layer(layer: int) -> str:
    return "embed" if layer == EMBEDDING_LAYER else str(layer)


def _figure(record: Mapping[str, Any], name: str, peak: float | None) -> Text:
    value = record.get(name)
    if name == "rouge_l" and value is not None and value == peak:
        return Text(f"{_share(value)}*", "bold green")
    return Text("" if value is None else _share(value), "" if name in MAIN else "dim")


def _by_tokens(records: Sequence[Mapping[str, Any]]) -> Table:
    table = terminal.grid("tokens", "names", "resolve", "median layer", "ROUGE-L at the chosen layer", "peak", texts=())
    for record in records:
        median, bounds = record["median_layer"], record["median_layer_interval"]
        since = "" if median is None else f"{median:g}"
        table.add_row(
            record["tokens"],
            str(record["n"]),
            str(record["resolved"]),
            # One name has no interval: drawn again, it is itself.
            f"{since} ({bounds[0]:g} to {bounds[1]:g})" if record["resolved"] > 1 else since,
            _interval(record, "rouge_l") if record["n"] > 1 else _share(record["rouge_l"]),
            "" if record["peak_layer"] is None else _layer(record["peak_layer"]),
        )
    return table


def _chosen(result: "EntityResolutionResult") -> Iterator[str]:
    best = result.best
    first, second = best["chosen_layers"]
    yield (
        f"chosen on the other half (layers {first} and {second}): {_interval(best, 'chosen')}; prompting with the name "
        f"as text: {_interval(best, 'prompting')}"
    )
    yield (
        f"ORACLE, each entity's best of all layers: {_interval(best, 'oracle')}; the same with another entity's "
        f"descriptions: {_interval(best, 'oracle_shuffled')}"
    )
    never = {name: counts["never"] for name, counts in result.resolved.items()}
    n = result.records[0]["n"]
    yield (
        f"resolved at some layer: {n - never['patchscope']} of {n}; with another entity's descriptions "
        f"{n - never['shuffled']}, with those of another of its type {n - never['shuffled_same_type']}"
    )


def _interval(record: Mapping[str, Any], name: str) -> str:
    if record[name] is None:
        return "none"
    low, high = record[f"{name}_interval"]
    return f"{_share(record[name])} ({_share(low)} to {_share(high)})"


def _legend(result: "EntityResolutionResult") -> Iterator[str]:
    widest = max(high - low for low, high in (record["rouge_l_interval"] for record in result.records))
    telling = result.records[0]["n_telling"]
    early = "; the last row is the mean of these blocks" if result.early else ""
    yield (
        f"* marks the best layer{early}. Shares are of the {telling} entities with telling words. "
        f"The widest interval of ROUGE-L is \u00b1{widest / 2:.3f}; --json and --out have all of them."
    )
    yield from result.notes


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
