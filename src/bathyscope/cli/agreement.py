"""`bathyscope study agreement`: which features make a verb agree, found, checked, labelled and drawn."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bathyscope.cli import agreement_tables, choices, circuit_request, options, study_files, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import agreement as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope.model import Model

SITES: Final = 10
"""How many sites coders are trained at, unless said."""
SENTENCES, LENGTH, WEIGHT, EPOCHS = 2500, 12, 1.0, 6
"""Sentences of the project's grammar that coders learn from besides the text, their windows, how often in an epoch."""


def command(
    *,
    coders: own.Folder,
    text: own.Text = None,
    sites: own.Sites = None,
    latents: own.Latents = 4608,
    case: own.Case = "nounpp",
    train: own.Train = 80,
    held_out: own.HeldOut = 60,
    errors: own.Errors = "ablated",
    ablation: own.Ablation = "mean",
    sizes: own.Sizes = "5,10,20,50,100,200",
    penalties: own.Penalties = "0.3,1,3",
    steps: own.Steps = 8,
    compare: own.Compare = True,
    labels: own.Labels = None,
    seed: study.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: study.Out = None,
    plots: study.Plots = None,
    debug: options.Debug = False,
) -> None:
    """Find the features that make a verb agree with its noun, and check them on other nouns.

    Pairs of sentences differ in one noun's number. Circuits of sparse latents are
    found on some nouns, and run alone, all else ablated, on nouns that neither
    they nor the coders' sentences have; beside them stand other bases of the same
    size. The picture is the smallest circuit that does what the model does.

    Examples:
      bathyscope study agreement --coders coders --case within_rc
      bathyscope study agreement --coders coders --sites resid_post.8 --sizes 5,10 --no-compare --plot circuit.svg
      bathyscope study agreement --coders trained --text news.txt --out circuit.html
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    study_files.check(out, plots or ())
    from bathyscope.studies import AgreementChoices

    asked = AgreementChoices(
        case=case,  # type: ignore[arg-type]
        train=train,
        held_out=held_out,
        compare=compare,
        find=circuit_request.find_choices(sizes, penalties, errors=errors, ablation=ablation, steps=steps, seed=seed),
    )
    told = {} if labels is None else circuit_request.labels(labels)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    wanted = None if sites is None else [one.strip() for one in sites.split(",")]
    if text is not None and not any(coders.glob("*/cfg.json")):
        _train(coders, text, wanted or spread(read.n_layers), latents, seed, read, shown)
    found = circuit_request.coders(coders, wanted)
    kept = None if out is None else circuit_request.parts_beside(out)
    with stoppable() as stop, circuit_request.saying(shown) as say:
        from bathyscope import studies

        result = studies.agreement(read, found, asked, kept=kept, say=say, stop=stop)
    result = replace(result, found=result.found.named(told))
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_graph", show=agreement_tables.show
    )
    if kept is not None:
        circuit_request.forget(kept)


def spread(n_layers: int, n: int = SITES) -> list[str]:
    """Sites after some blocks, the same distance apart, the first and last blocks left out.

    Example:
        >>> from bathyscope.cli.agreement import spread
        >>> spread(30)[:3], spread(30)[-1], spread(4)
        (['resid_post.1', 'resid_post.4', 'resid_post.7'], 'resid_post.28', ['resid_post.1', 'resid_post.2'])
    """
    last = n_layers - 2
    step = max(1, round((last - 1) / (n - 1)))
    return [f"resid_post.{layer}" for layer in range(1, last + 1, step)]


def _train(folder: Path, text: str, sites: list[str], latents: int, seed: int, model: "Model", shown: bool) -> None:
    """Train coders on a text and on the project's sentences, as `bathyscope sae train` does."""
    from bathyscope.cli import sae_request, sae_train
    from bathyscope.facts import agreement_sentences
    from bathyscope.sae import Reader, Settings, TopK, WeightedTexts
    from bathyscope.texts import given_texts

    coders, length = sae_request.asked(sites, None, False, latents, TopK()), min(128, model.max_length or 128)
    texts = sae_request.texts([text], "text", 0.1)
    sentences = given_texts(list(agreement_sentences(nouns="train", n=SENTENCES, seed=seed)))
    reader = Reader(
        model, tuple(one.site for one in coders), (*texts, WeightedTexts(sentences, WEIGHT, LENGTH)), length
    )
    trained = sae_train.train_into(folder, reader, coders, Settings(epochs=EPOCHS, seed=seed), shown=shown)
    for one in trained:
        told = "" if not one.history else f": FVU {one.history[-1].fvu:.3f}, {one.history[-1].dead} dead latents"
        terminal.note(f"saved to {folder / str(one.coder.site)}{told}")
