"""Direct logit attribution: what each part of the residual stream adds to a token's logit, by the last step alone.

The final norm's scale is held where the model has it, so that logits are linear in what embedding, heads and MLPs add
(Elhage et al. 2021, "A mathematical framework for transformer circuits"; TransformerLens's `logit_attrs`). What a part
does by way of later blocks is not in it.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope import prompts
from bathyscope.attribution.frozen import FrozenNorm
from bathyscope.attribution.heads import head_outputs
from bathyscope.attribution.result import DIRECT, AttributionResult, Node
from bathyscope.causal.pairs import described
from bathyscope.errors import UsageError
from bathyscope.forward import Activations, capture
from bathyscope.model import Model, Prompt
from bathyscope.prompts import Position
from bathyscope.readouts import Logit, LogitDiff, Metric, token_id
from bathyscope.results import provenance
from bathyscope.sites import Site

FELT = 1e-6
"""Learned positions are a node where they are at least this share of the embedding."""


def direct_logit_attribution(
    model: Model, prompt: Prompt, metric: Logit | LogitDiff, *, position: Position = "last", heads: bool = True
) -> AttributionResult:
    """Split a logit, or a difference of two, into what embedding, heads, attention's biases and MLPs add to it.

    Args:
        model: the model.
        prompt: what it reads.
        metric: whose next-token logit is split, or which two.
        position: after which token of the prompt; one.
        heads: whether attention is split into heads; otherwise each block's is one node.

    Returns:
        Nodes at that position, whose attributions add up to `values["logit"]` but for `values["remainder"]`, which is
        rounding. Multipliers of logits are in it; where the model caps its logits, the logit is that before the cap.

    Raises:
        SiteError: the family norms its sums, so that nothing is added to the residual stream as it is.
        UsageError: the metric is not linear in the logits, or the final norm is none with its scale held.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import direct_logit_attribution
        >>> from bathyscope.readouts import LogitDiff
        >>> model = bathyscope.load()
        >>> found = direct_logit_attribution(model, "The boats", LogitDiff(" they", " it"))
        >>> abs(sum(node.attribution for node in found.nodes) - found.values["logit"]) < 1e-3
        True
    """
    began = time.perf_counter()
    tokens = model.tokenize(prompt)
    (at, *others) = prompts.resolve(tokens, position)
    if others:
        raise UsageError(f"positions {(at, *others)} were given", "one at a time is split", 'position="last"')
    metric.check(model, model)
    read = capture(model, tokens, part_sites(model, heads=heads))
    last = read[Site("resid_post", model.n_layers - 1)][0][at]
    tail = Tail.of(model, metric, last)
    nodes = [
        Node.of(site, at, tokens.texts[at], tail.share(value), part)
        for site, part, value in residual_parts(model, read, at)
    ]
    nodes += [
        Node.of(Site(name), at, tokens.texts[at], bias, "bias")
        for name, bias in (("final_norm", tail.norm_bias), ("logits", tail.bias))
        if bias
    ]
    cap = model.architecture.logit_softcap
    note = f"The logit is that before the model caps it at {cap:g}." if cap is not None else ""
    spec = {"method": DIRECT, "prompt": tokens.text, "ids": list(tokens.ids), "position": at, **metric.spec()}
    return AttributionResult(
        method=DIRECT,
        metric=described(model, metric),
        clean=tokens.text,
        corrupted=None,
        nodes=tuple(nodes),
        values={"logit": tail.logit, "remainder": tail.logit - sum(node.attribution for node in nodes)},
        provenance=provenance([model.provenance()], spec),
        timing={"seconds": round(time.perf_counter() - began, 4)},
        notes=(note,) if note else (),
    )


@dataclass(frozen=True)
class Tail:
    """The way from the residual stream to a logit, or a difference of two, with the final norm's scale held.

    Args:
        direction: whose product with a part of the residual stream is its share, (d_model,), float64.
        norm_bias, bias: what the biases of the norm and of the unembedding add.
        logit: what the model itself says.
    """

    direction: Tensor
    norm_bias: float
    bias: float
    logit: float

    @classmethod
    def of(cls, model: Model, metric: Metric, residual: Tensor) -> "Tail":
        """Freeze the tail at one residual stream after the last block, (d_model,).

        Raises:
            UsageError: the metric is not linear in the logits, or the norm is none with its scale held.
        """
        weights = _weights(model, metric)
        architecture, unembedding = model.architecture, model.unembedding
        factor = architecture.logit_multiplier / architecture.logit_divisor
        direction = sum(sign * unembedding.weight[token].double() for token, sign in weights)
        assert isinstance(direction, Tensor)
        bias = sum(sign * float(unembedding.bias[token]) for token, sign in weights) if _biased(unembedding) else 0.0
        with torch.no_grad():
            hidden = unembedding(model.last_hidden(residual[None]))[0].double()
            if architecture.project_out is not None:
                projection = model.hf.get_submodule(architecture.project_out)
                probes = torch.cat([torch.eye(model.d_model), torch.zeros(1, model.d_model)]).to(residual)
                columns = projection(probes).double()
                bias += float(columns[-1] @ direction)
                direction = (columns[:-1] - columns[-1]) @ direction
        norm_bias = 0.0
        if architecture.norm is not None:
            module = model.hf.get_submodule(architecture.norm)
            frozen = FrozenNorm.of(module, residual.to(model.dtype), "the final norm")
            norm_bias, direction = float(frozen.bias @ direction), frozen.pull_back(direction)
        logit = sum(sign * float(hidden[token]) for token, sign in weights)
        return cls(factor * direction, factor * norm_bias, factor * bias, factor * logit)

    def share(self, part: Tensor) -> float:
        """What a part of the residual stream, (d_model,), adds."""
        return float(part.double() @ self.direction)


def _weights(model: Model, metric: Metric) -> list[tuple[int, float]]:
    """The tokens whose logits a metric adds, with their signs."""
    if isinstance(metric, Logit):
        return [(token_id(model, metric.token), 1.0)]
    if isinstance(metric, LogitDiff):
        return [(token_id(model, metric.answer), 1.0), (token_id(model, metric.wrong_answer), -1.0)]
    raise UsageError(
        f"{type(metric).__name__} was given", "only logits, and differences of two, are sums", "Logit or LogitDiff"
    )


def _biased(unembedding: torch.nn.Linear) -> bool:
    return getattr(unembedding, "bias", None) is not None


def part_sites(model: Model, *, heads: bool) -> list[Site]:
    """What has to be read for `residual_parts`."""
    names = ("z", "attn_out", "mlp_out") if heads else ("attn_out", "mlp_out")
    within = [Site(name, layer) for layer in range(model.n_layers) for name in names]
    sites = [Site("embed"), Site("resid_pre", 0), *within, Site("resid_post", model.n_layers - 1)]
    for site in sites:
        model.tap(site)
    return sites


def residual_parts(model: Model, read: Activations, at: int) -> list[tuple[Site, str, Tensor]]:
    """What is added to the residual stream at a position, each with its site and which part of it it is."""
    embed = read["embed"][0][at].double()
    first = Site("resid_pre", 0)
    positions = read[first][0][at].double() - embed
    found = [(Site("embed"), "", embed)]
    if positions.norm() > FELT * embed.norm():
        found.append((first, "positions", positions))
    for layer in range(model.n_layers):
        attn, mlp, z = (Site(name, layer) for name in ("attn_out", "mlp_out", "z"))
        whole = read[attn][0][at]
        if z in read:
            outputs = head_outputs(model, layer, read[z][0][at], whole)
            found += [(Site("z", layer, head), "", one) for head, one in enumerate(outputs.heads)]
            if outputs.bias.norm() > FELT * whole.norm():
                found.append((attn, "bias", outputs.bias))
        else:
            found.append((attn, "", whole.double()))
        found.append((mlp, "", read[mlp][0][at].double()))
    return found
