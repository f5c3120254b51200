"""`bathyscope study agreement`: which features make a verb agree, found, checked, labelled and drawn."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bathyscope.cli import agreement_tables, choices, options, study_files, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import agreement as own
from bathyscope.cli.options import study
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.generation import Progress
    from bathyscope.model import Model
    from bathyscope.sae import SparseCoder

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
    penalties: own.Penalties = "0.03,0.1,0.3,1",
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
        errors=errors,  # type: ignore[arg-type]
        ablation=ablation,  # type: ignore[arg-type]
        sizes=_numbers(sizes, "--sizes", int),
        penalties=_numbers(penalties, "--penalties", float),
        steps=steps,
        seed=seed,
        compare=compare,
    )
    told = _labels(labels)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    found = _coders(read, coders, text, sites, latents, seed, shown)
    with stoppable() as stop, ExitStack() as bars:

        def say(what: str) -> "Progress | None":
            bars.close()
            return bars.enter_context(terminal.progress(what, shown=shown, per_cell=1, unit="sites"))

        from bathyscope import studies

        result = studies.agreement(read, found, asked, labels=told, say=say, stop=stop)
    study_files.show_or_save(
        result, as_json=as_json, out=out, plots=plots or (), draw="save_graph", show=agreement_tables.show
    )


def _numbers(typed: str, option: str, kind: type) -> tuple[Any, ...]:
    try:
        return tuple(kind(one) for one in typed.split(",") if one.strip())
    except ValueError as error:
        example = "10,50" if kind is int else "0.1,1"
        raise UsageError(f"{option} {typed} was given", "numbers with commas between", f"{option} {example}") from error


def _labels(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--labels {path} could not be read ({error})", "a JSON object", '{"resid_post.12/281": "plural subject"}'
        ) from error
    return {str(feature): str(label) for feature, label in found.items()}


def _coders(
    model: "Model", folder: Path, text: str | None, sites: str | None, latents: int, seed: int, shown: bool
) -> "list[SparseCoder]":
    """The coders of a folder, those of the sites that were asked for; trained first where there are none."""
    from bathyscope.sae import coder_folders, load_coder

    wanted = None if sites is None else [one.strip() for one in sites.split(",")]
    if text is not None and not any(folder.glob("*/cfg.json")):
        _train(folder, text, wanted or spread(model.n_layers), latents, seed, model, shown)
    with choices.refusing():
        found = [load_coder(one) for one in coder_folders(folder)]
    if wanted is None:
        return found
    by_site = {str(one.site): one for one in found}
    if missing := [site for site in wanted if site not in by_site]:
        raise UsageError(f"--sites {missing[0]} was given", f"{folder} has coders of {', '.join(by_site)}")
    return [by_site[site] for site in wanted]


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
    sae_train.train_into(folder, reader, coders, Settings(epochs=EPOCHS, seed=seed), shown=shown)
