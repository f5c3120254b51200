"""Attributions in the terminal: heat maps, the strongest nodes or edges, whether sums add up. Knows results only."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console
from rich.text import Text

from bathyscope.cli import showing, signed, terminal
from bathyscope.signed_maps import number

if TYPE_CHECKING:
    from bathyscope.attribution import AttributionResult, CompletenessResult, EdgeResult

    Shown: TypeAlias = AttributionResult | EdgeResult | CompletenessResult

CONVENTION = "Layers count from 0; embed is what comes before them. Attributions are estimates; effects are measured."


def show_or_save(result: "Shown", *, as_json: bool, out: Path | None, top: int) -> None:
    """Save where a file was asked for, then print JSON, or maps and tables.

    Raises:
        StorageError: the file could not be written; what was found is printed all the same.
    """
    showing.show_or_save(result, as_json=as_json, out=out, show=partial(_show, top=top))


def _show(result: "Shown", console: Console, top: int) -> None:
    from bathyscope.attribution import AttributionResult, EdgeResult

    if isinstance(result, AttributionResult):
        _facts(result.facts(), console)
        signed.show(result.maps(), console)
        _nodes(result, console, top)
    elif isinstance(result, EdgeResult):
        _facts(result.facts(), console)
        _edges(result, console, top)
    else:
        _sums(result, console)
        return
    console.print(Text(CONVENTION, "dim"), no_wrap=False)


def _facts(facts: dict[str, str], console: Console) -> None:
    for name, text in facts.items():
        console.print(terminal.cell(f"{name}: {text}", wrap=True))


def _nodes(result: "AttributionResult", console: Console, top: int) -> None:
    strongest = result.strongest(top)
    if not strongest:
        return
    measured = any(node.effect is not None for node in strongest)
    table = terminal.grid("site", "token", "attribution", *(["effect"] if measured else []), texts=[])
    largest = max(abs(value) for node in strongest for value in (node.attribution, node.effect or 0.0))
    for node in strongest:
        effect = [number(node.effect, largest) if node.effect is not None else "not measured"]
        table.add_row(
            f"{node.site} {node.part}".strip(),
            terminal.cell(f"{node.position} {node.token!r}"),
            number(node.attribution, largest),
            *(effect if measured else []),
        )
    console.print()
    console.print(table)


def _edges(result: "EdgeResult", console: Console, top: int) -> None:
    strongest = result.strongest(top)
    if not strongest:
        return
    table = terminal.grid("from", "to", "attribution", texts=[])
    for edge in strongest:
        table.add_row(edge.sender, edge.receiver, number(edge.attribution, abs(strongest[0].attribution)))
    console.print()
    console.print(table)


def _sums(result: "CompletenessResult", console: Console) -> None:
    summary = result.summary()
    console.print(
        terminal.cell(
            f"Integrated gradients of {summary[0]['n']:g} pairs, {result.steps} steps, at the residual stream of all "
            "positions: sum of attributions against the measured difference.",
            wrap=True,
        )
    )
    quantiles = [name for name in summary[0] if name.startswith("gap_q")]
    shares = [f"{name.removeprefix('gap_q')}%" for name in quantiles]
    table = terminal.grid("layer", "total", "sum", "gap", *shares, texts=[])
    for one in summary:
        numbers = [f"{one[name]:.3f}" for name in ("mean_total", "mean_sum")]
        layer = "embed" if one["layer"] < 0 else f"{one['layer']:g}"
        table.add_row(layer, *numbers, *(f"{one[name]:+.1%}" for name in ("gap", *quantiles)))
    console.print(table)
    legend = (
        "gap: mean sum less mean total; percentages are quantiles over pairs of each pair's own gap. All are shares of "
        "the mean total."
    )
    console.print(Text(legend, "dim"), no_wrap=False)
