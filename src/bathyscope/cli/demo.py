"""`bathyscope demo`: the ladders of three names as one table for a newcomer, and a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

import bathyscope
from bathyscope.cli import choices, ladders, options, terminal
from bathyscope.cli.opening import open_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bathyscope.model import Model
    from bathyscope.patchscope_result import PatchscopeResult

NAMES = ("Diana, Princess of Wales", "New York City", "Alexander the Great")
PAGE = Path("bathyscope-demo.html")
NEXT = (
    'bathyscope patchscope "Marie Curie"',
    'bathyscope patchscope "New York City" --at all --layers 0-10 --new-tokens 8',
    "bathyscope models",
)
"""What to type after the demo."""


def command(
    *,
    model: options.ModelName = None,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE.html",
            help="Where the page with the whole texts goes, such as --out ladders.html.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = PAGE,
    debug: options.Debug = False,
) -> None:
    """See what each layer of a model holds of three names, in the model's own words.

    Without --model it uses a small model, which it fetches once. It prints a
    table, and writes a page with the whole texts into the current folder.

    Examples:
      bathyscope demo
      bathyscope demo --out ladders.html
    """
    del debug  # its callback has done the work
    choices.check_out(out, ".html")
    opened = open_model(model)
    results = []
    for number, name in enumerate(NAMES, 1):
        with terminal.progress(f"{name} ({number} of {len(NAMES)})") as tick:
            results.append(bathyscope.patchscope(bathyscope.Source(opened, name), progress=tick))
    try:
        _write_page(out, results)
    finally:  # without a page there is still a table
        _print(opened, results, terminal.out())
    _print_next(out, terminal.out())


def _write_page(path: Path, results: "Sequence[PatchscopeResult]") -> None:
    from bathyscope.files import write_atomically
    from bathyscope.pages import document

    page = document("What each layer of a language model holds", *(result.page() for result in results))
    write_atomically(path, page.encode())


def _print(model: "Model", results: "Sequence[PatchscopeResult]", console: Console) -> None:
    inspection = results[0].provenance["spec"]["target"]["prompt"]
    console.print(Text("What does each layer of a language model hold?", "bold"))
    console.print(
        f"\n{terminal.clean(model.name)} reads a name. After each of its {model.n_layers} layers, the vector at the "
        "name's last token is written over the x that ends another prompt, at the same layer:\n"
    )
    console.print(Padding(Text(inspection, "italic"), (0, 0, 0, 2), expand=False))
    console.print("\nWhat the model writes next is what that layer holds of the name, in the model's own words.")
    table = terminal.grid("name", "layers", texts=["what the model says"])
    for result in results:
        name = result.provenance["spec"]["source"]["prompt"]
        for rung in ladders.rungs(result):
            table.add_row(Text(name, "bold"), rung.layers, terminal.cell(rung.text, "" if rung.spoke else "dim"))
            name = ""
        table.add_section()
    # The x stays where nothing is written, and the model goes on from it.
    control, _ = ladders.opening_words(f"x{results[0].unpatched}")
    table.add_row(Text("nothing written", "bold"), "", terminal.cell(control))
    console.print(table)
    console.print(
        Text(
            "Text that begins with a comma or full stop is not about the name: the model goes on with its list.", "dim"
        )
    )
    console.print(Text("Layers count from 0; the embedding, before them, is layer -1.", "dim"))


def _print_next(page: Path, console: Console) -> None:
    console.print(Text.assemble("\nThe whole texts: ", (terminal.clean(str(page)), "bold"), "\n\nTry next:"))
    for line in NEXT:
        console.print(Text(f"  {line}", "cyan"))
