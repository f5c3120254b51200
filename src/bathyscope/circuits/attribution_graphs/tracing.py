"""attribution_graph: trace the logits of one prompt back to features, tokens and errors."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope.batches import check_batch_size
from bathyscope.circuits.attribution_graphs.graph import AttributionGraph, Node
from bathyscope.circuits.attribution_graphs.local import LocalModel
from bathyscope.circuits.attribution_graphs.logits import Asked, Likeliest, Logits, asked_in_json, logit_targets
from bathyscope.circuits.attribution_graphs.rows import Rows
from bathyscope.circuits.attribution_graphs.scores import Shares
from bathyscope.circuits.attribution_graphs.sweep import Targets, sweep
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model, Prompt
from bathyscope.results import provenance
from bathyscope.sae import SparseCoder

ROUND = 4
"""Batches of features that are followed before the others are ranked again."""


def attribution_graph(
    model: Model,
    prompt: Prompt,
    coders: Sequence[SparseCoder],
    *,
    targets: Asked = Likeliest(),  # noqa: B008  # frozen
    max_features: int | None = None,
    sinks: int = 1,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> AttributionGraph:
    """Take the logits after a prompt apart into features of transcoders, and these into earlier ones, down to tokens.

    Patterns of attention and scales of norms are held where the prompt has them, and every MLP is its transcoder plus
    what that misses, or, without one, a constant. Every edge is then exact: what the source adds to the target's
    pre-activation, by all ways that pass no other feature (Ameisen et al. 2025, "Circuit tracing"; Dunefsky et al.
    2024). How attention chooses where to look is not in it.

    Args:
        model: the model. Under eager attention patterns are read, under others they cost a pass more.
        prompt: one prompt.
        coders: transcoders of MLPs, one a layer at most, of any layers. Each reads the residual stream before the MLP,
            such as `resid_mid.3`, and makes `mlp_out.3`.
        targets: which logits: the likeliest, tokens by text or id, or the difference of two (`LogitDiff`).
        max_features: how many features are followed at most, or None for all that are active: those through which
            most of the logits goes, ranked again as more of the graph is known. What comes through others counts as
            an error, in `remainder` and in scores.
        sinks: how many first positions have no transcoder; what MLPs add there is a constant.
        batch_size: targets of one sweep; memory is batch_size x positions x d_model.
        progress: called with the features that are done and those there are.

    Returns:
        The graph; rows add up to what the model computed.

    Raises:
        SiteError: the family norms its sums, so that nothing is added to the residual stream as it is.
        UsageError: no transcoder, one that does not fit, an empty prompt, or a target that is no token.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.circuits.attribution_graphs import attribution_graph
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.sites import Site
        >>> model = bathyscope.load()
        >>> w = torch.randn(64, model.d_model) / model.d_model**0.5
        >>> sites = {"site": Site("resid_mid", 20), "target": Site("mlp_out", 20)}
        >>> coder = SparseCoder(w, torch.zeros(64), w, torch.zeros(model.d_model), KeepTop(4), **sites)
        >>> graph = attribution_graph(model, "The keys to the cabinet", [coder], targets=[1, 2])
        >>> bool((graph.sums() - graph.values)[-2:].abs().max() < 1e-2)
        True
    """
    began = time.perf_counter()
    check_batch_size(batch_size)
    if max_features is not None and max_features < 1:
        raise UsageError(f"max_features={max_features} was given", "at least one, or None for all", "max_features=1000")
    if not coders:
        raise UsageError("no transcoder was given", "at least one is needed", "coders=[load_coder(folder)]")
    tokens = model.tokenize(prompt)
    with torch.no_grad():
        local = LocalModel.of(model, tokens, coders, sinks=sinks)
        logits = logit_targets(local, targets)
        rows = Rows(local.columns.n_counted)
        first = len(local.columns)
        _add(rows, local, logits.targets, torch.arange(first, first + len(logits.tokens)), batch_size)
        followed = _follow(rows, local, logits, max_features, batch_size, progress)
    spec = {
        "method": "attribution-graph",
        "prompt": tokens.text,
        "ids": list(tokens.ids),
        "targets": asked_in_json(targets),
        "max_features": max_features,
        "sinks": sinks,
        "coders": [
            {"site": str(one.site), "target": str(one.target), "fingerprint": one.fingerprint} for one in coders
        ],
    }
    return _graph(
        rows,
        local,
        logits,
        followed,
        provenance([model.provenance()], spec),
        {"seconds": round(time.perf_counter() - began, 4)},
    )


def _add(rows: Rows, local: LocalModel, targets: Targets, numbers: Tensor, batch_size: int) -> None:
    for batch in torch.arange(len(targets)).split(batch_size):
        own = targets.take(batch)
        rows.add(numbers[batch], sweep(local, own), own.values)


def _follow(
    rows: Rows,
    local: LocalModel,
    logits: Logits,
    max_features: int | None,
    batch_size: int,
    progress: Progress | None,
) -> Tensor:
    """Add the rows of features, all or the most influential; which, (active features,), bool."""
    n = local.n_features
    followed, limit = torch.zeros(n, dtype=torch.bool), n if max_features is None else min(n, max_features)
    done = 0
    while done < limit:
        if limit == n:
            chosen = torch.arange(n)
        else:
            scores = _partial_influence(rows, local, logits)[:n].masked_fill(followed, -1)
            chosen = scores.topk(min(ROUND * batch_size, limit - done)).indices.sort().values
        for batch in chosen.split(batch_size):
            _add(rows, local, Targets.features(local, batch), batch, batch_size)
            done += len(batch)
            if progress is not None:
                progress(done, limit)
        followed[chosen] = True
    return followed


def _partial_influence(rows: Rows, local: LocalModel, logits: Logits) -> Tensor:
    """Influence as far as rows are known, (columns and logits,)."""
    columns = local.columns
    targets, sources, weights = rows.entries()
    counted = sources < columns.n_counted
    n = len(columns) + len(logits.tokens)
    ranks = torch.cat([columns.times(), torch.full((len(logits.tokens),), 2 * len(local.mlps) + 4)])
    shares = Shares.of(targets[counted], sources[counted], weights[counted], ranks, rows.sums(n)[1])
    explained = torch.zeros(n, dtype=torch.float64)
    explained[len(columns) :] = logits.weights
    return shares.influence(explained)


def _graph(
    rows: Rows, local: LocalModel, logits: Logits, followed: Tensor, source: dict, timing: dict[str, float]
) -> AttributionGraph:
    """The rows as a graph of the features that were followed and of everything else."""
    nodes = _nodes(local, logits)
    targets, sources, weights = rows.entries()
    order = (targets * len(nodes) + sources).argsort()
    targets, sources, weights = targets[order], sources[order], weights[order]
    counts = torch.bincount(targets, minlength=len(nodes))
    remainder, mass, values = rows.sums(len(nodes))
    whole = AttributionGraph(
        local.tokens.text,
        local.tokens.texts,
        nodes,
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        sources,
        weights,
        remainder,
        mass,
        values,
        source,
        timing,
    )
    if bool(followed.all()):
        return whole
    kept = torch.ones(len(nodes), dtype=torch.bool)
    kept[: len(followed)] = followed
    return whole.part(kept, kept[sources])


def _nodes(local: LocalModel, logits: Logits) -> tuple[Node, ...]:
    """A node for each column, and the logits behind them."""
    texts, ids, n = local.tokens.texts, local.tokens.ids, len(local.tokens)
    found: list[Node] = []
    for layer, mlp in enumerate(local.mlps):
        active = (mlp.positions.tolist(), mlp.latents.tolist(), mlp.activations.tolist())
        found += [
            Node("feature", layer, position, latent, value, texts[position])
            for position, latent, value in zip(*active, strict=True)
        ]
    layers = range(len(local.mlps))
    found += [Node("error", layer, at, label=texts[at]) for layer in layers for at in range(local.sinks, n)]
    found += [Node("token", None, at, ids[at], label=texts[at]) for at in range(n)]
    found += [Node("position", None, at, label=texts[at]) for at in range(n) if local.positions is not None]
    found += [Node("sink", layer, at, label=texts[at]) for layer in layers for at in range(local.sinks)]
    found += [Node("attention bias", layer) for layer in layers]
    found += [Node("decoder bias", layer) for layer in layers]
    found.append(Node("own bias"))
    found += [
        Node("logit", None, n - 1, token, probability, label)
        for token, probability, label in zip(logits.tokens, logits.probabilities, logits.labels, strict=True)
    ]
    return tuple(found)
