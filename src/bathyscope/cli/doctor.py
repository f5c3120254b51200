"""`bathyscope doctor`: the checks of one model, as a table or JSON."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from bathyscope.cli import choices, options, terminal
from bathyscope.cli.opening import open_model

if TYPE_CHECKING:
    from bathyscope.checks import Check
    from bathyscope.model import Model

RESULTS = {True: ("pass", "green"), False: ("FAIL", "bold red"), None: ("skipped", "dim")}
"""What is printed for a check that passed, failed, or has nothing to measure."""


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            callback=choices.model_name,
            show_default="the embedded model",
            help="A Hugging Face id or a local folder, such as gpt2 or ./my-model.",
        ),
    ] = None,
    *,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Check that every place in a model is where Bathyscope reads and writes it.

    Exit code 1 if a check fails: numbers from that model would be wrong.

    Examples:
      bathyscope doctor
      bathyscope doctor ./my-model --dtype bfloat16
      bathyscope doctor gpt2 --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    shown = terminal.may_animate(as_json=as_json)
    # Unverified, since a model that fails is what a doctor is for.
    opened = open_model(model, revision=revision, dtype=dtype, verify=False, shown=shown)
    with terminal.progress("checking", shown=shown):
        from bathyscope.checks import all_checks

        found = all_checks(opened)
    failed = sum(check.passed is False for check in found)
    if as_json:
        typer.echo(json.dumps(_record(opened, found), ensure_ascii=False).encode())
    else:
        _print(opened, found, failed)
    if failed:
        raise typer.Exit(1)


def _record(model: "Model", found: "list[Check]") -> dict[str, object]:
    return {
        "kind": "doctor",
        "passed": all(check.passed is not False for check in found),
        "checks": [{"name": check.name, "passed": check.passed, "detail": check.detail} for check in found],
        "model": model.provenance(),
    }


def _print(model: "Model", found: "list[Check]", failed: int) -> None:
    console = terminal.out()
    about = model.provenance()
    console.print(
        terminal.cell(
            f"{about['model']}: family {about['family']}, layers 0 to {about['n_layers'] - 1}, "
            f"width {about['d_model']}, {about['dtype']}"
        )
    )
    table = terminal.grid("result", texts=("check", "detail"))
    for check in found:
        texts = terminal.cell(check.name, wrap=True), terminal.cell(check.detail, "dim", wrap=True)
        table.add_row(Text(*RESULTS[check.passed]), *texts)
    console.print(table)
    passed, skipped = (sum(check.passed is what for check in found) for what in (True, None))
    verdict = "Do not trust numbers from this model." if failed else "This model can be used."
    console.print(Text(f"{passed} passed, {failed} failed, {skipped} skipped. {verdict}", "bold red" if failed else ""))
