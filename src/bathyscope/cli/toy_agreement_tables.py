"""Tables of the toy in the terminal: its nodes column by column, then its edges, the strongest first."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.studies import ToyAgreementResult
    from bathyscope.studies.toy_agreement_study.graph import Edge, Graph, Node

MEASURES: Final = ("clean", "corrupted", "effect", "attribution", "integrated", "closed form")
LEAST: Final = 0.005
"""Below it two decimals would show nothing."""
BAR: Final = 12
"""Characters of the longest bar."""
ABOVE, BELOW = "#005fd7", "#d75f00"


def show(result: "ToyAgreementResult", console: Console) -> None:
    """Print nodes, edges with an effect, how well all was trained, and how to read it."""
    graph = result.graph
    for caption in result.captions():
        console.print(terminal.cell(caption, wrap=True))
    console.print(_nodes(graph))
    console.print(_edges(graph))
    for line in (*_hidden(graph), *_orders(result), *_training(result), *result.notes):
        console.print(Text(terminal.clean(line), "dim"), no_wrap=False)


def _nodes(graph: "Graph") -> Table:
    table = _table("node")
    table.add_column("")
    last = ""
    for node in graph.nodes:
        if last and node.column != last:
            table.add_section()
        last = node.column
        remark = "" if graph.has_effect(node) else "silent" if node.activation == 0 else "active, no effect"
        table.add_row(terminal.cell(node.name), *_figures(node), Text(remark), style="" if not remark else "dim")
    return table


def _edges(graph: "Graph") -> Table:
    table = _table("edge")
    table.add_column("", no_wrap=True)
    largest = max(abs(edge.effect) for edge in graph.edges) or 1.0
    column = {node.name: node.column for node in graph.nodes}
    last = ""
    for edge in _with_effect(graph):
        if last and column[edge.source] != last:
            table.add_section()
        last = column[edge.source]
        bar = "\u2588" * max(1, round(BAR * abs(edge.effect) / largest))
        drawn = Text(bar, ABOVE if edge.effect > 0 else BELOW)
        table.add_row(terminal.cell(f"{edge.source} \u2192 {edge.target}"), *_figures(edge), drawn)
    return table


def _with_effect(graph: "Graph") -> "list[Edge]":
    """By column, the strongest first."""
    columns = list(dict.fromkeys(node.column for node in graph.nodes))
    place = {node.name: columns.index(node.column) for node in graph.nodes}
    shown = [edge for edge in graph.edges if graph.has_effect(edge)]
    return sorted(shown, key=lambda edge: (place[edge.source], -abs(edge.effect)))


def _table(head: str) -> Table:
    table = terminal.grid(head, texts=())
    table.padding = (0, 1, 0, 0)
    for name in MEASURES:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _figures(part: "Node | Edge") -> Iterator[Text]:
    from bathyscope.pictures import signed

    yield from (Text("<0.01" if 0 < value < LEAST else f"{value:.2f}") for value in (part.clean, part.corrupted))
    for value in (part.effect, part.attribution, part.integrated, part.closed_form):
        yield Text("" if value is None else signed(value))


def _hidden(graph: "Graph") -> Iterator[str]:
    silent = [edge for edge in graph.edges if not graph.has_effect(edge)]
    if silent:
        active = sum(edge.activation > 0 for edge in silent)
        yield f"Not shown: {len(silent)} edges without effect, {active} of them from nodes that are active."


def _orders(result: "ToyAgreementResult") -> Iterator[str]:
    for record in result.rankings:
        told = f"{record['column']}: most active {record['most_active']} (effect {record['effect']:+.2f})"
        told += f", largest effect {record['strongest']} ({record['strongest_effect']:+.2f})"
        if record["rank_correlation"] is not None:
            told += f"; rank correlation of activation and effect {record['rank_correlation']:.2f}"
        yield told + (f"; active without effect: {', '.join(record['idle'])}" if record["idle"] else "")


def _training(result: "ToyAgreementResult") -> Iterator[str]:
    network, coder = result.network, result.coder
    if "losses" in network:
        yield (
            f"network: {network['steps']} steps on {network['sentences']} sentences, "
            f"loss {network['losses'][0]:.3f} to {network['final_loss']:.3f} nats; "
            f"{network['held_out_loss']:.3f} on {network['held_out_sentences']} sentences of held-out nouns"
        )
        yield f"coder: {coder['steps']} steps, loss {coder['losses'][0]:.3f} to {coder['final_loss']:.3f}"
