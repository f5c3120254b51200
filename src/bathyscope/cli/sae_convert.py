"""`bathyscope sae convert`: a coder of any format that is read, in one that is written."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bathyscope.cli import options, terminal
from bathyscope.cli.options import sae_convert
from bathyscope.errors import BathyscopeError, UsageError

if TYPE_CHECKING:
    from bathyscope.sae import SparseCoder
    from bathyscope.sae.formats.base import FolderFormat


@dataclass(frozen=True)
class Converted:
    """One coder that was read and written."""

    source: str
    format: str
    coder: "SparseCoder"
    path: Path


def command(
    source: sae_convert.Source,
    out: sae_convert.Destination,
    *,
    to: sae_convert.To = "bathyscope",
    site: sae_convert.Site = None,
    target: sae_convert.Target = None,
    force: sae_convert.Force = False,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Read a coder of any known format, and write it in another.

    Read are Bathyscope's own, SAELens, sparsify, dictionary_learning, Gemma
    Scope and OpenAI's. What SOURCE is, its files say; what a format cannot
    express is refused. Of a folder of coders, each is written to OUT/NAME.

    Examples:
      bathyscope sae convert coders/resid_post.8 for-saelens --to saelens
      bathyscope sae convert coders copies --to sparsify --json
    """
    del debug  # its callback has done the work
    from bathyscope.sites import Site

    for typed in (site, target):  # a bad site is told before anything is fetched
        if typed is not None:
            Site.parse(typed)
    places = _places(source, out)
    if len(places) > 1 and (site or target):
        raise UsageError(
            f"one site was given for the {len(places)} coders of {source}", "each has its own", f"{places[0][0]}"
        )
    done = [_convert(one, path, to, site, target, force) for one, path in places]
    if as_json:
        record = {"kind": "sae_conversion", "to": to, "coders": [_record(one) for one in done]}
        typer.echo(json.dumps(record, ensure_ascii=False, allow_nan=False).encode())
    else:
        _print(done)


def _places(source: str, out: Path) -> list[tuple[str, Path]]:
    """Each coder of a source, and where it goes."""
    from bathyscope.sae import coder_folders

    folder = Path(source).expanduser()
    if not folder.is_dir():
        return [(source, out)]
    try:
        found = coder_folders(folder)
    except BathyscopeError:  # a format without cfg.json; if there is none, reading says what is there
        return [(source, out)]
    return [(source, out)] if found == [folder] else [(str(one), out / one.name) for one in found]


def _convert(source: str, out: Path, to: str, site: str | None, target: str | None, force: bool) -> Converted:
    from bathyscope.sae.formats import find_coder, writable

    found = find_coder(source)
    terminal.note(f"{source} is recognised as {found.format.title}")
    coder = found.load(site, target)
    chosen = writable(to)
    written = chosen.as_written(coder)
    if not force:
        _check_free(out, chosen, written)
    chosen.save(coder, out)
    for other in _weights_in(out):
        if other.name != chosen.weights:
            other.unlink()
    if coder.site is None:
        terminal.note(f"where {source} belongs is not known; --site SITE says it")
    if written.fingerprint != coder.fingerprint:
        terminal.note(f"{chosen.title} was given other tensors, which compute the same")
    return Converted(source, found.format.name, coder, out)


def _check_free(out: Path, chosen: "FolderFormat", written: "SparseCoder") -> None:
    """Refuse a folder that has another coder, or one of another format."""
    from bathyscope.sae import load_coder

    there = [path.name for path in _weights_in(out)]
    if not there:
        return
    what = f"has {there[0]}"
    if there == [chosen.weights]:
        try:
            if load_coder(out).fingerprint == written.fingerprint:
                return
            what = "has another coder"
        except BathyscopeError:
            what = "has a coder that cannot be read"
    raise UsageError(f"{out} {what}", "what is there is not replaced unasked", "another OUT, or --force")


def _weights_in(folder: Path) -> list[Path]:
    """The files in a folder that hold a coder of a format that is written."""
    from bathyscope.sae.formats import WRITABLE

    return [folder / fmt.weights for fmt in WRITABLE.values() if (folder / fmt.weights).exists()]


def _record(done: Converted) -> dict[str, Any]:
    coder = done.coder
    return {
        "source": done.source,
        "format": done.format,
        "path": str(done.path),
        "site": None if coder.site is None else str(coder.site),
        "target": None if coder.target is None else str(coder.target),
        "n_latents": coder.n_latents,
        "d_in": coder.d_in,
        "d_out": coder.d_out,
        "normed": coder.normed,
        "skip": coder.skip is not None,
        **coder.selection.spec(),
        "model": coder.model.get("model"),
        "fingerprint": coder.fingerprint,
    }


def _print(done: list[Converted]) -> None:
    table = terminal.grid("was", "site", "latents", "width", "keeps", texts=("written to",))
    for one in done:
        coder = one.coder
        site = "unknown" if coder.site is None else str(coder.site)
        where = site if coder.target == coder.site else f"{site} to {coder.target or 'unknown'}"
        width = f"{coder.d_in}" if coder.d_in == coder.d_out else f"{coder.d_in} to {coder.d_out}"
        rule = coder.selection.spec()
        keeps = f"the {rule['k']} largest" if "k" in rule else "what is above a threshold"
        row = (one.format, where, f"{coder.n_latents:,}", width, keeps, str(one.path))
        table.add_row(*(terminal.cell(text) for text in row))
    terminal.out().print(table)
