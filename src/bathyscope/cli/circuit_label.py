"""`bathyscope circuit label`: what the latents of a circuit stand for, in words, each beside its controls."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bathyscope.cli import choices, circuit_label_tables, circuit_request, options, terminal, text_files
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import circuit_label as own
from bathyscope.cli.options import reading
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult


def command(
    file: own.File,
    *,
    text: reading.LatentText,
    column: reading.TextColumn = None,
    coders: own.Coders = None,
    tokens: reading.Tokens = own.TOKENS,
    describe: own.Describe = True,
    seed: reading.ReadingSeed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: own.Out = None,
    debug: options.Debug = False,
) -> None:
    """Put the latents of a circuit into words.

    A label is a rule, chosen on every other document of the text and measured
    on the others, where it is right enough, else the tokens that a latent
    promotes. The model's own description stands beside it with the best of
    control directions, and is no label. What was finished when it was stopped
    is kept beside the file. Labels of your own stay: {"resid_post.12/281":
    "plural subject"} in circuit.labels.json beside circuit.json.

    Examples:
      bathyscope circuit label circuit.json --text news.txt
      bathyscope circuit label circuit.json --text news.txt --tokens 20000 --no-describe --out labelled.json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    place = out or file
    choices.check_out(place, ".json", option="FILE" if out is None else "--out")
    choices.check_writable(place.parent)
    circuit = _opened(file, in_place=out is None)
    found = circuit_request.circuit_coders(circuit, coders)
    texts = text_files.documents(text, column or "text", None)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    from bathyscope.circuits import label_circuit
    from bathyscope.circuits.kept import Kept

    kept = place.with_suffix(".labelling")
    with stoppable() as stop, circuit_request.saying(shown, "tokens") as say:
        result = label_circuit(
            read,
            circuit,
            found,
            texts,
            n_tokens=tokens,
            describe=describe,
            seed=seed,
            kept=kept,
            say=say,
            stop=stop,
        )
    result.save(place)
    Kept(kept, {}).clear()
    terminal.note(f"saved to {place}")
    if as_json:
        typer.echo(result.to_json().encode())
    else:
        circuit_label_tables.show(result, terminal.out())


def _opened(path: Path, *, in_place: bool) -> "CircuitResult":
    """The circuit of a file.

    Raises:
        UsageError: it cannot be read, or is to be rewritten and holds more than a circuit.
    """
    from bathyscope.circuits import open_circuit
    from bathyscope.results import Result

    with choices.refusing():
        circuit = open_circuit(path)
        kind = Result.load(path).kind
    if in_place and kind != circuit.kind:
        raise UsageError(
            f"{path} holds a whole result of kind {kind}",
            "its circuit is labelled in a file of its own",
            f"--out {path.stem}-circuit.json",
        )
    return circuit
