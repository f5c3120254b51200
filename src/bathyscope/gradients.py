"""Gradients of many at once: of many prompts' next tokens, or of one pass as often as is wanted.

`forward.differentiate` answers for one scalar of one prompt's logits. `row_gradients` does for a metric of many prompts
in one pass; `stream` keeps the graph of a pass, and any number of directions at the last block are pulled back to
earlier layers. Knows nothing of methods.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.batches import Batch, check_batch_size, check_writes, writes_within
from bathyscope.errors import InterventionError, UsageError
from bathyscope.hooks import EnoughRead, Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.sites import EMBEDDING_LAYER, Site, residual_site


@dataclass(frozen=True)
class RowGradients:
    """A metric of each prompt's next token, and its gradients.

    Args:
        values: the metric, (prompts,).
        gradients: for each site one a prompt, (positions, ...site shape), without padding.
    """

    values: Tensor
    gradients: Mapping[Site, tuple[Tensor, ...]]


def row_gradients(
    model: Model,
    rows: Sequence[Tokens],
    metric: Callable[[Tensor], Tensor],
    sites: Sequence[Site],
    *,
    writes: Sequence[Write] = (),
    batch_size: int = 16,
) -> RowGradients:
    """Gradients of one metric of each prompt's next token; prompts share passes, whatever their lengths.

    Args:
        model: the model.
        rows: the prompts.
        metric: from logits after each prompt's last token, (rows, d_vocab), to one number a row, (rows,). A row's
            number must depend on its own logits alone.
        sites: with respect to what; where a site is written, with respect to what was written.
        writes: interventions in force; `Write.row` counts the prompts.
        batch_size: how many prompts share a pass.

    Raises:
        InterventionError: a gradient is not finite, or a write never happened.

    Example:
        >>> import bathyscope
        >>> from bathyscope.gradients import row_gradients
        >>> model = bathyscope.load()
        >>> rows = [model.tokenize(text) for text in ("The keys", "The key to the cabinet")]
        >>> found = row_gradients(model, rows, lambda logits: logits[:, 0], [model.site("attn_out.5")])
        >>> [tuple(one.shape) for one in found.gradients[model.site("attn_out.5")]]
        [(2, 576), (5, 576)]
    """
    check_writes(writes, len(rows))
    check_batch_size(batch_size)
    values: list[Tensor] = []
    by_site: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for first in range(0, len(rows), batch_size):
        batch = Batch(model, rows[first : first + batch_size])
        inside = writes_within(writes, first, len(batch.pads))
        hooks = Hooks(model, batch.window, reads=list(by_site), writes=inside, graph=_lowest(by_site))
        with torch.enable_grad(), hooks:
            found = metric(model.decide(batch.last()))
            gradients = hooks.gradients(found.sum(), list(by_site))
        hooks.check()
        values.append(found.detach())
        for site, ones in zip(by_site, gradients, strict=True):
            for one in ones:
                check_gradient(one, site, model)
            by_site[site] += ones
    return RowGradients(torch.cat(values), {site: tuple(ones) for site, ones in by_site.items()})


def _lowest(sites: Sequence[Site] | Mapping[Site, object]) -> Site:
    """Where the graph has to start for gradients by sites: no lower, since a graph costs time and memory."""
    starts = []
    for site in sites:
        below = (0 if site.layer is None else site.layer) - (site.component != "resid_post")
        starts.append(max(EMBEDDING_LAYER, below))
    return residual_site(min(starts))


@dataclass(frozen=True)
class Stream:
    """The residual stream of one pass, with the graph from its lowest layer to the last block.

    Args:
        model: the model.
        tensors: what was met at each layer that was asked for, (rows, positions, d_model).
        last: what the last block returned, (rows, positions, d_model).
    """

    model: Model
    tensors: dict[int, Tensor]
    last: Tensor

    def value(self, layer: int) -> Tensor:
        """The residual stream at a layer, (rows, positions, d_model)."""
        return self.tensors[layer].detach() * self._multiplier(layer)

    def pull_back(self, directions: Tensor) -> dict[int, Tensor]:
        """Gradients of the sum of last x directions, for several sets of directions at once.

        Args:
            directions: for each set one for every row and position, (sets, rows, positions, d_model).

        Returns:
            For each layer gradients by its residual stream, (sets, rows, positions, d_model).

        Raises:
            InterventionError: a gradient is not finite.
        """
        gradients = torch.autograd.grad(
            self.last,
            tuple(self.tensors.values()),
            directions.to(self.last),
            retain_graph=True,
            is_grads_batched=True,
        )
        # d last / d (multiplier * tensor) is the tensor's gradient divided by the multiplier.
        found = {layer: one / self._multiplier(layer) for layer, one in zip(self.tensors, gradients, strict=True)}
        for layer, gradient in found.items():
            check_gradient(gradient, residual_site(layer), self.model)
        return found

    def _multiplier(self, layer: int) -> float:
        return self.model.tap(residual_site(layer)).multiplier


def stream(model: Model, rows: Sequence[Tokens], layers: Sequence[int], *, start: int = 0) -> Stream:
    """Run prompts of one length up to the last block, and keep the graph.

    Args:
        model: the model.
        rows: the prompts, which run together.
        layers: with respect to what gradients will be wanted, below the last block; -1 is the embedding.
        start: the first position that is differentiated. What stands before it is a constant, which costs nothing
            later on: no position has a gradient by a later one.

    Returns:
        The stream, whose positions count from `start`.

    Raises:
        UsageError: the prompts differ in length, or a layer is not below the last block.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.gradients import stream
        >>> model = bathyscope.load()
        >>> passed = stream(model, [model.tokenize("The keys to the cabinet")], [27, 28])
        >>> {layer: len(one) for layer, one in passed.pull_back(torch.ones(2, *passed.last.shape)).items()}
        {27: 2, 28: 2}
    """
    length, layers = len(rows[0]), sorted(set(layers))
    if any(len(row) != length for row in rows) or not 0 <= start < length:
        raise UsageError(f"prompts of {sorted({len(row) for row in rows})} tokens were given", "prompts of one length")
    if not layers or not EMBEDDING_LAYER <= layers[0] <= layers[-1] < model.n_layers - 1:
        raise UsageError(f"gradients by layers {layers} were asked for", f"layers -1 to {model.n_layers - 2}")
    cache = _prefix(model, rows, start) if start else None
    last, sites = residual_site(model.n_layers - 1), [residual_site(layer) for layer in layers]
    batch = Batch(model, rows, start, cache)
    hooks = Hooks(model, batch.window, reads=[*sites, last], graph=sites[0], stop=True)
    with torch.enable_grad(), hooks, suppress(EnoughRead):
        batch.logits()
    hooks.check()
    tensors = {layer: hooks.tensor(site) for layer, site in zip(layers, sites, strict=True)}
    return Stream(model, tensors, hooks.tensor(last))


def check_gradient(gradient: Tensor, site: Site, model: Model) -> None:
    """Refuse a gradient that is no number, as half precision may give.

    Args:
        gradient: of any shape.
        site: with respect to what.
        model: the model, whose dtype is told.

    Raises:
        InterventionError: it is not finite everywhere.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.gradients import check_gradient
        >>> model = bathyscope.load()
        >>> check_gradient(torch.zeros(2), model.site("resid_post.3"), model)
    """
    if not torch.isfinite(gradient).all():
        raise InterventionError(f"the gradient at {site} is not finite in {model.dtype}", "", "dtype=float32")


def _prefix(model: Model, rows: Sequence[Tokens], start: int) -> kv.Cache:
    """Keys and values of what stands before `start`; where that is the same in all rows it is run once."""
    before = [Tokens("", row.ids[:start], ()) for row in rows]
    shared = len({row.ids for row in before}) == 1
    cache = kv.prefix_cache()
    with torch.no_grad():
        Batch(model, before[:1] if shared else before, cache=cache).last()
    return kv.rows_cache(model.n_layers, len(rows), len(rows[0]), known=cache, start=start) if shared else cache
