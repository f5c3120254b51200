"""`bathyscope study entity-resolution`: from which layer on a model can say what a name stands for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bathyscope.cli import choices, entity_tables, mapping_choice, options, study_files, terminal
from bathyscope.cli.opening import open_model, opened
from bathyscope.cli.options import entity_resolution as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope.engine import Plan


def command(
    *,
    entities: own.Entities = 100,
    file: own.File = None,
    layers: study.Layers = "all",
    new_tokens: own.NewTokens = 8,
    seed: study.Seed = 0,
    tuned_lens: own.TunedLens = None,
    similarity: own.Similarity = None,
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
    """Measure from which layer on a model can say what a name stands for.

    A bare name is read at its last token after each layer, and written into the
    entity-description prompt. What is said is compared with a short reference;
    beside it stand controls, lenses and a probe on the same vectors.

    Examples:
      bathyscope study entity-resolution
      bathyscope study entity-resolution --entities 40 --layers 0-12 --plot entities.svg
      bathyscope study entity-resolution --file people.json --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    choices.check_layers(layers, "--layers")
    study_files.check(out, plots or ())
    asked: dict[str, Any] = {"layers": layers, "new_tokens": new_tokens, "seed": seed}

    from bathyscope import facts, sentences, studies

    among = facts.entities() if file is None else facts.load_entities(file)
    asked["entities"] = studies.drawn_entities(entities, seed=seed, among=among)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    if tuned_lens is not None:
        asked["tuned_lens"] = mapping_choice.load(tuned_lens)
    if (folder := similarity or sentences.installed_folder()) is not None:
        asked["sentence_model"] = sentences.load_sentence_model(folder)
    progress = terminal.progress("describing", shown=shown, per_cell=1)
    with opened(stored=stored) as store, stoppable() as stop, progress as tick:
        how = {"budget": (memory or 2048) * 2**20, "progress": tick, "planned": _explain if explain else None}
        result = studies.entity_resolution(read, store=store, stop=stop, **how, **asked)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_curves", show=entity_tables.show
    )


def _explain(plans: "Mapping[str, Plan]") -> None:
    told = {"names": "the first names, which the others are like", "controls": "the controls"}
    for name, plan in plans.items():
        terminal.note_lines(f"{told[name]}: {plan.explain()}")
