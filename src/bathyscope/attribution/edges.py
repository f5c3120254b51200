"""Edge attribution patching: what each part's message to each later part would change (EAP, arXiv 2310.10348).

A sender's message is what it adds to the residual stream in the one run less what it adds in the other; a receiver's
gradient is the metric's, by what it reads. Their product, summed over positions, estimates what the message changes on
that way alone. With steps, gradients are averaged while the embeddings go from the one run to the other (EAP-IG,
arXiv 2403.17806). All a sender's edges add up to its own attribution as a node, exactly.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from bathyscope.attribution.edge_result import EdgeResult
from bathyscope.attribution.integrated import check_steps
from bathyscope.attribution.options import Asked, AttributionOptions
from bathyscope.attribution.patching import run_values
from bathyscope.batches import Batch
from bathyscope.causal.pairs import described
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.gradients import check_gradient
from bathyscope.hooks import Hooks
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model, Prompt
from bathyscope.readouts import Metric
from bathyscope.results import provenance
from bathyscope.sites import Site

ROWS = 4
"""Steps of a pass, which keeps the graph of the whole model for each."""
TAKEN = ("direction", "progress", "stop")


def edge_attribution(
    model: Model,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    *,
    steps: int | None = None,
    **options: Unpack[AttributionOptions],
) -> EdgeResult:
    """Estimate what each sender's message to each receiver changes, for all pairs of them at once.

    Senders are the embedding, heads and MLPs; receivers are each head's queries, keys and values, MLPs and the logits.

    Args:
        model: the model.
        clean: one prompt.
        corrupted: another, of as many tokens.
        metric: what is explained: `LogitDiff`, `LogProbability`, `Logit` or another `Metric`.
        steps: how many points between the runs gradients are averaged over (EAP-IG, at the middles of the steps); None
            for the gradient of the run that is written into alone (EAP).
        options: `direction` and `progress` of `AttributionOptions`.

    Raises:
        SiteError: the family norms its sums, so that nothing is added to the residual stream as it is.
        UsageError: prompts of different lengths, or an option that edges do not have.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import edge_attribution
        >>> from bathyscope.readouts import LogitDiff
        >>> found = edge_attribution(bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"))
        >>> len(found.senders), len(found.receivers)
        (301, 481)
    """
    began = time.perf_counter()
    if unknown := sorted(set(options) - set(TAKEN)):
        raise UsageError(f"the option {unknown[0]!r} was given to edges", f"options are {', '.join(TAKEN)}, steps")
    if steps is not None:
        check_steps(steps)
    asked = Asked.of(model, clean, corrupted, metric, options)
    names = _Names.of(model)
    shares = [0.0] if steps is None else [(step + 0.5) / steps for step in range(steps)]
    scores = torch.zeros(len(names.senders), len(names.receivers), dtype=torch.float64)
    for first in range(0, len(shares), ROWS):
        scores += _scores(model, asked, names, shares[first : first + ROWS]) / len(shares)
        if progress := options.get("progress"):
            progress(min(first + ROWS, len(shares)), len(shares))
    method = "edges" if steps is None else "edges-integrated"
    return EdgeResult(
        method,
        described(model, metric),
        asked.pair.clean.text,
        asked.pair.corrupted.text,
        tuple(map(str, names.senders)),
        tuple(map(str, names.receivers)),
        scores.masked_fill(~names.edges(), torch.nan),
        run_values(model, asked),
        provenance([model.provenance()], {**asked.spec(method), "steps": steps}),
        {"seconds": round(time.perf_counter() - began, 4)},
    )


@dataclass(frozen=True)
class _Names:
    """All senders and receivers, each with when it writes to or reads from the residual stream.

    Times are even where a block's attention reads and odd where its MLP does; a sender's message reaches whoever
    reads at its own time or later.
    """

    senders: dict[Site, int]
    receivers: dict[Site, int]

    @classmethod
    def of(cls, model: Model) -> "_Names":
        architecture = model.architecture
        counts = {"q": architecture.n_heads, "k": architecture.n_kv_heads, "v": architecture.n_kv_heads}
        senders, receivers = {Site("embed"): 0}, {}
        for layer in range(model.n_layers):
            mlp, parallel = Site("mlp_out", layer), is_parallel(model)
            senders |= {Site("z", layer, head): 2 * layer + 1 + parallel for head in range(architecture.n_heads)}
            senders[mlp] = 2 * layer + 2
            receivers |= {Site(name, layer, head): 2 * layer for name, n in counts.items() for head in range(n)}
            receivers[mlp] = 2 * layer + 1 - parallel
        return cls(senders, {**receivers, Site("logits"): 2 * model.n_layers})

    def edges(self) -> Tensor:
        """Which pairs are edges, (senders, receivers)."""
        written, read = (torch.tensor(list(one.values())) for one in (self.senders, self.receivers))
        return written[:, None] <= read[None]


def is_parallel(model: Model) -> bool:
    """Whether attention and MLP of a block read the same residual stream."""
    return isinstance(model.architecture.taps["resid_mid"], str)


def _scores(model: Model, asked: Asked, names: _Names, shares: list[float]) -> Tensor:
    """Messages times gradients, (senders, receivers), summed over positions and over points between the runs."""
    run = _Run(model, asked, shares)
    messages = torch.cat(list(run.messages()))
    columns = {site: column for column, site in enumerate(names.receivers)}
    scores = torch.zeros(len(names.senders), len(columns), dtype=torch.float64)
    for sites, gradients in run.gradients():
        check_gradient(gradients, sites[0], model)
        own = [columns[site] for site in sites]
        scores[:, own] = (messages.flatten(1) @ gradients.flatten(1).T).double().cpu()
    return scores


class _Run:
    """One pass over points between two runs, its graph kept.

    Messages and gradients are (..., points, positions, d_model).
    """

    def __init__(self, model: Model, asked: Asked, shares: list[float]) -> None:
        self.model, self.layers = model, range(model.n_layers)
        self.middle = "resid_pre" if is_parallel(model) else "resid_mid"
        within = ["resid_pre", self.middle, "q", "k", "v", "z", "attn_out", "mlp_out"]
        self.last = Site("resid_post", model.n_layers - 1)
        sites = [Site(name, layer) for layer in self.layers for name in dict.fromkeys(within)]
        sent = [Site("embed"), *(Site(name, layer) for layer in self.layers for name in ("z", "mlp_out"))]
        for site in sites:
            model.tap(site)
        read = capture(model, [asked.target, asked.source], sent)
        self.shifts = {site: read[site][1] - read[site][0] for site in sent}
        target, source = read["embed"]
        writes = [
            Write(Site("embed"), Replace(torch.lerp(target, source, share)), row=row)
            for row, share in enumerate(shares)
            if share
        ]
        self.shape = (len(shares), len(asked.target), model.d_model)
        batch = Batch(model, [asked.target] * len(shares))
        self.hooks = Hooks(model, batch.window, reads=[*sites, self.last], writes=writes, graph=True)
        with torch.enable_grad(), self.hooks:
            self.value = asked.pair.metric.measure(model, model.decide(batch.last())).sum()
        self.hooks.check()

    def messages(self) -> Iterator[Tensor]:
        """For each sender, in order, what it adds in the other run less what it adds in this one."""
        yield self._spread(Site("embed"))
        for layer in self.layers:
            yield self._heads(layer)
            yield self._spread(Site("mlp_out", layer))

    def gradients(self) -> Iterator[tuple[list[Site], Tensor]]:
        """Receivers, some at a time, with the metric's gradients by what they read."""
        read = [Site(name, layer) for layer in self.layers for name in ("q", "k", "v", "mlp_out")]
        tensors = [self.hooks.tensor(site) for site in (*read, self.last)]
        *found, last = torch.autograd.grad(self.value, tensors, retain_graph=True)
        for site, gradient in zip(read, found, strict=True):
            before = Site(self.middle if site.component == "mlp_out" else "resid_pre", site.layer)
            if site.component == "mlp_out":
                (pulled,) = torch.autograd.grad(
                    self.hooks.tensor(site), self.hooks.tensor(before), gradient, retain_graph=True
                )
                yield [site], pulled.reshape(1, *self.shape)
                continue
            count = self.model.architecture.width(site.component)[0]
            masked = torch.stack([self.hooks.one_head(gradient, site, head) for head in range(count)])
            pulled = self._pulled(site, before, masked)
            yield [Site(site.component, site.layer, head) for head in range(count)], pulled.reshape(-1, *self.shape)
        yield [Site("logits")], last.reshape(1, *self.shape)

    def _pulled(self, site: Site, before: Site, gradients: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(
            self.hooks.tensor(site), self.hooks.tensor(before), gradients, retain_graph=True, is_grads_batched=True
        )
        return found

    def _spread(self, site: Site) -> Tensor:
        """A shift that is a message as it is, the same at every point."""
        return self.shifts[site].expand(self.shape)[None]

    def _heads(self, layer: int) -> Tensor:
        """What a shift of each head alone changes in what attention adds, to first order: exact without a norm."""
        before, after = Site("z", layer), Site("attn_out", layer)
        z, added = self.hooks.tensor(before), self.hooks.tensor(after)
        with torch.enable_grad():
            # The derivative of a backward product by its vector is the forward product, which autograd lacks.
            direction = torch.zeros_like(added, requires_grad=True)
            (back,) = torch.autograd.grad(added, z, direction, create_graph=True)
        shift = self.shifts[before]
        columns = self.model.tap(before).columns
        assert columns is not None
        heads = z.new_zeros(len(columns), *z.shape)
        for head, own in enumerate(columns):
            heads[head][..., own] = shift[:, head]
        (found,) = torch.autograd.grad(back, direction, heads, retain_graph=True, is_grads_batched=True)
        return self.model.tap(after).multiplier * found.reshape(-1, *self.shape)
