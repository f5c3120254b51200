"""Labels of a circuit in the terminal, each with its score beside that of controls. Knows results, not models."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult, Node

HOW = (
    "Precision, recall and F1 are of the rule, on documents that it was not chosen on; (control): F1 of the rule that "
    "exchanged positions get. Told apart: .5 is not at all. A description's score is the latent's largest activation "
    "while the model reads it, over its largest in the text; (control): the best of other directions."
)


def show(result: "CircuitResult", console: Console) -> None:
    """Print what was read, and a row a feature."""
    asked = result.provenance["labels"]
    named = asked["text"].get("name", "text")
    console.print(terminal.cell(f"{result.title}, in words", wrap=True))
    console.print(terminal.cell(f"at most {asked['n_tokens']:,} tokens of {named} at each site", wrap=True))
    console.print(_table(result.nodes))
    said = [one.reading["description"] for one in result.nodes if one.reading.get("description")]
    if said:
        chance = sum(1 / (one["n_controls"] + 1) for one in said)
        beat = sum(one["says_something"] for one in said)
        console.print(f"{beat} of {len(said)} descriptions beat their controls; {chance:.1f} would by chance")
    console.print(Text(HOW, "dim"), no_wrap=False)


def _table(nodes: "tuple[Node, ...]") -> Table:
    described = any(one.reading.get("description") for one in nodes)
    table = terminal.grid("feature", texts=("label",))
    for name in ("precision\nrecall", "F1\n(control)", "told\napart"):
        table.add_column(name, justify="right", no_wrap=True)
    if described:
        table.add_column("the model says\n(score, control)")
    for one in nodes:
        cells = [
            terminal.cell(str(one.feature)),
            _label(one),
            *_rule(one.reading),
            "" if one.separates is None else f"{one.separates:.2f}",
        ]
        table.add_row(*cells, *([_description(one.reading.get("description"))] if described else []))
    return table


def _label(node: "Node") -> Text:
    """The label, and the rule below where that is another."""
    shown = terminal.cell(node.label, wrap=True)
    rule = node.reading.get("rule")
    if rule and rule != node.label:
        held = node.reading["f1"] > node.reading["control_f1"]
        told = f"rule: {rule}" if held else "no rule held on other documents"
        shown.append("\n").append(terminal.clean(told), "dim")
    return shown


def _rule(reading: Mapping[str, Any]) -> tuple[str, str]:
    if "rule" not in reading:
        return "", "no rule" if reading else ""
    return (
        f"{reading['precision']:.2f}\n{reading['recall']:.2f}",
        f"{reading['f1']:.2f}\n({reading['control_f1']:.2f})",
    )


def _description(one: Mapping[str, Any] | None) -> Text:
    if one is None:
        return Text()
    from bathyscope.sae.reading.latent import SAYS_NOTHING

    shown = terminal.cell(one["text"] if one["says_something"] else SAYS_NOTHING, wrap=True)
    return shown.append(f" ({one['score']:.2f}, {one['control']:.2f})", "" if one["says_something"] else "dim")
