"""Starts: prompts that are run from a block on, with the residual stream that they had below it.

What is written at a layer changes nothing below it, so many runs that differ there alone need not compute what is
below. With gradients the stream that is given is where the graph begins. Knows nothing of methods.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.batches import Batch
from bathyscope.bypass import Sleepers, can_bypass
from bathyscope.errors import UsageError
from bathyscope.hooks import EnoughRead, Hooks
from bathyscope.model import Model, Tokens
from bathyscope.sites import EMBEDDING_LAYER, Site, residual_site


@dataclass(frozen=True, eq=False)
class Start:
    """Where prompts of one length are run from.

    Args:
        layer: the first block that runs is the one above it; -1 runs all of them.
        residuals: the residual stream after this layer, (prompts, positions, d_model), as the site has it.
        tuples: whether blocks return a tuple.
    """

    layer: int
    residuals: Tensor
    tuples: bool

    def of(self, residuals: Tensor) -> "Start":
        """The same place with another stream; with a graph, gradients by it can be taken."""
        return Start(self.layer, residuals, self.tuples)

    def rows(self, rows: Tensor | slice) -> "Start":
        """Some of the prompts, or each as often as it is named."""
        return self.of(self.residuals[rows])

    def within(self, model: Model) -> AbstractContextManager[object]:
        """In force while the prompts are run: their blocks below are passed over."""
        if self.layer == EMBEDDING_LAYER:
            return nullcontext()
        raw = self.residuals / model.tap(residual_site(self.layer)).multiplier
        wake = [self.layer + 1] * len(raw)
        return Sleepers(model, wake, {self.layer: raw}, tuples=self.tuples)


def read_starts(
    model: Model, rows: Sequence[Tokens], layers: Sequence[int], reads: Sequence[Site] = (), *, batch_size: int = 64
) -> tuple[dict[int, Start], dict[Site, Tensor]]:
    """Run prompts of one length once: where they can be run from, and what they hold at some sites.

    Args:
        model: the model.
        rows: the prompts.
        layers: after which layers; -1 is the embedding.
        reads: sites to read besides.
        batch_size: prompts of a pass.

    Returns:
        Starts by layer, and activations by site, (prompts, positions, ...site shape).

    Raises:
        UsageError: the prompts differ in length.

    Example:
        >>> import bathyscope
        >>> from bathyscope.starts import read_starts
        >>> model = bathyscope.load()
        >>> starts, _ = read_starts(model, [model.tokenize("The boats"), model.tokenize("The boat")], [5])
        >>> starts[5].residuals.shape
        torch.Size([2, 2, 576])
    """
    if len({len(row) for row in rows}) != 1:
        lengths = sorted({len(row) for row in rows})
        raise UsageError(f"prompts of {lengths} tokens were given", "prompts of one length, at least one")
    sites = {layer: model.site(residual_site(layer)) for layer in dict.fromkeys(layers)}
    wanted = list(dict.fromkeys([*sites.values(), *(model.site(site) for site in reads)]))
    found: dict[Site, list[Tensor]] = {site: [] for site in wanted}
    tuples = False
    for first in range(0, len(rows), batch_size):
        batch = Batch(model, rows[first : first + batch_size])
        hooks = Hooks(model, batch.window, reads=wanted, stop=True)
        try:
            with torch.no_grad(), hooks:
                batch.last()
        except EnoughRead:
            pass
        hooks.check()
        tuples |= any(hooks.in_tuple(site) for site in wanted if site.component == "resid_post")
        for site in wanted:
            found[site] += hooks.activations(site)
    read = {site: torch.stack(ones) for site, ones in found.items()}
    return {layer: Start(layer, read[site], tuples) for layer, site in sites.items()}, read


def start_layer(model: Model, site: Site) -> int:
    """The highest layer whose residual stream a write at a site leaves as it is, and below which nothing need run.

    The embedding, where blocks carry somebody else's hook or replaced forward.
    """
    if site.layer is None or not can_bypass(model):
        return EMBEDDING_LAYER
    return site.layer if site.component == "resid_post" else max(EMBEDDING_LAYER, site.layer - 1)
