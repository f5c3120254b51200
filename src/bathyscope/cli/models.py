"""`bathyscope models`: what there is to load, as text or JSON."""

import json
from typing import TYPE_CHECKING

import typer
from rich.padding import Padding
from rich.text import Text

from bathyscope.cli import options, terminal

if TYPE_CHECKING:
    from bathyscope.embedded import EmbeddedStatus

OTHERS = (
    ("--model gpt2", "a Hugging Face id, downloaded the first time"),
    ("--model ./my-model", "a local folder with config.json, a tokenizer and safetensors weights"),
)


def command(*, as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """List the models that can be used: the embedded one, and the supported families.

    Nothing is downloaded.

    Examples:
      bathyscope models
      bathyscope models --json
    """
    del debug  # its callback has done the work
    from bathyscope.embedded import embedded_status
    from bathyscope.families import FAMILIES

    embedded, families = embedded_status(), sorted(FAMILIES)
    if as_json:
        typer.echo(json.dumps(_record(embedded, families), ensure_ascii=False).encode())
        return
    console = terminal.out()
    console.print(Text("The embedded model, used where no other is named", "bold"))
    console.print(Padding(terminal.cell(f"{embedded.name}: {_status(embedded)}"), (0, 0, 1, 2), expand=False))
    console.print(Text("Other models", "bold"))
    for typed, meaning in OTHERS:
        console.print(Padding(Text.assemble((f"{typed:<20}", "cyan"), meaning), (0, 0, 0, 2), expand=False))
    console.print(Text(f"\nof these {len(families)} families (model_type in config.json)", "bold"))
    console.print(Padding(Text(", ".join(families)), (0, 0, 1, 2), expand=False))
    console.print(Text.assemble("Which sites a model has: ", ("bathyscope doctor MODEL", "cyan")))


def _record(embedded: "EmbeddedStatus", families: list[str]) -> dict[str, object]:
    return {
        "kind": "models",
        "embedded": {
            "name": embedded.name,
            "path": str(embedded.path),
            "cached": embedded.cached,
            "size": embedded.size,
            "problem": embedded.problem,
        },
        "families": families,
    }


def _status(embedded: "EmbeddedStatus") -> str:
    if embedded.cached:
        return f"ready, {embedded.size / 1e6:.0f} MB in {embedded.path}"
    if embedded.problem:
        return f"damaged ({embedded.problem}), made again when it is next used"
    from bathyscope.embedded import EMBEDDED

    fetched, kept = EMBEDDED.download_size / 1e6, EMBEDDED.final_size / 1e6
    return f"not here yet; its first use fetches {fetched:.0f} MB and keeps {kept:.0f} MB in {embedded.path}"
