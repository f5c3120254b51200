"""Runs: logit differences of prompts that are run from a layer on, with writes, and gradients where they are wanted."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from bathyscope.batches import Batch
from bathyscope.circuits.writes import ReplaceLive
from bathyscope.gradients import check_gradient, row_gradients
from bathyscope.hooks import Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site
from bathyscope.starts import Start

TOKENS = 2048
"""Tokens of a pass without a graph."""
GRAPH_TOKENS = 1024
"""Tokens of a pass that keeps its graph, which takes some 80 kB a token and block of a small model."""
WATCHED_TOKENS = 192
"""Tokens of a pass that is watched: less than a second of a small model on one core, at a twentieth more in all."""

Watch = Callable[[int], None]
"""Called before a pass with 0 and after it with its prompts; ends the work where it raises."""


def differences(
    model: Model, rows: Sequence[Tokens], answers: Tensor, start: Start, writes: Sequence[Write] = ()
) -> Tensor:
    """Right less wrong answer's logit after each prompt, (prompts,), with a graph where one is wanted.

    Args:
        model: the model.
        rows: the prompts, of one length; all are run in one pass.
        answers: token ids of the right and the wrong answer, (prompts, 2).
        start: where they are run from.
        writes: what is written on the way.
    """
    batch = Batch(model, rows)
    hooks = Hooks(model, batch.window, writes=writes)
    with start.within(model), hooks:
        hidden = batch.last()
    hooks.check()
    logits = model.token_logits(hidden, answers.to(hidden.device))
    return logits[:, 0] - logits[:, 1]


def measured(
    model: Model,
    rows: Sequence[Tokens],
    answers: Tensor,
    start: Start,
    writes: Sequence[Write] = (),
    watch: Watch | None = None,
) -> Tensor:
    """As `differences`, without a graph and in passes of `TOKENS` tokens, float64; writes are at all prompts alike."""
    with torch.no_grad():
        found = [
            differences(model, rows[part], answers[part], start.rows(part), writes)
            for part in parts(rows, TOKENS, watch)
        ]
    return torch.cat(found).double()


def gradients_at(
    model: Model,
    rows: Sequence[Tokens],
    answers: Tensor,
    site: Site,
    values: Tensor,
    start: Start,
    watch: Watch | None = None,
) -> tuple[Tensor, Tensor]:
    """Logit differences with values written at a whole site, and their gradients by these.

    Args:
        model: the model.
        rows: the prompts, of one length.
        answers: token ids of the right and the wrong answer, (prompts, 2).
        site: what is written, at all positions.
        values: (prompts, positions, width), heads side by side.
        start: where the prompts are run from: at the site itself or below it.
        watch: of each pass.

    Returns:
        (prompts,) and (prompts, positions, width).

    Raises:
        InterventionError: a gradient is not finite.
    """
    found, slopes = [], []
    for part in parts(rows, GRAPH_TOKENS, watch):
        with torch.enable_grad():
            value = values[part].detach().clone().requires_grad_()
            metric = differences(model, rows[part], answers[part], *_given(site, value, start.rows(part)))
            (gradient,) = torch.autograd.grad(metric.sum(), value)
        check_gradient(gradient, site, model)
        found.append(metric.detach())
        slopes.append(gradient)
    return torch.cat(found), torch.cat(slopes)


def gradients_through(
    model: Model, rows: Sequence[Tokens], answers: Tensor, sites: Sequence[Site]
) -> dict[Site, Tensor]:
    """Gradients of logit differences by several sites in the same pass, each (prompts, positions, width).

    Args:
        model: the model.
        rows: the prompts, of one length.
        answers: token ids of the right and the wrong answer, (prompts, 2).
        sites: with respect to what.

    Raises:
        InterventionError: a gradient is not finite.
    """
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for part in parts(rows, GRAPH_TOKENS):
        own = answers[part]

        def metric(logits: Tensor, own: Tensor = own) -> Tensor:
            right, wrong = logits.gather(1, own.to(logits.device)).unbind(1)
            return right - wrong

        slopes = row_gradients(model, rows[part], metric, sites, batch_size=len(own)).gradients
        for site, ones in slopes.items():
            found[site].append(torch.stack(ones).flatten(2))
    return {site: torch.cat(ones) for site, ones in found.items()}


def parts(rows: Sequence[Tokens], tokens: int, watch: Watch | None = None) -> Iterator[slice]:
    """Prompts of one length, as many in a part as have so many tokens, each of which is watched."""
    n = max(1, (tokens if watch is None else min(tokens, WATCHED_TOKENS)) // len(rows[0]))
    for first in range(0, len(rows), n):
        part = slice(first, min(first + n, len(rows)))
        if watch is not None:
            watch(0)
        yield part
        if watch is not None:
            watch(part.stop - part.start)


def measured_at(
    model: Model, rows: Sequence[Tokens], answers: Tensor, site: Site, values: Tensor, start: Start
) -> Tensor:
    """Logit differences with values written at a whole site, (prompts,), float64; see `gradients_at`."""
    found = []
    with torch.no_grad():
        for part in parts(rows, TOKENS):
            given = _given(site, values[part], start.rows(part))
            found.append(differences(model, rows[part], answers[part], *given).double())
    return torch.cat(found)


def _given(site: Site, value: Tensor, start: Start) -> tuple[Start, list[Write]]:
    """Where prompts start that hold values at a site, and what is written on the way."""
    if site.component == "resid_post" and site.layer == start.layer:
        return start.of(value), []
    return start, [Write(site, ReplaceLive(value))]
