"""`bathyscope study multihop`: whether a failing two-hop answer is repaired by moving a representation."""

from typing import Any

from bathyscope.cli import choices, multihop_tables, options, study_files, terminal
from bathyscope.cli.attribute_extraction import number_of, relations_of
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import attribute_extraction as shared
from bathyscope.cli.options import multihop as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable


def command(
    *,
    relations: shared.Relations = None,
    queries: own.Queries = "200",
    every: own.Every = False,
    layers: shared.Layers = None,
    target_layers: shared.TargetLayers = None,
    new_tokens: shared.NewTokens = 10,
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
    """Measure whether moving a representation repairs two-hop answers.

    Queries such as "The capital city of the country where Petra is located" are
    made of two facts. What ends the first hop's words is written over the last
    token of the second's; corrected and broken answers are counted, and controls.

    Examples:
      bathyscope study multihop
      bathyscope study multihop --queries 400 --layers all --plot multihop.svg
      bathyscope study multihop --relation city-country --relation country-language --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    for given, option in ((layers, "--layers"), (target_layers, "--target-layers")):
        if given is not None:
            choices.check_layers(given, option)
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"layers": layers, "target_layers": target_layers, "every": every}
    asked |= {"queries": number_of(queries, "--queries"), "new_tokens": new_tokens, "seed": seed}
    facts = relations_of(relations)  # a bad file is told before a model is waited for

    from bathyscope import studies
    from bathyscope.studies.multihop_study.queries import draw_queries

    draw_queries(facts)  # so are relations that make no query
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    budget = (memory or 2048) * 2**20
    with (
        opened(stored=stored) as store,
        stoppable() as stop,
        terminal.progress("asking and patching", shown=shown, per_cell=1) as tick,
    ):
        if explain:
            plans = studies.plan_multihop(read, facts, budget=budget, progress=tick, **asked)
            cells, seconds = sum(len(plan.cells) for plan in plans), sum(plan.seconds for plan in plans)
            terminal.note(
                f"{cells:,} cells in {len(plans):,} parts that are kept one by one, about {seconds / 60:,.1f} min"
            )
            terminal.note_lines(f"the first of them, which the others are like: {plans[0].explain()}")
        result = studies.multihop(read, facts, store=store, budget=budget, progress=tick, stop=stop, **asked)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_counts", show=multihop_tables.show
    )
