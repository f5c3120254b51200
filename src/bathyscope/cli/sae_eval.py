"""`bathyscope sae eval`: how well coders reconstruct, and what they cost their model."""

from pathlib import Path
from typing import TYPE_CHECKING

from bathyscope.cli import choices, options, sae_eval_tables, terminal, text_files
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import sae_eval as measure
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope.sae import SparseCoder
    from bathyscope.texts import Texts


def command(
    folder: measure.Folder,
    *,
    text: measure.Texts,
    column: measure.Column = "text",
    held_out: measure.HeldOut = None,
    tokens: measure.Tokens = None,
    loss_tokens: measure.LossTokens = 8192,
    length: measure.Length = 128,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    debug: options.Debug = False,
) -> None:
    """Measure sparse coders on text: reconstruction, sparsity, and the model's loss with them in place.

    Measure on text that a coder was not trained on. Attention sinks are left out
    and left as they are, and numbers with them stand beside. --json prints one
    object: of one coder its measures, of several {"coders": {NAME: {...}}}, the
    name of each being its folder's.

    Examples:
      bathyscope sae eval coders --text news.txt
      bathyscope sae eval coders/resid_post.8 --text news.txt --held-out 0.1 --json
      bathyscope sae eval coders --text news.txt --tokens 20000 --out measured.html
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
    texts = [_texts(path, column, held_out) for path in text]  # a bad file is told before a model is waited for
    found = _coders(folder)

    from bathyscope.sae import evaluate_coders

    shown = terminal.may_animate(as_json=as_json)
    source = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    with terminal.progress("measuring", shown=shown, per_cell=1, unit="tokens") as tick, stoppable() as stop:
        measured = evaluate_coders(
            source,
            found,
            texts,
            n_tokens=tokens,
            length=length,
            loss_tokens=loss_tokens,
            progress=tick,
            stop=stop,
        )
    result = next(iter(measured.coders.values())) if len(found) == 1 else measured
    show_or_save(result, as_json=as_json, out=out, show=sae_eval_tables.show)


def _coders(folder: str) -> "dict[str, SparseCoder]":
    """The coders of a folder, by the names of theirs below it; one that is named itself by its site."""
    from bathyscope.sae.formats import coder_folders, load_coder

    with choices.refusing():
        if folder.startswith("hf:"):
            return {folder: load_coder(folder)}
        found = {one: load_coder(one) for one in coder_folders(folder)}
    root = Path(folder)
    return {
        str(coder.target) if one == root else one.relative_to(root).as_posix(): coder for one, coder in found.items()
    }


def _texts(path: str, column: str, held_out: float | None) -> "Texts":
    from bathyscope.texts import split_texts

    found = text_files.documents(path, column, None)
    return found if held_out is None else split_texts(found, held_out=held_out)[1]
