"""`bathyscope circuit edit`: what a model does with some latents set to a value."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bathyscope.cli import choices, circuit_request, options, terminal, text_files
from bathyscope.cli.options import circuit
from bathyscope.cli.showing import show_or_save

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult, EditResult, Examples
    from bathyscope.model import Model


def command(
    file: circuit.File,
    *,
    changes: circuit.Changes,
    pairs: circuit.EditPairs = None,
    coders: circuit.ItsCoders = None,
    limit: circuit.Limit = None,
    text: circuit.EditText = None,
    tokens: circuit.EditTokens = 8192,
    prompts: circuit.EditPrompts = None,
    new_tokens: options.NewTokens = None,
    seed: circuit.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: circuit.EditOut = None,
    debug: options.Debug = False,
) -> None:
    """Take features out of a model, or set them, and see what it does then.

    Everything else stays as it is, errors too. Beside what was measured stands
    what the features' attributions said before, and what the same change does
    to other latents that are active in the pairs.

    Examples:
      bathyscope circuit edit circuit.json --set resid_post.8/281@1
      bathyscope circuit edit circuit.json --pairs others.jsonl --set resid_post.8/281
      bathyscope circuit edit circuit.json --pairs others.jsonl --set resid_post.8/281=9 --prompt "The boats"
      bathyscope circuit edit circuit.json --pairs others.jsonl --set resid_post.8/281 --text news.txt --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
    if pairs is not None:
        circuit_request.check_pairs(pairs)
    from bathyscope.circuits import Change, edit_features

    asked = [Change.parse(one) for one in changes]
    texts = None if text is None else text_files.documents(text, "text", None)
    found, theirs = circuit_request.opened(file, coders)
    shown = terminal.may_animate(as_json=as_json)
    read = circuit_request.open_its_model(
        found, model, revision=revision, dtype=dtype, attention=attention, shown=shown
    )
    examples = _examples(read, found, pairs, limit)
    with terminal.progress("editing", shown=shown, per_cell=1, unit="runs") as tick:
        result = edit_features(
            read,
            list(theirs.values()),
            asked,
            examples,
            texts=texts,
            n_tokens=tokens,
            prompts=prompts or (),
            new_tokens=choices.NEW_TOKENS if new_tokens is None else new_tokens,
            seed=seed,
            progress=tick,
        )
    show_or_save(result, as_json=as_json, out=out, show=_show)


def _examples(model: "Model", found: "CircuitResult", pairs: Path | None, limit: int | None) -> "Examples":
    """The pairs of a file, or those that the circuit was found on."""
    from bathyscope.circuits import examples_of, read_examples

    with choices.refusing():
        if pairs is None:
            return examples_of(model, found.pairs[:limit])
        return read_examples(model, pairs, limit=limit, length=len(found.positions)).examples


def _show(result: "EditResult", console: Console) -> None:
    table = terminal.grid("change", texts=())
    for name in ("predicted", "measured"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in result.changes:
        table.add_row(terminal.cell(one["change"]), f"{one['predicted']:+.3f}", f"{one['measured']:+.3f}")
    console.print(table)
    table = terminal.grid("pairs", texts=())
    for name in ("logit difference", "accuracy"):
        for when in ("before", "after"):
            table.add_column(f"{name}\n{when}", justify="right", no_wrap=True)
    rows = {"all": [(one["logit_difference"], one["accuracy"]) for one in (result.before, result.after)]}
    for case in result.before["by_case"]:
        rows[case] = [tuple(one["by_case"][case]) for one in (result.before, result.after)]
    for name, (before, after) in rows.items():
        values = (f"{before[0]:.3f}", f"{after[0]:.3f}", f"{before[1]:.2f}", f"{after[1]:.2f}")
        table.add_row(terminal.cell(name), *values)
    console.print(table)
    changed = result.after["logit_difference"] - result.before["logit_difference"]
    others = ", ".join(f"{one:+.3f}" for one in result.controls)
    console.print(Text(f"all changes together: {changed:+.3f}; controls, as many other active latents each: {others}"))
    if result.loss:
        before, after, n = (result.loss[name] for name in ("before", "after", "tokens"))
        console.print(Text(f"loss on {n:,.0f} tokens of text: {before:.4f} to {after:.4f} nats"))
    for one in result.written:
        for when in ("before", "after"):
            console.print(terminal.cell(f"{when}: {one['prompt']}{one[when]}", wrap=True))
