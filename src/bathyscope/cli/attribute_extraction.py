"""`bathyscope study attribute-extraction`: what a model says of a subject, against what a probe tells."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bathyscope.cli import attribute_tables, choices, mapping_choice, options, study_files, terminal
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import attribute_extraction as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.facts import Relation
    from bathyscope.model import Model


def command(
    *,
    relations: own.Relations = None,
    layers: own.Layers = None,
    target_layers: own.TargetLayers = None,
    pairs: own.Pairs = "40",
    contexts: own.Contexts = 1,
    new_tokens: own.NewTokens = 10,
    folds: own.Folds = 3,
    top: own.TopTokens = 10,
    seed: study.Seed = 0,
    tuned_lens: own.TunedLens = None,
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
    """Measure which attributes of a subject can be read at which layer.

    A subject is read in a sentence after each layer, and written into a prompt
    such as "The capital city of x". Beside how often the model then says the
    object stand a trained probe on the same items, lenses and controls.

    Examples:
      bathyscope study attribute-extraction --relation country-capital
      bathyscope study attribute-extraction --relation mine.json --relation yours.json --json
      bathyscope study attribute-extraction --relation animal-class --layers all --contexts 5
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    for given, option in ((layers, "--layers"), (target_layers, "--target-layers")):
        if given is not None:
            choices.check_layers(given, option)
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"layers": layers, "target_layers": target_layers, "pairs": number_of(pairs, "--pairs")}
    asked |= {"contexts": contexts, "new_tokens": new_tokens, "folds": folds, "top": top, "seed": seed}
    facts = relations_of(relations)  # a bad file is told before a model is waited for
    if tuned_lens is not None:
        asked["tuned_lens"] = mapping_choice.load(tuned_lens)

    from bathyscope import studies

    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    budget = (memory or 2048) * 2**20
    if explain:
        _explain(read, facts, asked, budget)
    with (
        opened(stored=stored) as store,
        stoppable() as stop,
        terminal.progress("measuring", shown=shown, per_cell=1) as tick,
    ):
        result = studies.attribute_extraction(
            read, facts, store=store, budget=budget, progress=tick, stop=stop, **asked
        )
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_curves", show=attribute_tables.show
    )


def relations_of(given: Sequence[str] | None) -> "list[Relation]":
    """Relations by name or file; the project's own unless given.

    Raises:
        UsageError: there is none of that name, or a file is no relation.
    """
    from bathyscope.facts import load_relation, own_relation, own_relations

    if not given:
        return list(own_relations().values())
    with choices.refusing():
        return [
            load_relation(choices.readable(one) or "") if Path(one).suffix or Path(one).is_file() else own_relation(one)
            for one in given
        ]


def number_of(typed: str, option: str) -> int | None:
    """A number, or None for all.

    Raises:
        UsageError: it is neither.
    """
    if typed == "all":
        return None
    if not re.fullmatch(r"[1-9]\d{0,6}", typed):
        raise UsageError(f"{option} {typed} was given", 'a number from 1, or "all"', f"{option} 40")
    return int(typed)


def _explain(model: "Model", facts: "Sequence[Relation]", asked: dict[str, Any], budget: int) -> None:
    from bathyscope import studies

    plans = studies.plan_attribute_extraction(model, facts, budget=budget, **asked)
    cells, seconds = sum(len(plan.cells) for plan in plans), sum(plan.seconds for plan in plans)
    terminal.note(
        f"{cells:,} cells in {len(plans):,} parts that are kept one by one, about {seconds / 60:,.1f} minutes"
    )
    terminal.note_lines(f"the first of them, which the others are like: {plans[0].explain()}")
