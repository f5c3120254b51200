"""The residual stream of one pass, differentiated as often as is wanted.

`forward.differentiate` answers for one scalar of the logits. Here one pass keeps its graph, and any number of
directions at the last block are pulled back to earlier layers. Knows nothing of methods.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.batches import Batch
from bathyscope.errors import InterventionError, UsageError
from bathyscope.hooks import EnoughRead, Hooks
from bathyscope.model import Model, Tokens
from bathyscope.sites import EMBEDDING_LAYER, residual_site


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
            if not torch.isfinite(gradient).all():
                given = f"the gradient at {residual_site(layer)} is not finite in {self.model.dtype}"
                raise InterventionError(given, "", "dtype=float32")
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


def _prefix(model: Model, rows: Sequence[Tokens], start: int) -> kv.Cache:
    """Keys and values of what stands before `start`; where that is the same in all rows it is run once."""
    before = [Tokens("", row.ids[:start], ()) for row in rows]
    shared = len({row.ids for row in before}) == 1
    cache = kv.prefix_cache()
    with torch.no_grad():
        Batch(model, before[:1] if shared else before, cache=cache).last()
    return kv.rows_cache(model.n_layers, len(rows), len(rows[0]), known=cache, start=start) if shared else cache
