"""Tables of the attribute-extraction study: by relation, and by layer with the early ones apart. Knows results."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.cli.study_tables import BEST
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import AttributeExtractionResult

LAST_EARLY: Final = 5
"""The last block that is shown apart as early."""
CHOSEN: Final = {
    "patchscope": "patch-\nscope",
    "probe": "probe\n",
    "control_random": "ran-\ndom",
    "control_mean": "mean\n",
    "control_shuffled": "shuf-\nfled",
    "control_no_activation": "no-acti-\nvation",
    "control_unpatched": "un-\npatched",
    "control_prompting": "prompt-\ning",
}
ORACLES: Final = {
    "patchscope_oracle": "patch-\nscope",
    "control_random_oracle": "ran-\ndom",
    "control_mean_oracle": "mean\n",
    "control_shuffled_oracle": "shuf-\nfled",
    "control_no_activation_oracle": "no-acti-\nvation",
}
LENSES: Final = {"logit_lens": "logit\nlens", "tuned_lens": "tuned\nlens"}


def show(result: "AttributeExtractionResult", console: Console) -> None:
    """Print the relations, the layers, the oracles apart, and how to read them."""
    model = result.provenance["models"][0]["model"]
    console.print(terminal.cell(f"{result.heading}: {model}", wrap=True))
    console.print(_by_relation(result))
    averaged = f", mean of {len(result.relations)} relations" if len(result.relations) > 1 else ""
    console.print(terminal.cell(f"By the layer that is read{averaged}; embedding and blocks 0-{LAST_EARLY} apart"))
    console.print(_by_layer(result, {**CHOSEN, **LENSES}))
    console.print(
        terminal.cell(
            "Oracles: right at ANY layer written at, as the paper counts; not to be held against the table above",
            wrap=True,
        )
    )
    console.print(_by_layer(result, ORACLES))
    told = "*: the better of patchscope and probe, where p < .05 after Bonferroni's correction"
    for line in (told, *result.notes):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _table(first: str, columns: Mapping[str, str]) -> Table:
    table = terminal.grid(first, texts=())
    table.padding = (0, 1, 0, 0)
    for head in columns.values():
        table.add_column(Text(head), no_wrap=True, justify="right")
    return table


def _by_relation(result: "AttributeExtractionResult") -> Table:
    """Means over the layers that are read, the better of patchscope and probe marked where they differ."""
    table = _table("relation", {**CHOSEN, "n": "n\n", "n_classes": "classes\n", "p": "p, Bon-\nferroni"})
    for record in result.summary:
        better = _better(record)
        figures = (_share(record.get(name), best=name == better) for name in CHOSEN)
        p = record["p_bonferroni"]
        table.add_row(
            terminal.cell(record["relation"]),
            *figures,
            str(record["n"]),
            str(record["n_classes"]),
            "<.001" if p < 0.001 else f"{p:.3f}",
        )
    return table


def _better(record: Mapping[str, Any]) -> str | None:
    if record["p_bonferroni"] >= 0.05 or record["patchscope"] == record["probe"]:
        return None
    return "patchscope" if record["patchscope"] > record["probe"] else "probe"


def _by_layer(result: "AttributeExtractionResult", names: Mapping[str, str]) -> Table:
    there = {name: head for name, head in names.items() if result.mean(result.layers[0], name) is not None}
    table = _table("layer", there)
    for layer, ends in _ends(result.layers):
        figures = (_share(result.mean(layer, name)) for name in there)
        table.add_row("embed" if layer == EMBEDDING_LAYER else str(layer), *figures, end_section=ends)
    return table


def _ends(layers: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Layers, and whether each is the last of the early ones."""
    early = [layer for layer in layers if layer <= LAST_EARLY]
    for layer in layers:
        yield layer, bool(early) and layer == early[-1] and layer != layers[-1]


def _share(value: float | None, *, best: bool = False) -> Text:
    shown = "" if value is None else f"{value:.2f}".removeprefix("0")
    return Text(f"{shown}{'*' if best else ''}", BEST if best else "")
