"""`bathyscope steer`: what a model writes while a direction is added, beside its controls."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from bathyscope.cli import choices, effects, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import attribution
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.steering import Direction, SteeringResult


def command(
    prompt: options.Text,
    *,
    positive: attribution.Positives = None,
    negative: attribution.Negatives = None,
    layer: attribution.Layer = None,
    at: attribution.AtEach = "last",
    saved: attribution.Saved = None,
    coder: attribution.LatentCoder = None,
    latent: attribution.Latent = None,
    keep: attribution.Keep = None,
    factors: attribution.Factors = "-2,-1,1,2",
    new_tokens: options.NewTokens = None,
    seed: attribution.RandomSeed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    out: options.Out = None,
    debug: options.Debug = False,
) -> None:
    """Let a model write while a direction is added at every token.

    The direction is the mean of the positive prompts less that of the
    negative ones, at one layer, or what one latent of a sparse coder writes.
    Beside each factor stands a random direction of the same length, and
    beside all the text with nothing added.

    Examples:
      bathyscope steer "I think the film was" --positive "I love it" --negative "I hate it"
      bathyscope steer "The weather is" --positive "So warm" --negative "So cold" --factors -3,3 --keep warm.json
      bathyscope steer "The weather is" --direction warm.json --factors 2 --json
      bathyscope steer "The weather is" --coder coders/resid_post.8 --latent 281 --factors 20,40
    """
    del debug  # its callback has done the work
    numbers = _factors(factors)
    _check(positive, negative, saved, layer, keep)
    _check_latent(coder, latent, given=bool(positive or negative or saved or layer is not None))
    effects.check((prompt, *(positive or ()), *(negative or ())), (), None, revision, model, out)
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    if coder is not None and latent is not None:
        direction = _of_latent(read, coder, latent)
    else:
        direction = _direction(read, positive, negative, layer, at, saved)
    if keep is not None:
        direction.save(keep)
        terminal.note(f"the direction is kept as {keep}")
    from bathyscope.steering import steer

    wanted = choices.NEW_TOKENS if new_tokens is None else new_tokens
    with terminal.progress("steering", shown=shown, per_cell=wanted) as tick, stoppable() as stop:
        result = steer(read, prompt, direction, factors=numbers, new_tokens=wanted, seed=seed, progress=tick, stop=stop)
    show_or_save(result, as_json=as_json, out=out, show=_show)


def _factors(text: str) -> list[float]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[+-]?\d{1,6}(\.\d{1,6})?", part, re.ASCII) for part in parts):
        raise UsageError(f"--factors {text} was given", "numbers with commas between them", "--factors -2,2")
    return [float(part) for part in parts]


def _check(
    positive: list[str] | None, negative: list[str] | None, saved: Path | None, layer: int | None, keep: Path | None
) -> None:
    """Refuse what is no direction, or two."""
    if saved is not None and (positive or negative or layer is not None):
        raise UsageError("--direction was given with prompts or a layer", "it has its own", "--direction FILE alone")
    if saved is None and bool(positive) != bool(negative):
        raise UsageError("a direction needs prompts of both sides", "", '--positive "I love it" --negative "I hate it"')
    if keep is not None:
        choices.check_out(keep, ".json", option="--keep")
        choices.check_writable(keep.parent)


def _check_latent(coder: str | None, latent: int | None, *, given: bool) -> None:
    """Refuse half a latent, one beside another direction, and no direction at all."""
    if (coder is None) != (latent is None):
        raise UsageError("one of --coder and --latent was given", "a latent needs both", "--coder DIR --latent N")
    if coder is not None and given:
        raise UsageError("--coder was given with another direction", "", "--coder DIR --latent N alone")
    if coder is None and not given:
        raise UsageError("a direction needs prompts of both sides", "", '--positive "I love it" --negative "I hate it"')


def _of_latent(model: "Model", coder: str, latent: int) -> "Direction":
    from bathyscope.cli.sae_features import open_coder
    from bathyscope.sae import latent_direction

    return latent_direction(model, open_coder(coder), latent)


def _direction(
    model: "Model",
    positive: list[str] | None,
    negative: list[str] | None,
    layer: int | None,
    at: str,
    saved: Path | None,
) -> "Direction":
    from bathyscope.results import Result
    from bathyscope.steering import Direction, difference_of_means

    if saved is None:
        layer = 2 * model.n_layers // 3 if layer is None else layer
        return difference_of_means(model, positive or [], negative or [], layer, position=choices.position(at))
    with choices.refusing():
        found = Result.load(saved)
    if not isinstance(found, Direction):
        raise UsageError(f"{saved} holds a result of kind {found.kind}", "a direction is needed", "--keep FILE first")
    return found


def _show(result: "SteeringResult", console: Console) -> None:
    from bathyscope.steering.result import name

    for fact, text in result.facts().items():
        console.print(terminal.cell(f"{fact}: {text}", wrap=True))
    table = terminal.grid("added", "KL", texts=["the model writes"])
    for one in result.texts:
        table.add_row(name(one), f"{one.kl:.2f}", terminal.cell(one.text.strip() or "(nothing)", wrap=True))
    console.print(table)
    told = "Factors count the direction's own length. Large ones break any text: compare with the random direction."
    console.print(Text(told, "dim"), no_wrap=False)
