"""`bathyscope mapping`: mappings between representations, fitted on text, kept in files, and shown."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from bathyscope.cli import choices, fits, mapping_choice, options, terminal, text_files
from bathyscope.cli.fit_request import Request
from bathyscope.cli.opening import open_model
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope.mappings import Affine, Fit
    from bathyscope.soft_prompts import SoftPrompt

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

MEANINGS: Final = {
    "error": "squared error on held-out text, 1 being that of knowing only the mean",
    "identity_error": "that of writing the vector unchanged",
    "mean_error": "that of the mean of the text that was fitted on",
    "kl": "how far the read-out is from what the model itself says (KL divergence in nats)",
    "logit_lens_kl": "kl of the logit lens, which has no mapping",
    "precision_at_1": "how often both have the same likeliest token",
    "logit_lens_precision_at_1": "precision at 1 of the logit lens",
    "start_kl": "kl before it was learned",
    "others_kl": "kl where each prefix was given another's vector: what the prompt alone can tell",
    "n": "positions that were held out",
}
"""What the columns of a fit are, for people."""
SAID: Final = ("width", "samples_per_width")
"""Options that are said in words."""


@app.callback()
def root() -> None:
    """Fit mappings from one representation to another, and look at them.

    A mapping is fitted on text, for the very models that it was fitted with. It
    is what fitted lenses and patchscopes between two models need.

    Examples:
      bathyscope mapping fit --method tuned-lens --text news.txt --out tuned.safetensors
      bathyscope mapping show tuned.safetensors
    """


@app.command("fit")
def fit(
    *,
    method: options.Method = "ridge",
    text: options.TextFile = None,
    column: options.Column = None,
    layers: options.SourceLayers = None,
    target_layers: options.TargetLayers = None,
    positions: options.Positions = None,
    ahead: options.FitAhead = None,
    seed: options.Seed = None,
    out: options.SavedMap,
    source_model: options.SourceModel = None,
    target_model: options.TargetModel = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Fit a mapping on text, measure it on text that was held out, and keep it.

    Ridge, which is the default, is an affine map for each pair of layers. Ctrl-C
    ends a fit; a tuned or a Jacobian lens then goes on by the same command.

    Examples:
      bathyscope mapping fit --out last.safetensors --positions 200
      bathyscope mapping fit --method jacobian-lens --text news.txt --out jacobian.safetensors
      bathyscope mapping fit --target-model ./other --text news.txt --out other.map
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, source_model)
    choices.check_map(out, text)
    given = {"text": text, "column": column, "layers": layers, "target_layers": target_layers, "positions": positions}
    given |= {"ahead": ahead, "seed": seed, "target_model": None if target_model == source_model else target_model}
    fits.check(method, {option for option, value in given.items() if value is not None})
    for typed, option, words in ((layers, "--layers", ()), (target_layers, "--target-layers", ("same", "last"))):
        if typed is not None and typed not in words:
            choices.check_layers(typed, option)
    if text is not None:  # a bad file is told before a model is waited for
        text_files.check(text, column or "text", statements=method == "relation")

    shown = terminal.may_animate(as_json=as_json)
    source = target = open_model(source_model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    if given["target_model"] is not None:
        target = open_model(target_model, dtype=dtype, attention=attention, shown=shown)
    kept = Path(f"{out}.checkpoint")
    with terminal.progress(f"fitting {method}", shown=shown, per_cell=1, unit="steps") as tick, stoppable() as stop:
        asked = Request(
            source, target, text, column or "text", layers, target_layers, positions, ahead, seed, kept, tick, stop
        )
        mapping = _fitted(method, asked)
    mapping.save(out)
    kept.unlink(missing_ok=True)
    terminal.note(f"saved to {out}")
    _show(mapping, out, as_json=as_json)


def _fitted(method: str, asked: Request) -> "Affine | SoftPrompt":
    """The mapping; whoever stops it is told what is left."""
    from bathyscope.engine import CancelledError

    try:
        return fits.METHODS[method].fit(asked)
    except CancelledError as stopped:
        left = stopped.expected
        if asked.checkpoint.exists():
            left = f"the same command goes on from {asked.checkpoint}"
        raise CancelledError(stopped.given, left) from stopped


@app.command("show")
def show(
    path: Annotated[Path, typer.Argument(metavar="MAP", help="A file that bathyscope mapping fit wrote.")],
    *,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Show what a mapping is for, what it was fitted on, and how well.

    Examples:
      bathyscope mapping show tuned.safetensors
      bathyscope mapping show tuned.safetensors --json
    """
    del debug  # its callback has done the work
    _show(mapping_choice.load_any(path), path, as_json=as_json)


def _show(mapping: "Affine | SoftPrompt", path: Path, *, as_json: bool) -> None:
    if as_json:
        record = {"kind": "mapping", "method": mapping.fit.method, "fingerprint": mapping.fingerprint()}
        record |= {"path": str(path), "fit": asdict(mapping.fit)}
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
        return
    _print(mapping.fit, terminal.out())


def _print(fit: "Fit", console: Console) -> None:
    for line in _about(fit):
        console.print(terminal.cell(line, wrap=True))
    errors = sorted(fit.held_out.items(), key=lambda item: [_layer(site) for site in item[0].split(">")])
    measured = sorted({name for _, one in errors for name in one}, key=_rank)
    if not measured:
        return
    table = terminal.grid(*(("layer", "to") if ">" in errors[0][0] else ("tokens on",)), texts=())
    figures = [[f"{one[name]:,.4g}" if name in one else "" for name in measured] for _, one in errors]
    for index, name in enumerate(measured):  # their heads may wrap, their figures may not
        table.add_column(_said(name), justify="right", min_width=max(len(row[index]) for row in figures))
    for (name, _), row in zip(errors, figures, strict=True):
        sites = (site.removeprefix("resid_post.") for site in name.split(">"))
        table.add_row(*(terminal.cell(text) for text in (*sites, *row)))
    console.print(table)
    for name in measured:
        if name in MEANINGS:
            console.print(Text(f"{_said(name)}: {MEANINGS[name]}.", "dim"))


def _layer(site: str) -> int:
    """The number that a site's name ends in; the embedding's is before all others."""
    number = site.rpartition(".")[2]
    return int(number) if number.isdecimal() else -1


def _rank(name: str) -> tuple[int, str]:
    """Measurements in the order that their meanings are listed in, and others after them."""
    known = list(MEANINGS)
    return known.index(name) if name in known else len(known), name


def _said(name: str) -> str:
    return terminal.clean(name.replace("_", " "))


def _about(fit: "Fit") -> list[str]:
    """Lines that say how and on what it was fitted."""
    models = [_named(fit.source), _named(fit.target)]
    width = fit.source.get("d_model")
    ratio = f", {fit.n_samples / width:,.1f} for each number of the width {width}" if width else ""
    return [
        f"method:    {fit.method}",
        f"models:    {models[0]}" if models[0] == models[1] else f"models:    {models[0]} to {models[1]}",
        f"text:      {_text(fit.text)}",
        f"positions: {fit.n_samples:,}{ratio}",
        *([f"options:   {', '.join(_options(fit.options))}"] if fit.options else []),
    ]


def _named(model: Mapping[str, Any]) -> str:
    return f"{model.get('model')} ({model.get('n_layers')} layers, width {model.get('d_model')})"


def _text(text: Mapping[str, Any]) -> str:
    documents = f", {text['n_documents']} documents" if "n_documents" in text else ""
    seed = f", seed {text['seed']}" if text.get("seed") is not None else ""
    return f"{text.get('name', 'none')} ({text.get('format', 'no format')}{documents}{seed})"


def _options(given: Mapping[str, Any]) -> list[str]:
    """Options that are one number or word each; --json has those that differ by layer as well."""
    shown = {name: value for name, value in given.items() if isinstance(value, (int, float, str)) and name not in SAID}
    return [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()]
