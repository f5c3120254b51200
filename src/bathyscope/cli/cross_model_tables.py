"""Tables of the cross-model study in the terminal: layers read down, layers written across. Knows results only."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal
from bathyscope.cli.ladders import opening_words
from bathyscope.sites import EMBEDDING_LAYER

if TYPE_CHECKING:
    from bathyscope.studies import CrossModelResult

LABEL, NARROWEST, BETWEEN = 18, 14, 3
"""Columns of a row's name, of the narrowest text, and between two."""
CONTROLS: Final = {"unpatched": "nothing", "random": "a random vector", "mean": "the mean"}
"""What is written instead, by the record's field."""


def show(result: "CrossModelResult", console: Console) -> None:
    """Print for each prompt the precisions with their controls, for each name what was written, and how to read it."""
    from bathyscope.studies import PROMPTS

    models = [model["model"] for model in result.provenance["models"]]
    console.print(terminal.cell(f"{result.heading}: {models[0]} to {models[1]}", wrap=True))
    for prompt in result.prompts:
        console.print(terminal.cell(f"Next tokens, written into {PROMPTS[prompt]}:", wrap=True))
        console.print(_precisions(result, prompt))
    for name in result.names:
        console.print(terminal.cell(f"In words, of {name!r}:", wrap=True))
        for targets in _fitting(sorted(result.random_texts(name)), console.width):
            console.print(_words(result, name, targets))
    if result.unpatched is not None:
        console.print(terminal.cell(f"nothing written: {result.unpatched.strip()}", wrap=True))
    for line in _legend(result):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _precisions(result: "CrossModelResult", prompt: str) -> Table:
    records = result.of(prompt)
    targets = sorted({other for _, other in records})
    table = terminal.grid("read after", *(f"at {_layer(other)}" for other in targets), texts=())
    for layer in sorted({layer for layer, _ in records}):
        there = (records.get((layer, other)) for other in targets)
        table.add_row(Text(_layer(layer)), *(Text(_share(one["precision_at_1"]) if one else "") for one in there))
    table.add_section()
    for field, name in CONTROLS.items():
        most = (max(one[field] for (_, other), one in records.items() if other == target) for target in targets)
        table.add_row(Text(name), *(Text(_share(value)) for value in most), style="dim")
    return table


def _words(result: "CrossModelResult", name: str, targets: Sequence[int]) -> Table:
    texts, random = result.described(name), result.random_texts(name)
    table = terminal.grid("read after", texts=[f"at {_layer(other)}" for other in targets])
    for layer in sorted({layer for layer, _ in texts}):
        table.add_row(Text(_layer(layer)), *(_said(texts.get((layer, other))) for other in targets))
    table.add_section()
    table.add_row(Text("a random vector"), *(_said(random[other]) for other in targets), style="dim")
    return table


def _said(text: str | None) -> Text:
    """A description up to its first comma, dim where it is none."""
    if text is None:
        return Text("")
    said, spoke = opening_words(text)
    return terminal.cell(said or "(nothing)", "" if spoke else "dim", wrap=True)


def _legend(result: "CrossModelResult") -> Iterator[str]:
    if result.records:
        widest = max(high - low for low, high in (record["precision_at_1_interval"] for record in result.records))
        agreement = _share(result.records[0]["agreement"])
        yield (
            f"Each figure: precision at 1; the two models agree at {agreement}, untouched. "
            "Of a control the largest figure of each column is shown."
        )
        yield f"The widest interval is \u00b1{widest / 2:.3f}; --json and --out have all of them, and surprisals."
    yield from result.notes
    yield "Layers count from 0; embed is what comes before them."


def _fitting(targets: Sequence[int], width: int) -> Iterator[Sequence[int]]:
    """The columns, as many at a time as a terminal has room for."""
    at_once = max(1, (width - LABEL) // (NARROWEST + BETWEEN))
    tables = -(-len(targets) // at_once)
    for index in range(tables):
        yield targets[len(targets) * index // tables : len(targets) * (index + 1) // tables]


def _layer(layer: int) -> str:
    return "embed" if layer == EMBEDDING_LAYER else str(layer)


def _share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
