"""`bathyscope circuit label`: what the latents of a circuit stand for, in words, each beside its controls."""

from pathlib import Path

from bathyscope.cli import choices, circuit_label_tables, circuit_request, options, terminal, text_files
from bathyscope.cli.options import circuit, reading
from bathyscope.cli.options import circuit_label as own
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError


def command(
    file: circuit.File,
    *,
    text: reading.LatentText,
    column: reading.TextColumn = None,
    coders: circuit.ItsCoders = None,
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
    is kept beside the file. Labels of your own stay: {"resid_post.8/281":
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
    if out is None:
        _check_own_file(file)
    found, theirs = circuit_request.opened(file, coders)
    texts = text_files.documents(text, column or "text", None)
    shown = terminal.may_animate(as_json=as_json)
    read = circuit_request.open_its_model(
        found, model, revision=revision, dtype=dtype, attention=attention, shown=shown
    )
    from bathyscope.circuits import label_circuit

    kept = place.with_name(f".{place.name}.labels")
    with stoppable() as stop, circuit_request.saying(shown, "tokens") as say:
        result = label_circuit(
            read,
            found,
            theirs,
            texts,
            n_tokens=tokens,
            describe=describe,
            seed=seed,
            kept=kept,
            say=say,
            stop=stop,
        )
    show_or_save(result, as_json=as_json, out=place, show=circuit_label_tables.show)
    circuit_request.forget(kept)


def _check_own_file(path: Path) -> None:
    """Refuse to write a circuit over a result that holds more than that.

    Raises:
        UsageError: the file is of a study, or cannot be read.
    """
    from bathyscope.circuits import CircuitResult
    from bathyscope.results import Result

    with choices.refusing():
        kind = Result.load(path).kind
    if kind != CircuitResult.kind:
        raise UsageError(
            f"{path} holds a whole result of kind {kind}",
            "its circuit is labelled in a file of its own",
            f"--out {path.stem}-circuit.json",
        )
