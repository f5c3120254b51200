"""Single passes through a model: run, capture, differentiate. Knows nothing of methods."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.batches import Batch, Prompts, as_rows, check_batch_size, check_writes, writes_within
from bathyscope.errors import UsageError
from bathyscope.gradients import check_gradient
from bathyscope.hooks import EnoughRead, Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.sites import Site


class Activations(Mapping[Site, tuple[Tensor, ...]]):
    """What was read: for each site a tensor for every prompt, (positions, ...site shape), without padding.

    Site shapes are (d_model,) for the residual stream and contributions, (heads, d_head) for q, k, v
    and z, (heads, positions) for pattern, (d_mlp,) for mlp_post, (d_vocab,) for logits; a site with a
    head leaves the heads out. Indexed by `Site` or by its name.
    """

    def __init__(self, by_site: Mapping[Site, tuple[Tensor, ...]]) -> None:
        self._by_site = dict(by_site)

    def __getitem__(self, site: Site | str) -> tuple[Tensor, ...]:
        return self._by_site[Site.parse(site)]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._by_site)

    def __len__(self) -> int:
        return len(self._by_site)


@dataclass(frozen=True)
class Run:
    """What a pass gave.

    Args:
        tokens: the prompts as the model read them.
        logits: for each prompt, (positions, d_vocab).
        activations: what was read.
    """

    tokens: tuple[Tokens, ...]
    logits: tuple[Tensor, ...]
    activations: Activations


def run(
    model: Model,
    prompts: Prompts,
    *,
    reads: Sequence[Site | str] = (),
    writes: Sequence[Write] = (),
    batch_size: int = 32,
) -> Run:
    """Run prompts, reading some sites and writing others.

    Args:
        model: the model.
        prompts: one prompt or several.
        reads: sites to keep.
        writes: what to write; `Write.row` counts the prompts.
        batch_size: how many prompts run together.

    Raises:
        UsageError: a prompt, site or position that does not exist.
        InterventionError: a write that never happened, or a value that does not fit.

    Example:
        >>> import bathyscope
        >>> from bathyscope.interventions import Ablate, Write
        >>> model = bathyscope.load()
        >>> plain = bathyscope.run(model, "The keys to the cabinet")
        >>> ablated = bathyscope.run(model, "The keys to the cabinet", writes=[Write("mlp_out.0", Ablate())])
        >>> plain.logits[0].shape == ablated.logits[0].shape, bool((plain.logits[0] == ablated.logits[0]).all())
        (True, False)
    """
    rows = as_rows(model, prompts)
    sites = [model.site(site) for site in reads]
    check_writes(writes, len(rows))
    check_batch_size(batch_size)
    if any(write.when == "generated" for write in writes):
        raise UsageError('a write with when="generated" was given to a run without generation', "", "generate(...)")
    logits: list[Tensor] = []
    by_site: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for first in range(0, len(rows), batch_size):
        batch = Batch(model, rows[first : first + batch_size])
        inside = writes_within(writes, first, len(batch.pads))
        with torch.no_grad(), Hooks(model, batch.window, reads=sites, writes=inside) as hooks:
            whole = batch.logits()
        hooks.check()
        logits += [whole[row, pad:].clone() for row, pad in enumerate(batch.pads)]
        for site in sites:
            by_site[site] += hooks.activations(site)
    return Run(tuple(rows), tuple(logits), Activations({site: tuple(rows) for site, rows in by_site.items()}))


def capture(model: Model, prompts: Prompts, sites: Sequence[Site | str], *, batch_size: int = 32) -> Activations:
    """Read sites while prompts run; each pass stops when all is read.

    Args:
        model: the model.
        prompts: one prompt or several.
        sites: what to read.
        batch_size: how many prompts run together.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> bathyscope.capture(model, "Diana, Princess of Wales", ["resid_post.3"])["resid_post.3"][0].shape
        torch.Size([6, 576])
    """
    rows = as_rows(model, prompts)
    wanted = [model.site(site) for site in sites]
    check_batch_size(batch_size)
    by_site: dict[Site, list[Tensor]] = {site: [] for site in wanted}
    for first in range(0, len(rows), batch_size):
        batch = Batch(model, rows[first : first + batch_size])
        with torch.no_grad(), Hooks(model, batch.window, reads=wanted, stop=True) as hooks, suppress(EnoughRead):
            batch.logits()
        hooks.check()
        for site in wanted:
            by_site[site] += hooks.activations(site)
    return Activations({site: tuple(rows) for site, rows in by_site.items()})


def differentiate(
    model: Model,
    prompt: Prompt,
    metric: Callable[[Tensor], Tensor],
    sites: Sequence[Site | str],
    *,
    writes: Sequence[Write] = (),
) -> dict[Site, Tensor]:
    """Gradients of a metric of the logits with respect to activations.

    Args:
        model: the model.
        prompt: one prompt.
        metric: from logits, (positions, d_vocab), to a scalar.
        sites: with respect to what.
        writes: interventions in force during the pass.

    Returns:
        For each site a gradient of its activation's shape, (positions, ...site shape).

    Raises:
        UsageError: the pattern was asked for, or the metric is no scalar.
        InterventionError: a gradient is not finite (a quantised or half-precision model may overflow).

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> gradients = bathyscope.differentiate(model, "The keys", lambda logits: logits[-1, 0], ["resid_post.5"])
        >>> [tuple(gradient.shape) for gradient in gradients.values()]
        [(2, 576)]
    """
    rows = as_rows(model, [prompt])
    wanted = [model.site(site) for site in sites]
    check_writes(writes, 1)
    batch = Batch(model, rows)
    with torch.enable_grad(), Hooks(model, batch.window, reads=wanted, writes=writes, graph=True) as hooks:
        value = metric(batch.logits()[0])
        if value.ndim or not value.requires_grad:
            raise UsageError(f"the metric returned shape {tuple(value.shape)}", "a scalar made from the logits")
        gradients = [rows[0] for rows in hooks.gradients(value, wanted)]
    hooks.check()
    for site, gradient in zip(wanted, gradients, strict=True):
        check_gradient(gradient, site, model)
    return dict(zip(wanted, gradients, strict=True))
