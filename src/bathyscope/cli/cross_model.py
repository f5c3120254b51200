"""`bathyscope study cross-model`: what one model says of another's representations, for each pair of layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bathyscope.cli import choices, cross_model_tables, mapping_choice, options, study_files, terminal, text_files
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import cross_model as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.engine import Plan, Stop
    from bathyscope.model import Model
    from bathyscope.texts import Texts

PAIRS: Final = ("rotated", "sliced", "truncated")


def command(
    *,
    text: study.Text,
    column: study.Column = "text",
    positions: own.Positions = 500,
    seed: study.Seed = 0,
    layers: own.SourceLayers = None,
    target_layers: own.TargetLayers = None,
    names: own.Names = None,
    held_out: study.HeldOut = None,
    mapping: own.Mapping = None,
    fit_positions: own.FitPositions = None,
    source_model: options.SourceModel = None,
    target_model: options.TargetModel = None,
    pair: own.Pair = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: study.Out = None,
    plots: study.Plots = None,
    keep: own.Keep = None,
    explain: options.Explain = False,
    stored: options.Stored = True,
    memory: options.Memory = None,
    debug: options.Debug = False,
) -> None:
    """Measure what one model says of another's representations.

    A vector is read in one model, mapped, and written into another, which has
    read the same text, or a prompt. What it says next is compared with what the
    first model says. Beside every figure are those of controls, and names are
    described in words.

    Examples:
      bathyscope study cross-model --pair rotated --text news.txt
      bathyscope study cross-model --pair truncated --layers 5 --mapping identity --text news.txt --json
      bathyscope study cross-model --target-model ./other --text news.txt --plot study.png
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, source_model)
    kind, size = _checked_pair(pair, target_model, keep)
    _check_layers(layers, target_layers)
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"positions": positions, "seed": seed, "held_out": held_out}
    asked |= {"source_layers": layers, "target_layers": target_layers}
    asked |= {"names": names} if names else {}
    asked |= _fit_positions(mapping, fit_positions)
    chosen = None if mapping is None else mapping_choice.mapping(mapping, None)
    texts = text_files.documents(text, column, None)  # a bad file is told before a model is waited for

    from bathyscope import studies

    shown = terminal.may_animate(as_json=as_json)
    source = open_model(source_model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    with opened(stored=stored) as store, stoppable() as stop:
        if kind is None:
            target = open_model(target_model, dtype=dtype, attention=attention, shown=shown)
        else:
            target = _made(kind, size, source, texts, asked, stop, shown)
        if keep is not None:
            studies.save_pair(target, keep)
            terminal.note(f"kept in {keep}")
        what = "measuring" if mapping else "fitting, and then measuring"
        with terminal.progress(what, shown=shown, per_cell=1) as tick:
            how = {"budget": (memory or 2048) * 2**20, "progress": tick, "planned": _explain if explain else None}
            result = studies.cross_model(source, target, texts, mapping=chosen, store=store, stop=stop, **how, **asked)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_heat_maps", show=cross_model_tables.show
    )


def _check_layers(layers: str | None, target_layers: str | None) -> None:
    for typed, option in ((layers, "--layers"), (target_layers, "--target-layers")):
        if typed is not None:
            choices.check_layers(typed, option)


def _checked_pair(pair: str | None, target_model: str | None, keep: Path | None) -> tuple[str | None, int | None]:
    """The kind of model that is made, if any, and its size, if one was typed."""
    if (pair is None) == (target_model is None):
        raise UsageError(
            f"both --target-model {target_model} and --pair {pair} were given" if pair else "no second model was given",
            "one model is written into",
            "--pair rotated" if pair is None else "one of them",
        )
    if keep is not None and (pair is None or (keep.exists() and (not keep.is_dir() or any(keep.iterdir())))):
        reason = (
            "only a model that is made here can be kept" if pair is None else "a folder that is new or empty is needed"
        )
        raise UsageError(f"--keep {str(keep)!r} was given", reason, "--pair rotated --keep ./rotated")
    if pair is None:
        return None, None
    kind, colon, size = pair.partition(":")
    sized = colon and kind != "rotated" and size.isdecimal()
    if kind not in PAIRS or (colon and not sized):
        raise UsageError(
            f"--pair {pair} was given",
            f"models are {', '.join(PAIRS)}, sliced:WIDTH or truncated:BLOCKS",
            "--pair rotated",
        )
    return kind, int(size) if sized else None


def _fit_positions(mapping: str | None, typed: int | None) -> dict[str, int]:
    if typed is None:
        return {}
    if mapping is not None:
        raise UsageError(
            f"both --mapping {mapping} and --fit-positions {typed} were given",
            "a mapping is either given or fitted",
            "one of them",
        )
    return {"fit_positions": typed}


def _made(
    kind: str, size: int | None, source: "Model", texts: "Texts", asked: dict[str, Any], stop: "Stop", shown: bool
) -> "Model":
    """The second model, made of the first; what is fitted is fitted on text that is not measured on."""
    from bathyscope import studies

    if kind == "rotated":
        return studies.rotated(source, seed=asked["seed"])
    if kind == "truncated":
        return studies.truncated(source, max(1, 4 * source.n_layers // 5) if size is None else size)
    to_fit, _ = studies.parted(texts, asked["held_out"], [])
    if to_fit is None:
        raise UsageError(
            "--held-out 1 was given with --pair sliced",
            "it is fitted on text that is not measured on",
            "--held-out 0.3",
        )
    with terminal.progress("slicing", shown=shown, per_cell=1, unit="steps") as tick:
        found = studies.sliced(source, to_fit, width=size, seed=asked["seed"], progress=tick, stop=stop)
    terminal.note(f"{found.model.name}: {found.describe()}")
    return found.model


def _explain(plans: "Mapping[str, Plan]") -> None:
    told = {"windows": "the first windows, which the others are like", "words": "the descriptions"}
    for name, plan in plans.items():
        terminal.note_lines(f"{told[name]}: {plan.explain()}")
