"""Activation patching: what one run holds at a place, written into another run (arXiv 2309.16042, 2404.15255)."""

from collections.abc import Sequence
from typing import Any, Final, Literal, Unpack

from bathyscope import prompts
from bathyscope.causal.measuring import RunOptions, check_apart, concluded, measure, patched, share
from bathyscope.causal.pairs import Pair, pair
from bathyscope.causal.places import named, said, sites_of, window_notes, window_of
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell
from bathyscope.errors import UsageError
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_request import Layers
from bathyscope.prompts import Position
from bathyscope.readouts import Metric

Direction = Literal["denoising", "noising"]
DIRECTIONS: Final = ("denoising", "noising")


def activation_patching(  # noqa: PLR0913 (what is patched, where, and how)
    model: Model,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    *,
    component: str | Sequence[str] = "resid_post",
    layers: Layers = "all",
    position: Position = "all",
    together: bool = False,
    heads: bool = False,
    window: int = 1,
    direction: Direction = "denoising",
    **options: Unpack[RunOptions],
) -> CausalResult:
    """Write what one run holds at a place into another run, place by place, and measure what that changes.

    Denoising writes the clean run's activations into the corrupted run: what is enough to restore the answer. Noising
    writes the corrupted run's into the clean one: what the answer cannot do without.

    Args:
        model: the model.
        clean: the prompt whose answer is right.
        corrupted: one of as many tokens, whose answer is another.
        metric: one number of the next token's logits, such as `LogitDiff(answer, wrong_answer)`.
        component: what is written, of `sites.COMPONENTS`; one or several.
        layers: of which blocks; -1 is the embedding, where the residual stream has it.
        position: at which tokens, each in a run of its own.
        together: write all these positions in the same run instead.
        heads: whether each head is written by itself.
        window: how many neighbouring layers are written together around each.
        direction: "denoising" or "noising".
        options: see `RunOptions`.

    Returns:
        An effect a place: 0 leaves the run as it was, 1 makes its metric that of the run that was read.

    Raises:
        UsageError: prompts of different lengths, a metric that both runs have alike, or a place that does not exist.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal import activation_patching
        >>> from bathyscope.readouts import LogitDiff
        >>> found = activation_patching(
        ...     bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"), layers="0,29", position="last"
        ... )
        >>> [round(cell.effect, 2) + 0.0 for cell in found.cells]
        [1.0, 1.0]
    """
    if direction not in DIRECTIONS:
        raise UsageError(f"direction={direction!r} was given", f"it is {' or '.join(DIRECTIONS)}", "denoising")
    asked = pair(model, clean, corrupted, metric)
    read, written = _runs(asked, direction)
    positions = prompts.resolve(asked.clean, position)
    sites = sites_of(model, component, layers, heads=heads)
    check_apart(model, metric, written, read)
    groups = [positions] if together else [(one,) for one in positions]
    places = [(site, group) for site in sites for group in groups]
    windows = [window_of(site, window, model.n_layers) for site, _ in places]
    cells = [
        patched(metric, read, written, several, group) for several, (_, group) in zip(windows, places, strict=True)
    ]
    spec: dict[str, Any] = {
        "method": "activation-patching",
        "direction": direction,
        "sites": [str(site) for site in sites],
        **said(component, layers, heads=heads),
        "positions": [list(group) for group in groups],
        "window": window,
    }
    ends = [Cell(written, metric), Cell(read, metric)]
    read_and_written = {"clean": asked.clean, "corrupted": asked.corrupted}
    measured = measure(model, [*cells, *ends], metric, spec, read_and_written, **options)
    *values, start, end = measured.values
    found = [
        CausalCell(**named(site, group, asked.clean), value=value, effect=share(value, start, end))
        for (site, group), value in zip(places, values, strict=True)
    ]
    names = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
    return concluded(
        model,
        measured,
        spec,
        effect=f"how far the metric of the {names[0]} run moves to that of the {names[1]} one (0 to 1)",
        metric=metric,
        prompts=read_and_written,
        cells=found,
        values={names[0]: start, names[1]: end},
        notes=window_notes(window),
    )


def _runs(asked: Pair, direction: Direction) -> tuple[Tokens, Tokens]:
    """The run that is read, and the one that is written into."""
    return (asked.clean, asked.corrupted) if direction == "denoising" else (asked.corrupted, asked.clean)
