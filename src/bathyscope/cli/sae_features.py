"""`bathyscope sae features`: what a coder's latents stand for, as a table, one latent in full, JSON or a page."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from bathyscope.cli import choices, options, sae_latent_tables, terminal, text_files
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import reading
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.sae import SparseCoder
    from bathyscope.sae.reading import LatentReadings


def command(
    coder: reading.Coder,
    *,
    text: reading.LatentText,
    column: reading.TextColumn = None,
    tokens: reading.Tokens = reading.TOKENS,
    seed: reading.ReadingSeed = 0,
    latent: reading.Latents = None,
    top: reading.TopLatents = 20,
    search: reading.Search = None,
    html: reading.Html = None,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    debug: options.Debug = False,
) -> None:
    """See what the latents of a sparse coder stand for.

    Lists those first whose rule, chosen on every other document, is right
    on the others. Each has its density, its largest activation, the tokens
    that it promotes, and a place where it is most active, measured by the
    length of what it reads there.

    Examples:
      bathyscope sae features coders/resid_post.8 --text news.txt
      bathyscope sae features coders/resid_post.8 --text news.txt --search Paris --top 5
      bathyscope sae features coders/resid_post.8 --text news.txt --latent 954 --json
      bathyscope sae features coders/resid_post.8 --text news.txt --html latents.html
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    for path, endings, option in ((out, (".json", ".html"), "--out"), (html, (".html",), "--html")):
        if path is not None:
            choices.check_out(path, *endings, option=option)
            choices.check_writable(path.parent)
    if latent and search is not None:
        raise UsageError("both --latent and --search were given", "one of them says what is shown", "--latent N")
    texts = text_files.documents(text, column or "text", None)
    found = open_coder(coder)
    check_latents(found, latent)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    from bathyscope.sae.reading import read_latents

    # What is kept in a file is of all latents; one that is only looked at needs no others.
    wanted = latent if latent and out is None and html is None else None
    with terminal.progress("reading", shown=shown, per_cell=1, unit="tokens") as tick, stoppable() as stop:
        result = read_latents(
            read,
            found,
            texts,
            n_tokens=tokens,
            length=window_length(read),
            latents=wanted,
            seed=seed,
            progress=tick,
            stop=stop,
        )
    for path in (out, html):
        if path is not None:
            result.save(path)
            terminal.note(f"saved to {path}")
    show(result, _listed(result, latent, search, top), whole=bool(latent), as_json=as_json)


def _listed(result: "LatentReadings", latents: list[int] | None, search: str | None, top: int) -> list[int]:
    """The latents that are shown, in their order."""
    if latents:
        return list(dict.fromkeys(latents))
    if search is None:
        return result.order()[:top]
    there = set(result.search(search))
    return [latent for latent in result.order() if latent in there][:top]


def show(result: "LatentReadings", latents: list[int], *, whole: bool, as_json: bool) -> None:
    """Print some latents: as a table or each in full, as text or as JSON."""
    if as_json:
        found = json.loads(result.of(latents).to_json())
        if whole:
            found["latents"] = [asdict(result[latent]) for latent in latents]
        typer.echo(json.dumps(found, ensure_ascii=False, allow_nan=False).encode())
        return
    console = terminal.out()
    sae_latent_tables.show_facts(result, console)
    if whole:
        for latent in latents:
            sae_latent_tables.show_latent(result[latent], console)
    elif latents:
        sae_latent_tables.show_list([result[latent] for latent in latents], console)
    else:
        console.print("No latent has this text in its rule, its promoted tokens or its examples.")


def open_coder(path: str) -> "SparseCoder":
    """The one coder in a folder.

    Raises:
        UsageError: there are several, or none that can be read.
    """
    from bathyscope.sae import coder_folders, load_coder  # pyright: ignore[reportAttributeAccessIssue]

    with choices.refusing():
        folders = coder_folders(path)
        if len(folders) > 1:
            names = ", ".join(one.name for one in folders)
            raise UsageError(f"{path} holds {len(folders)} coders", f"one is read at a time: {names}", str(folders[0]))
        return load_coder(folders[0])


def window_length(model: "Model") -> int:
    """Tokens of a window that a model has positions for."""
    return min(reading.LENGTH, model.max_length or reading.LENGTH)


def check_latents(coder: "SparseCoder", latents: list[int] | None) -> None:
    """Refuse a latent that the coder does not have, before a model is loaded.

    Raises:
        UsageError: it has fewer.
    """
    if latents and max(latents) >= coder.n_latents:
        raise UsageError(
            f"--latent {max(latents)} was given", f"the coder has latents 0 to {coder.n_latents - 1}", "--latent 0"
        )
