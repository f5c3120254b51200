"""`bathyscope circuit show`: a circuit in the terminal, as a page to explore, or as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bathyscope.cli import choices, circuit_files, circuit_tables, options, terminal
from bathyscope.cli.options import circuit_show as own

if TYPE_CHECKING:
    from bathyscope.circuits.viewer import View

PAGE, PICTURES = ".html", (".svg", ".png")
MOST_NODES = 30


def command(
    file: own.File,
    *,
    out: own.Picture = None,
    labels: own.Labels = None,
    debug: options.Debug = False,
) -> None:
    """Show a circuit: its features in a table, or the graph as a page or a picture.

    The page needs no network: layers upward, tokens across, errors dashed. A
    pointer that rests on a node tells its figures and what it stands for; pins
    become groups, and labels are typed there and saved for the next time. For
    .dot and the public JSON schema there is bathyscope circuit convert.

    Examples:
      bathyscope circuit show circuit.json
      bathyscope circuit show circuit.json --out circuit.html
      bathyscope circuit show circuit.json --labels mine.labels.json --out circuit.svg
    """
    del debug  # its callback has done the work
    if out is not None:
        choices.check_out(out, PAGE, *PICTURES)
        choices.check_writable(out.parent)
    found = circuit_files.read(file, labels)
    if out is None:
        if found.circuit is not None:
            circuit_tables.show(found.circuit, terminal.out())
        else:
            _show(found.view)
        return
    _draw(found, out)
    terminal.note(f"saved to {out}")


def _draw(found: circuit_files.GraphFile, out: Path) -> None:
    if out.suffix == PAGE:
        from bathyscope.circuits.viewer import viewer_page
        from bathyscope.files import write_atomically

        write_atomically(out, viewer_page(found.view).encode())
        return
    from bathyscope import plots
    from bathyscope.circuits.viewer import still_picture

    plots.save_graph(found.circuit or still_picture(found.view), out)


def _show(view: "View") -> None:
    """Print the nodes of a graph that is no circuit, the most influential first."""
    console = terminal.out()
    for caption in view.captions:
        console.print(terminal.cell(caption, wrap=True))
    table: Table = terminal.grid("layer", "node", texts=("label", "at"))
    table.add_column("influence", justify="right", no_wrap=True)
    nodes = sorted((one for one in view.nodes if one.kind in ("feature", "error")), key=lambda one: -(one.size or 0.0))
    for one in nodes[:MOST_NODES]:
        figure = "" if one.size is None else f"{one.size:.3f}"
        cells = (view.rows[one.row], one.name, one.label, view.columns[one.column])
        table.add_row(*map(terminal.cell, cells), figure)
    console.print(table)
    if (rest := len(nodes) - MOST_NODES) > 0:
        console.print(Text(f"and {rest} more nodes: all are in --out", "dim"))
    console.print(Text("influence: 1 less the share that the nodes down to this one have", "dim"), no_wrap=False)
