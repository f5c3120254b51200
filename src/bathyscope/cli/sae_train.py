"""`bathyscope sae train`: from text to sparse coders, in folders of their own."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bathyscope.cli import choices, options, sae_request, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import sae
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.engine import Stop
    from bathyscope.sae import Activations, CoderConfig, Measured, Reader, Settings, TrainedCoder

WORK = ".training"
"""The folder, within that of the coders, that an interrupted training goes on from."""


def command(
    *,
    site: sae.Sites,
    text: sae.Texts,
    out: sae.Folder,
    target: sae.Target = None,
    skip: sae.Skip = False,
    latents: sae.Latents = 4096,
    k: sae.K = None,
    sparsity: sae.SparsityName = "topk",
    coefficient: sae.Coefficient = None,
    column: sae.Column = "text",
    held_out: sae.HeldOut = 0.1,
    length: sae.Length = 128,
    keep: sae.Keep = "float32",
    most_room: sae.MostRoom = 16,
    epochs: sae.Epochs = 1,
    batch: sae.BatchSize = 2048,
    learning_rate: sae.LearningRate = None,
    seed: sae.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    force: sae.Force = False,
    debug: options.Debug = False,
) -> None:
    """Train sparse coders: few of many latents are active, and add up to what the model holds.

    The model reads the texts once, up to the last site that is asked for; all
    coders learn from that. Ctrl-C, or anything worse, loses a minute at most: the
    same command goes on, and gives the very same coders.

    Examples:
      bathyscope sae train --site resid_post.8 --text news.txt --epochs 6 --out trained
      bathyscope sae train --site resid_post.4 --site resid_post.9 --latents 8192 --k 64 --text news.txt --out trained
      bathyscope sae train --site resid_mid.5 --target mlp_out.5 --skip --text news.txt --out transcoders
      bathyscope sae train --site mlp_out.3 --sparsity jumprelu --text news.txt:0.5 --out trained
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    sae_request.check_folder(out, site, force=force)
    if learning_rate is not None and not learning_rate > 0:
        raise UsageError(f"--learning-rate {learning_rate} was given", "a number above 0", "--learning-rate 0.003")
    from bathyscope.sae import Reader, Settings

    how = sae_request.sparsity(sparsity, {"k": k, "coefficient": coefficient})
    coders = sae_request.asked(site, target, skip, latents, how)
    settings = Settings(epochs=epochs, batch_size=batch, learning_rate=learning_rate, seed=seed)
    texts = sae_request.texts(text, column, held_out)
    shown = terminal.may_animate(as_json=as_json)
    loaded = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    reader = Reader(loaded, tuple(dict.fromkeys(one for coder in coders for one in coder.sites)), texts, length)
    began = time.monotonic()
    trained = train_into(out, reader, coders, settings, held_out=held_out, keep=keep, most_room=most_room, shown=shown)
    _show(trained, out, time.monotonic() - began, as_json=as_json)


def train_into(
    folder: Path,
    reader: "Reader",
    coders: "tuple[CoderConfig, ...]",
    settings: "Settings",
    *,
    held_out: float = 0.1,
    keep: str = "float32",
    most_room: float = 16,
    shown: bool,
) -> "tuple[TrainedCoder, ...]":
    """Train coders, and save each in a folder of its own."""
    trained = _trained(reader, coders, settings, folder / WORK, keep, most_room, shown)
    for one in trained:
        _save(one, folder, {"held_out": held_out})
    shutil.rmtree(folder / WORK)
    return trained


def _trained(
    reader: "Reader",
    coders: "tuple[CoderConfig, ...]",
    settings: "Settings",
    work: Path,
    keep: str,
    most_room: float,
    shown: bool,
) -> "tuple[TrainedCoder, ...]":
    """Read, then train; what is done of either is kept in a folder until it is finished."""
    from bathyscope.sae import train_coders

    with stoppable() as stop:
        activations = _activations(reader, work, keep, most_room, shown, stop)
        terminal.note(f"{activations.n_tokens:,} tokens an epoch, {len(coders)} coder{'s' * (len(coders) > 1)}")
        work.mkdir(parents=True, exist_ok=True)
        kept = work / "checkpoint.safetensors"
        if kept.exists():
            terminal.note(f"going on from {kept}; the seconds at the end are of this run alone")
        with terminal.progress("training", shown=shown, per_cell=1, unit="steps") as tick:

            def watch(number: int, measured: "Measured") -> None:
                numbers = f"FVU {measured.fvu:.3f}, L0 {measured.l0:.1f}, {measured.dead} dead"
                tick.say(f"{coders[number].site}: {numbers}")

            return train_coders(activations, coders, settings, checkpoint=kept, progress=tick, watch=watch, stop=stop)


def _activations(reader: "Reader", work: Path, keep: str, most_room: float, shown: bool, stop: "Stop") -> "Activations":
    """What the model holds on the texts: kept on disk, or made anew in every epoch."""
    from bathyscope.sae import StreamedActivations, cache_activations

    if keep == "nothing":
        return StreamedActivations(reader)
    with terminal.progress("reading", shown=shown, per_cell=1, unit="tokens") as tick:
        room = round(most_room * 2**30)
        folder = work / "activations"
        return cache_activations(reader, folder, dtype=keep, most_bytes=room, progress=tick, stop=stop)


def _save(trained: "TrainedCoder", folder: Path, told: dict[str, Any]) -> None:
    """A coder's folder: the coder, its course as numbers, and drawn where matplotlib is there."""
    from bathyscope.files import write_atomically
    from bathyscope.sae import save_coder
    from bathyscope.training_plots import save_training

    coder = replace(trained.coder, training={**trained.coder.training, **told})
    own = folder / str(coder.site)
    own.mkdir(parents=True, exist_ok=True)
    course = [vars(one) for one in trained.history]
    write_atomically(own / "training.json", json.dumps({"course": course}).encode())
    try:
        save_training(trained.history, f"{coder.site}, {coder.n_latents:,} latents", own / "training.svg")
    except UsageError as missing:
        terminal.note(f"no plot of the training: {missing}")
    save_coder(coder, own)


def _show(trained: "tuple[TrainedCoder, ...]", folder: Path, seconds: float, *, as_json: bool) -> None:
    found = [
        {
            "site": str(one.coder.site),
            "folder": str(folder / str(one.coder.site)),
            "n_latents": one.coder.n_latents,
            "tokens": one.coder.training["n_tokens"],
            **({} if not one.history else {name: vars(one.history[-1])[name] for name in ("fvu", "l0", "dead")}),
        }
        for one in trained
    ]
    if as_json:
        typer.echo(json.dumps({"coders": found, "seconds": round(seconds, 1)}).encode())
        return
    table = terminal.grid("site", "latents", "tokens seen", "FVU", "L0", "dead", texts=["folder"])
    for one in found:
        numbers = (
            f"{one.get('fvu', float('nan')):.3f}",
            f"{one.get('l0', float('nan')):.1f}",
            f"{one.get('dead', '')}",
        )
        row = (one["site"], f"{one['n_latents']:,}", f"{one['tokens']:,}", *numbers, one["folder"])
        table.add_row(*(terminal.cell(str(part)) for part in row))
    terminal.out().print(table)
    terminal.note(f"{seconds:,.0f} s; FVU is the share of the variance that is missed, of the last steps of training")
    terminal.note(f"measured on text that was held out: bathyscope sae eval {folder} --text FILE --held-out 0.1")
