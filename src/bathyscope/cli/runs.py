"""`bathyscope runs`: the stored runs, to list, show, finish, export and delete."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from bathyscope.cli import choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.store import RunInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

PATCHSCOPE, CAUSAL = "patchscope", "causal"
"""The kinds of runs whose specs are enough to ask them again."""

RunId = Annotated[
    str, typer.Argument(metavar="ID", callback=choices.readable, help="A run's id, or how it begins, such as 3fa9.")
]


@app.callback()
def root() -> None:
    """Keep, finish and export what was computed.

    Every finished cell of a patchscope is kept: asking again costs nothing, and
    a run that was interrupted goes on where it stopped.

    Examples:
      bathyscope runs list
      bathyscope runs list --json
    """


@app.command("list")
def list_runs(*, as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """List the stored runs, the oldest first.

    Examples:
      bathyscope runs list
      bathyscope runs list --json
    """
    del debug  # its callback has done the work
    from bathyscope.store import Store

    with Store() as store:
        found = store.runs()
    if as_json:
        typer.echo(json.dumps({"kind": "runs", "runs": [_record(info) for info in found]}, ensure_ascii=False).encode())
        return
    console = terminal.out()
    if not found:
        console.print('There is no run yet. Try: bathyscope patchscope "Marie Curie"')
        return
    table = terminal.grid("run", "when", "cells", texts=("of",))
    for info in found:
        cells = f"{info.n_done}/{info.n_cells}"
        style = "" if info.status == "complete" else "yellow"
        table.add_row(
            terminal.cell(info.id[:8]),
            terminal.cell(info.created[:16]),
            Text(cells, style),
            terminal.cell(_title(info)),
        )
    console.print(table)


@app.command("show")
def show_run(run: RunId, *, as_json: options.AsJson = False, debug: options.Debug = False) -> None:
    """Show what a run asked, how it was computed, and how far it came.

    Examples:
      bathyscope runs show 3fa9
    """
    del debug  # its callback has done the work
    from bathyscope.store import Store

    with Store() as store:
        info = store.show(store.find(run))
    if as_json:
        typer.echo(json.dumps({"kind": "run", **_record(info)}, ensure_ascii=False).encode())
        return
    console = terminal.out()
    table = terminal.grid("", texts=("",))
    for name, value in _record(info).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        table.add_row(terminal.cell(name), terminal.cell(text, wrap=True))
    console.print(table)


@app.command("resume")
def resume_run(
    run: RunId, *, as_json: options.AsJson = False, out: options.Out = None, debug: options.Debug = False
) -> None:
    """Compute what a run still lacks, and show all of it.

    A run that is complete is shown without any model work.

    Examples:
      bathyscope runs resume 3fa9
      bathyscope runs resume 3fa9 --json --out run.html
    """
    del debug  # its callback has done the work
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
    from bathyscope.store import Store

    shown = terminal.may_animate(as_json=as_json)
    with Store() as store:
        info = store.show(store.find(run))
        if info.kind not in (PATCHSCOPE, CAUSAL) or not info.spec.get("models"):
            raise UsageError(
                f"run {info.id} is of kind {info.kind}",
                "this one cannot be asked again by its run; it goes on from where it stopped when it is asked anew",
                "the same bathyscope command",
            )
        from bathyscope.causal import causal_again
        from bathyscope.patchscopes import patchscope_again

        models = _models(info.spec["models"], shown=shown)
        with terminal.progress("going on", shown=shown) as tick, stoppable() as stop:
            options = {"store": store, "progress": tick, "stop": stop}
            if info.kind == CAUSAL:
                result = causal_again(info.spec, models[0], **options)
            else:
                result = patchscope_again(info.spec, *models, **options)
    show_or_save(result, as_json=as_json, out=out, show=effects.show if info.kind == CAUSAL else None)


@app.command("export")
def export_run(
    run: RunId,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A file that ends in .json, .csv or .parquet.")],
    *,
    debug: options.Debug = False,
) -> None:
    """Write a run's finished cells to a file, sorted by key: the same cells give the same bytes.

    Examples:
      bathyscope runs export 3fa9 run.csv
      bathyscope runs export 3fa9 run.json
    """
    del debug  # its callback has done the work
    choices.check_out(out, ".json", ".csv", ".parquet")
    from bathyscope.store import Store

    with Store() as store:
        store.export(store.find(run), out)
    terminal.note(f"saved to {out}")


@app.command("delete")
def delete_run(run: RunId, *, debug: options.Debug = False) -> None:
    """Delete a run and those of its cells that no other run has.

    Examples:
      bathyscope runs delete 3fa9
    """
    del debug  # its callback has done the work
    from bathyscope.store import Store

    with Store() as store:
        found = store.find(run)
        count = store.delete(found)
    terminal.note(f"deleted run {found} and {count} cells")


def _models(named: list[dict[str, Any]], *, shown: bool) -> "tuple[Model, Model]":
    """The two models of a run, loaded once where they are the same."""
    opened = [
        open_model(
            one["name"],
            revision=one["revision"],
            dtype=one["dtype"],
            attention=one["attention"],
            shown=shown,
        )
        for one in (named[:1] if named[0] == named[-1] else named)
    ]
    return opened[0], opened[-1]


def _record(info: "RunInfo") -> dict[str, Any]:
    return {
        "id": info.id,
        "kind_of_result": info.kind,
        "created": info.created,
        "status": info.status,
        "cells": info.n_cells,
        "done": info.n_done,
        "spec": info.spec,
        "plan": info.plan,
    }


def _title(info: "RunInfo") -> str:
    read = info.spec.get("source", {}).get("prompt") or info.spec.get("text", {}).get("name")
    read = read or next((one["prompt"] for one in info.spec.get("prompts", {}).values()), None)
    return f"{info.kind}: {read}" if read else info.kind
