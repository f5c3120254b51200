"""`bathyscope study`: one question asked of many texts, layers and methods, as a table, a plot, JSON or a page."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

from bathyscope.cli import choices, mapping_choice, options, study_files, study_tables, terminal, text_files
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.engine import Stop
    from bathyscope.mappings import Affine
    from bathyscope.model import Model
    from bathyscope.store import Store
    from bathyscope.studies import NextTokenResult
    from bathyscope.texts import Texts

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

FORECAST_AFTER: Final = 5.0
"""Seconds after which the speed of a fit is known well enough."""


@app.callback()
def root() -> None:
    """Ask one question of many texts, names or facts: with controls and a seed.

    Each study measures its methods and their controls on the same items, and
    says how far its figures would move on other items of the kind. next-token
    reads a text of yours; the others have tables of the project's own.

    Examples:
      bathyscope study next-token --text news.txt --methods logit-lens,token-identity --positions 100
      bathyscope study entity-resolution --entities 20
      bathyscope study tokenization --words 8 --json
    """


@app.command("next-token")
def next_token(
    *,
    text: study.Text,
    column: study.Column = "text",
    positions: study.Positions = 1000,
    per_window: study.PerWindow = None,
    seed: study.Seed = 0,
    layers: study.Layers = "all",
    methods: study.Methods = None,
    held_out: study.HeldOut = None,
    tuned_lens: study.TunedLens = None,
    jacobian_lens: study.JacobianLens = None,
    fit_positions: study.FitPositions = None,
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
    """Measure how early each method tells what the model will say next.

    A method makes a next token of what stands at a layer and a position. It is
    compared with the token that the model itself says there: precision is how
    often they are the same; surprisal is how unlikely the model finds it.

    Examples:
      bathyscope study next-token --text news.txt
      bathyscope study next-token --text news.txt --methods logit-lens,token-identity --explain
      bathyscope study next-token --text news.txt --positions 5000 --seed 1 --plot study.svg
      bathyscope study next-token --text news.txt --tuned-lens tuned.safetensors --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    choices.check_layers(layers, "--layers")
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"positions": positions, "per_window": per_window, "seed": seed, "held_out": held_out}
    asked |= {"layers": layers, "methods": _methods(methods)}
    if fit_positions is not None:
        if tuned_lens is not None:
            raise UsageError(
                f"both --tuned-lens and --fit-positions {fit_positions} were given",
                "a lens is either given or fitted",
                "one of them",
            )
        asked["fit_positions"] = fit_positions
    texts = text_files.documents(text, column, None)  # a bad file is told before a model is waited for

    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    given = {"tuned_lens": tuned_lens, "jacobian_lens": jacobian_lens}
    asked |= {name: _lens(path, read) for name, path in given.items() if path is not None}
    with opened(stored=stored) as store, stoppable() as stop:
        result = _measured(read, texts, asked, store, stop, explain, (memory or 2048) * 2**20, shown)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_plot", show=study_tables.show
    )


def _measured(
    model: "Model",
    texts: "Texts",
    asked: dict[str, Any],
    store: "Store | None",
    stop: "Stop",
    explain: bool,
    budget: int,
    shown: bool,
) -> "NextTokenResult":
    """The study, with what has to be fitted first, and what is told meanwhile."""
    from bathyscope import studies

    asked = {**asked, **_fitted(model, texts, asked, store, stop, shown)}
    if explain:
        for method, plan in studies.plan_next_token(model, texts, budget=budget, **asked).items():
            terminal.note_lines(f"{method}, the first windows, which the others are like: {plan.explain()}")
    with terminal.progress("measuring", shown=shown, per_cell=1) as tick:
        return studies.next_token(model, texts, store=store, budget=budget, progress=tick, stop=stop, **asked)


def _fitted(
    model: "Model", texts: "Texts", asked: dict[str, Any], store: "Store | None", stop: "Stop", shown: bool
) -> dict[str, Any]:
    """The lenses that were not given, each said before it is fitted."""
    from bathyscope import studies

    found = {}
    for name, fit in studies.lens_fits(model, texts, **asked).items():
        folder = studies.lens_folder(store)
        terminal.note(f"{fit.describe(folder)}; another can be given: --{fit.method} FILE")
        with terminal.progress(f"fitting the {fit.method}", shown=shown, per_cell=1, unit="steps") as tick:
            # A bar says all the time how long it will take.
            told = tick if shown and terminal.err().is_terminal else _Forecast()
            found[name] = fit.run(folder, progress=told, stop=stop)
    return found


class _Forecast:
    """Says once, when a fit has been under way for a little, how long the rest of it will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._said = False

    def __call__(self, done: int, total: int) -> None:
        spent = time.monotonic() - self._began
        if done and not self._said and spent > FORECAST_AFTER:
            self._said = True
            left = spent * (total - done) / done
            terminal.note(f"about {left / 60:.0f} more minutes" if left > 90 else f"about {left:.0f} more seconds")


def _methods(typed: str | None) -> tuple[str, ...]:
    """The methods that were typed, those that exist and no others."""
    from bathyscope.studies import METHODS, check_methods

    found = METHODS if typed is None else tuple(name.strip() for name in typed.split(","))
    check_methods(found)
    return found


def _lens(path: Path, model: "Model") -> "Affine":
    if path.suffix == ".pt":
        return mapping_choice.published(path, model)
    return mapping_choice.load(path)
