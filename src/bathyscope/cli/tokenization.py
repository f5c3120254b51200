"""`bathyscope study tokenization`: what the pieces of split words read as, layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bathyscope.cli import choices, options, study_files, terminal, tokenization_tables
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import study
from bathyscope.cli.options import tokenization as own
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.engine import Plan


def command(
    *,
    words: own.Words = 48,
    layers: study.Layers = "all",
    prompt: own.Prompt = "repeat",
    target_layer: own.TargetLayer = "same",
    new_tokens: own.NewTokens = 5,
    seed: study.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: study.Out = None,
    plots: study.Plots = None,
    explain: options.Explain = False,
    stored: options.Stored = True,
    memory: options.Memory = None,
    debug: options.Debug = False,
) -> None:
    """Measure what the pieces of split words read as, and since when as the whole word.

    Each piece is read after each layer and written into a prompt that repeats
    what stands there. Beside it: the last piece alone, behind another word's
    pieces, another word looked for, and the word as text.

    Examples:
      bathyscope study tokenization
      bathyscope study tokenization --words 20 --layers 0-15 --plot words.svg
      bathyscope study tokenization --prompt token-identity --target-layer 3 --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    choices.check_layers(layers, "--layers")
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"layers": layers, "prompt": prompt, "new_tokens": new_tokens, "seed": seed}
    asked["target_layer"] = _target_layer(target_layer)

    from bathyscope import studies

    asked["words"] = studies.drawn_words(words, seed=seed)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    progress = terminal.progress("reading pieces", shown=shown, per_cell=1)
    with opened(stored=stored) as store, stoppable() as stop, progress as tick:
        how = {"budget": (memory or 2048) * 2**20, "progress": tick, "planned": _explain if explain else None}
        result = studies.tokenization(read, store=store, stop=stop, **how, **asked)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_curves", show=tokenization_tables.show
    )


def _target_layer(typed: str) -> int | str:
    if typed == "same":
        return typed
    try:
        return int(typed)
    except ValueError:
        raise UsageError(f"--target-layer {typed} was given", "a layer, or same", "--target-layer 5") from None


def _explain(plans: "Mapping[str, Plan]") -> None:
    for plan in plans.values():
        terminal.note_lines(f"the first words, which the others are like: {plan.explain()}")
