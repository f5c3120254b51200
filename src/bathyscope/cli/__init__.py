"""The command line. Each command parses, calls one public function, and shows or saves what it returned.

Importing it loads neither torch nor transformers: commands import what they call.
"""

import re
import traceback
from collections.abc import Sequence
from typing import Annotated, Final

import typer

import bathyscope
from bathyscope.cli import (
    agreement,
    attribute,
    attribute_extraction,
    circuit,
    circuit_convert,
    circuit_edit,
    circuit_eval,
    circuit_find,
    circuit_label,
    circuit_show,
    cross_model,
    demo,
    doctor,
    entity_resolution,
    knockout,
    lens,
    mapping,
    models,
    multihop,
    patch,
    patchscope,
    runs,
    sae,
    sae_convert,
    sae_eval,
    sae_explain,
    sae_features,
    sae_train,
    serve,
    steer,
    studies,
    terminal,
    tokenization,
    toy_agreement,
    trace,
)
from bathyscope.cli.options import Session, remember_debug
from bathyscope.errors import BathyscopeError

__all__ = ["app", "main"]

WORDINGS: Final = {
    "Value error, ": "",
    r"Input should be greater than or equal to (\S+)": r"it must be at least \1",
    r"Input should be less than or equal to (\S+)": r"it must be at most \1",
    r"Input should be a valid integer.*": "a whole number is needed",
    r"Input should be a valid number.*": "a number is needed",
}
"""How the library below typer words a refusal, and how it is said here."""
INTERRUPTED = 130
"""Exit code of a command that was stopped with Ctrl-C, as shells expect it."""

app = typer.Typer(
    name="bathyscope",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.command)
app.command("patchscope")(patchscope.command)
app.command("lens")(lens.command)
app.command("patch")(patch.command)
app.command("trace")(trace.command)
app.command("knockout")(knockout.command)
app.command("attribute")(attribute.command)
app.command("steer")(steer.command)
app.command("doctor")(doctor.command)
app.command("models")(models.command)
app.command("serve")(serve.command)
app.add_typer(mapping.app, name="mapping")
studies.app.command("agreement")(agreement.command)
studies.app.command("attribute-extraction")(attribute_extraction.command)
studies.app.command("cross-model")(cross_model.command)
studies.app.command("entity-resolution")(entity_resolution.command)
studies.app.command("tokenization")(tokenization.command)
studies.app.command("toy-agreement")(toy_agreement.command)
studies.app.command("multihop")(multihop.command)
sae.app.command("convert")(sae_convert.command)
sae.app.command("eval")(sae_eval.command)
sae.app.command("explain")(sae_explain.command)
sae.app.command("features")(sae_features.command)
sae.app.command("train")(sae_train.command)
circuit.app.command("convert")(circuit_convert.command)
circuit.app.command("edit")(circuit_edit.command)
circuit.app.command("eval")(circuit_eval.command)
circuit.app.command("find")(circuit_find.command)
circuit.app.command("label")(circuit_label.command)
circuit.app.command("show")(circuit_show.command)
app.add_typer(circuit.app, name="circuit")
app.add_typer(sae.app, name="sae")
app.add_typer(studies.app, name="study")
app.add_typer(runs.app, name="runs")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bathyscope {bathyscope.__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", metavar="", callback=remember_debug, help="If something fails, print the traceback as well."
        ),
    ] = False,
) -> None:
    """Show what a language model holds inside, layer by layer, in the model's own words.

    Begin with: bathyscope demo
    """
    del version, debug  # their callbacks have done the work


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what stands after `bathyscope`; the process's own arguments unless given.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a request that cannot be carried out as it was
        written, 130 for one that was interrupted.

    Example:
        >>> from bathyscope.cli import main
        >>> main(["--version"])  # doctest: +ELLIPSIS
        bathyscope ...
        0
    """
    session = Session()
    try:
        terminal.quiet_libraries()
        command = typer.main.get_command(app)
        with terminal.telling_warnings():
            code = command.main(arguments, prog_name="bathyscope", standalone_mode=False, obj=session) or 0
    except SystemExit as stop:  # so rich and typer end when the reader of stdout has gone away
        code = stop.code if isinstance(stop.code, int) else 1
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if session.debug:
            traceback.print_exc()
        return _explain(error)
    if code == INTERRUPTED:
        terminal.complain("stopped")
    return code


def _explain(error: Exception) -> int:
    """Print one line on what went wrong, and give the exit code."""
    if isinstance(error, BathyscopeError):
        terminal.complain(str(error))
        return error.exit_code
    if isinstance(error, typer.TyperException):  # what typer says of options and arguments
        # Without a message it has printed the help that was due.
        message = error.format_message()
        for theirs, ours in WORDINGS.items():
            message = re.sub(theirs, ours, message)
        if message:
            context = getattr(error, "ctx", None)
            end = "" if message[-1] in ".?" else "."
            terminal.complain(f"{message}{end} Try: {context.command_path if context else 'bathyscope'} --help")
        return error.exit_code
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    terminal.complain(f"internal error: {reason}; run again with --debug to see where")
    return 1
