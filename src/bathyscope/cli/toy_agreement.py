"""`bathyscope study toy-agreement`: a toy network, its sparse coder, and the graph of what each part does."""

from bathyscope.cli import options, study_files, toy_agreement_tables
from bathyscope.cli.options import study
from bathyscope.cli.options import toy_agreement as own


def command(
    *,
    seed: own.Seed = 0,
    latents: own.Latents = None,
    by_hand: own.ByHand = False,
    verb: own.Verb = "run",
    clean: own.Clean = "singular",
    corrupted: own.Corrupted = "plural",
    as_json: options.AsJson = False,
    out: study.Out = None,
    plots: study.Plots = None,
    debug: options.Debug = False,
) -> None:
    """Train the toy of the feature-circuit post, and draw what each part does.

    A network of two inputs and four hidden units learns whether run or runs
    follows; a sparse coder takes the units apart. Edges carry their effect on
    the verb, with how active their node is beside it. No model is loaded.

    Examples:
      bathyscope study toy-agreement
      bathyscope study toy-agreement --by-hand --plot graph.svg
      bathyscope study toy-agreement --clean "The dog runs" --corrupted "The dogs run" --seed 1 --json
    """
    del debug  # its callback has done the work
    study_files.check(out, plots or ())
    from bathyscope import studies

    result = studies.toy_agreement(
        seed=seed, latents=latents, verb=verb, clean=clean, corrupted=corrupted, by_hand=by_hand
    )
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_graph", show=toy_agreement_tables.show
    )
