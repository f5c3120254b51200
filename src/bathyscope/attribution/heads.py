"""What each head adds to the residual stream at one position: its values through the output projection alone.

A family that norms attention's output before adding it has that norm frozen at its own input, so that heads add up.
Knows architectures, not methods.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope.attribution.frozen import FrozenNorm
from bathyscope.errors import UsageError
from bathyscope.model import HALF, Model
from bathyscope.sites import Site

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}
HALF_TOLERANCE = 2e-2
"""How far the heads' sum may be from attention's contribution, as a share of its largest value."""


@dataclass(frozen=True)
class HeadOutputs:
    """What one block's attention adds to the residual stream at one position, head by head.

    Args:
        heads: (n_heads, d_model).
        bias: what no head has: the projection's bias, and that of a norm after it, (d_model,).
    """

    heads: Tensor
    bias: Tensor


def head_outputs(model: Model, layer: int, z: Tensor, attn_out: Tensor) -> HeadOutputs:
    """Split attention's contribution at one position into its heads'.

    Args:
        model: the model.
        layer: the block.
        z: the heads' mixed values there, (n_heads, d_head).
        attn_out: what attention added there, (d_model,), which the heads have to add up to.

    Returns:
        Float64 parts whose sum is `attn_out`.

    Raises:
        UsageError: they do not add up, so that this family does more to them than is known here.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution.heads import head_outputs
        >>> model = bathyscope.load()
        >>> read = bathyscope.capture(model, "The keys", ["z.3", "attn_out.3"])
        >>> parts = head_outputs(model, 3, read["z.3"][0][-1], read["attn_out.3"][0][-1])
        >>> parts.heads.shape, bool((parts.heads.sum(0) - read["attn_out.3"][0][-1]).abs().max() < 1e-4)
        (torch.Size([9, 576]), True)
    """
    parts, whole = projected_heads(model, layer, z)
    bias, multiplier = whole - parts.sum(0), model.tap(Site("attn_out", layer)).multiplier
    wanted = attn_out.double()
    if not _near(multiplier * whole, wanted, model):
        path = model.architecture.module_path(Site("attn_out", layer))
        frozen = FrozenNorm.of(model.hf.get_submodule(path), whole.to(model.dtype), path)
        parts, bias = frozen.linear(parts), frozen.apply(bias)
    parts, bias = multiplier * parts, multiplier * bias
    if not _near(parts.sum(0) + bias, wanted, model):
        raise UsageError(
            f"the heads of block {layer} do not add up to attn_out.{layer} in {model.architecture.family}",
            "something is done to them after the output projection that is no norm and no multiplier",
            "heads=False",
        )
    return HeadOutputs(parts, bias)


def projected_heads(model: Model, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's values through the output projection without its bias, (n_heads, d_model), and all with it."""
    site = Site("z", layer)
    columns = model.tap(site).columns
    if columns is None:
        raise UsageError(f"the heads of {site} are not columns of one tensor in {model.architecture.family}", "")
    projection = model.hf.get_submodule(model.architecture.module_path(site))
    inputs = torch.zeros(len(columns) + 2, int(columns.max()) + 1, dtype=z.dtype, device=z.device)
    for head, own in enumerate(columns):
        inputs[head, own] = z[head]
    inputs[-2] = inputs[:-2].sum(0)
    with torch.no_grad():
        outputs = projection(inputs[None])[0].double()
    return outputs[:-2] - outputs[-1], outputs[-2]


def _near(first: Tensor, second: Tensor, model: Model) -> bool:
    tolerance = HALF_TOLERANCE if model.dtype in HALF else TOLERANCE.get(model.dtype, HALF_TOLERANCE)
    return bool((first - second).abs().max() <= tolerance * second.abs().max())
