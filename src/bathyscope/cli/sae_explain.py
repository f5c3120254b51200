"""`bathyscope sae explain`: a latent's rule in words and the model's own description, each beside its controls."""

from typing import TYPE_CHECKING, Annotated

import typer

from bathyscope.cli import choices, options, terminal, text_files
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import reading
from bathyscope.cli.sae_features import check_latents, open_coder, show, window_length
from bathyscope.cli.stopping import stoppable

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.texts import Texts

DOCUMENTS = 128
"""How many the model writes itself where no text is given."""

OwnText = Annotated[
    str | None,
    typer.Option(
        "--text",
        metavar="FILE",
        callback=choices.readable,
        show_default="written by the model itself",
        help="What the model reads, such as --text news.txt, --text news.jsonl or --text hf:owner/name:config:split.",
    ),
]


def command(
    coder: reading.Coder,
    *,
    latent: reading.Explained,
    text: OwnText = None,
    column: reading.TextColumn = None,
    tokens: reading.Tokens = reading.TOKENS,
    new_tokens: reading.DescriptionTokens = 10,
    seed: reading.ReadingSeed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    debug: options.Debug = False,
) -> None:
    """Explain latents: by a rule that is measured, and by what the model says.

    The rule is chosen on every other document and measured on the others.
    The description is what the model writes where the latent's direction
    stands in a prompt, tried at several layers and lengths; random directions
    are tried in the same way. One that does not beat them says nothing.

    Examples:
      bathyscope sae explain coders/resid_post.8 --latent 954 --text news.txt
      bathyscope sae explain coders/resid_post.8 --latent 954 --latent 12 --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    if out is not None:
        choices.check_out(out, ".json", ".html")
        choices.check_writable(out.parent)
    texts = None if text is None else text_files.documents(text, column or "text", None)
    found = open_coder(coder)
    check_latents(found, latent)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    from bathyscope.sae.reading import describe_latents, read_latents

    texts = texts or _own(read, seed)
    with stoppable() as stop:
        with terminal.progress("reading", shown=shown, per_cell=1, unit="tokens") as tick:
            result = read_latents(
                read,
                found,
                texts,
                n_tokens=tokens,
                length=window_length(read),
                latents=latent,
                seed=seed,
                progress=tick,
                stop=stop,
            )
        with terminal.progress("describing", shown=shown, per_cell=new_tokens, unit="texts") as tick:
            result = describe_latents(
                read, found, result, latent, new_tokens=new_tokens, seed=seed, progress=tick, stop=stop
            )
    if out is not None:
        result.save(out)
        terminal.note(f"saved to {out}")
    show(result, list(dict.fromkeys(latent)), whole=True, as_json=as_json)


def _own(model: "Model", seed: int) -> "Texts":
    """What the model writes itself."""
    from bathyscope.texts import sampled_texts

    terminal.note(f"no --text was given: {model.name} writes {DOCUMENTS} documents itself")
    return sampled_texts(model, n_documents=DOCUMENTS, n_tokens=window_length(model), seed=seed)
