"""Attention of one prompt with its patterns held: a linear map of the residual stream, and a constant.

A head then moves values along fixed weights: norm, values, pattern, output projection, and what a family does after
them. Where a family keeps the norm is found by trying which one gives the values that the model had, and the whole map
is compared with what attention added: a family that does more is refused. Knows architectures, not transcoders.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from bathyscope.circuits.attribution_graphs.norms import (
    HALF_TOLERANCE,
    TOLERANCE,
    FrozenNorms,
    identity,
    largest_gap,
)
from bathyscope.errors import UsageError
from bathyscope.forward import Activations
from bathyscope.model import Model
from bathyscope.sites import Site

READ = ("resid_pre", "v", "z", "attn_out")
"""The sites of a block that its attention is frozen from."""


@dataclass(frozen=True, eq=False)
class FrozenAttention:
    """What one block's attention adds: a linear map of the stream before it, plus a constant a position.

    Norms are folded in: their gains into `values` and `outputs`, their scales into `mix`.

    Args:
        values: from the stream to the values of every key-value head, (n_kv_heads * d_head, d_model).
        mix: how much of a key's values each query of each head takes, (n_kv_heads, keys, heads of a group, queries).
        outputs: from mixed values of every head to the stream, (n_heads * d_head, d_model).
        constant: what is added besides, (positions, d_model): biases of norms, values and output, and rounding.
    """

    values: Tensor
    mix: Tensor
    outputs: Tensor
    constant: Tensor

    @classmethod
    def of(cls, model: Model, layer: int, read: Activations, pattern: Tensor, dtype: torch.dtype) -> Self:
        """Freeze one block's attention.

        Args:
            model: the model.
            layer: the block.
            read: `READ` of the block, of one prompt.
            pattern: attention probabilities, (n_heads, queries, keys).
            dtype: of the map.

        Raises:
            UsageError: what the model computed is no such map, by far.
        """
        before, v, z, added = (read[Site(name, layer)][0] for name in READ)
        pattern = pattern.to(dtype)
        norm, weight, bias = _values(model, layer, before, v, dtype)
        after, projection = _outputs(model, layer, z, added, dtype)
        n_kv, n, n_heads = v.shape[1], len(before), z.shape[1]
        grouped = pattern.view(n_kv, n_heads // n_kv, n, n)
        mix = torch.einsum("gjqk,q,k->gkjq", grouped, after.scales, norm.scales)
        multiplier = model.tap(Site("attn_out", layer)).multiplier
        outputs = multiplier * after.shape(projection)
        linear = cls(norm.pull_back(weight), mix.contiguous(), outputs, torch.zeros_like(before))
        constant = added.to(dtype) - linear.apply(before.to(dtype))
        # The norm's bias and the values' own, mixed by the pattern and put out, and what is added after that.
        own = torch.einsum("gjqk,gd->qgjd", grouped, (weight @ norm.bias + bias).view(n_kv, -1))
        outer = _projected(model, layer, torch.zeros_like(z)).to(dtype)
        expected = multiplier * after.apply(own.reshape(n, -1) @ projection + outer)
        missed = float((constant - expected).abs().max() / added.to(dtype).abs().max())
        if not missed <= tolerance(model):
            raise UsageError(
                f"attention of block {layer} in {model.architecture.family} is not linear when its pattern is held",
                f"the map misses what it adds by {missed:.1e} of its largest value",
            )
        return replace(linear, constant=constant)

    def apply(self, stream: Tensor) -> Tensor:
        """What is added without the constant, (positions, d_model), of the stream before the block, the same shape."""
        n_kv, n, *_ = self.mix.shape
        values = (stream @ self.values.T).view(n, n_kv, -1)
        mixed = torch.einsum("gkjq,kgd->qgjd", self.mix, values)
        return mixed.reshape(n, -1) @ self.outputs

    def pull_back(self, gradient: Tensor) -> Tensor:
        """Gradients by the stream before the block, of those by what attention adds.

        Args:
            gradient: at the first so many positions, and 0 at the others, (positions, targets, d_model).

        Returns:
            The same shape: nothing that a position adds depends on a later one.
        """
        n, targets, _ = gradient.shape
        n_kv, _, group, _ = self.mix.shape
        by_head = (gradient.reshape(n * targets, -1) @ self.outputs.T).view(n, targets, n_kv, group, -1)
        # One product a key-value head, over its queries and the heads that share it.
        by_query = by_head.permute(2, 3, 0, 1, 4).reshape(n_kv, group * n, -1)
        mix = self.mix[:, :n, :, :n].reshape(n_kv, n, group * n)
        by_value = torch.bmm(mix, by_query).view(n_kv, n, targets, -1).permute(1, 2, 0, 3)
        return (by_value.reshape(n * targets, -1) @ self.values).view(n, targets, -1)

    def pull_back_one(self, gradient: Tensor, positions: Tensor, n: int) -> Tensor:
        """As `pull_back`, of targets whose gradient is 0 but at one position: so one product with weights is short.

        Args:
            gradient: at that position, (targets, d_model).
            positions: which, (targets,).
            n: how many positions are returned, beyond all of these.
        """
        n_kv, _, group, _ = self.mix.shape
        by_head = (gradient @ self.outputs.T).view(len(gradient), n_kv, group, -1)
        by_value = torch.einsum("gkjt,tgjd->ktgd", self.mix[:, :n, :, positions], by_head)
        return (by_value.reshape(n * len(gradient), -1) @ self.values).view(n, len(gradient), -1)


def tolerance(model: Model) -> float:
    """How far a frozen map may miss what a model of this dtype computed, as a share of its largest value."""
    return TOLERANCE.get(model.dtype, HALF_TOLERANCE)


def _values(
    model: Model, layer: int, before: Tensor, v: Tensor, dtype: torch.dtype
) -> tuple[FrozenNorms, Tensor, Tensor]:
    """The norm that values are read through, and their projection's weight, (values, d_model), and bias."""
    site = Site("v", layer)
    tap, path = model.tap(site), model.architecture.module_path(site)
    projection, wanted = model.hf.get_submodule(path), v.flatten(1).to(dtype)
    columns = None if tap.columns is None else tap.columns.flatten().to(before.device)
    if columns is None or tap.side != "out":
        raise UsageError(f"the values of {site} are not columns of one projection in {model.architecture.family}", "")
    # The stream is kept in float32 where weights are coarser, and norms are given what the model gives them.
    before = before.to(model.dtype)
    for name, norm in _norms(model.blocks[layer]):
        with torch.no_grad():
            found = projection((before if norm is None else norm(before[None])[0])[None])[0][..., columns]
        if largest_gap(found.to(dtype), wanted) <= tolerance(model):
            frozen = identity(before, dtype) if norm is None else FrozenNorms.of(norm, before, dtype, name)
            weight, bias = linear_map(projection, path, before.shape[-1], dtype)
            return frozen, weight[columns], bias[columns]
    raise UsageError(
        f"the values of block {layer} in {model.architecture.family} are not a projection of a normed stream",
        f"what {path} makes of no norm of the block is what was read at {site}",
    )


def _norms(block: nn.Module) -> Iterator[tuple[str, nn.Module | None]]:
    """The norms of a block, and none."""
    for name, module in block.named_children():
        if "Norm" in type(module).__name__:
            yield name, module
    yield "no norm", None


def _outputs(model: Model, layer: int, z: Tensor, added: Tensor, dtype: torch.dtype) -> tuple[FrozenNorms, Tensor]:
    """The norm after attention's output projection, if any, and the projection, (n_heads * d_head, d_model)."""
    site = Site("attn_out", layer)
    whole = _projected(model, layer, z)
    multiplier, path = model.tap(site).multiplier, model.architecture.module_path(site)
    if largest_gap((multiplier * whole).to(dtype), added.to(dtype)) <= tolerance(model):
        after = identity(whole, dtype)
    else:
        after = FrozenNorms.of(model.hf.get_submodule(path), whole, dtype, path)
    z_path = model.architecture.module_path(Site("z", layer))
    columns = model.tap(Site("z", layer)).columns
    assert columns is not None
    weight = linear_map(model.hf.get_submodule(z_path), z_path, columns.numel(), dtype)[0]
    return after, weight.T[columns.flatten().to(weight.device)]


def _projected(model: Model, layer: int, z: Tensor) -> Tensor:
    """Mixed values, (positions, n_heads, d_head), through the output projection, its bias too, (positions, d_model)."""
    site = Site("z", layer)
    columns = model.tap(site).columns
    if columns is None:
        raise UsageError(f"the heads of {site} are not columns of one tensor in {model.architecture.family}", "")
    inputs = torch.zeros(len(z), columns.numel(), dtype=z.dtype, device=z.device)
    inputs[:, columns.flatten().to(z.device)] = z.flatten(1)
    with torch.no_grad():
        return model.hf.get_submodule(model.architecture.module_path(site))(inputs[None])[0]


def linear_map(module: nn.Module, name: str, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The weight, (outputs, inputs), and the bias, (outputs,), of a module that is a linear map.

    Args:
        module: the module.
        name: what errors call it.
        width: of its input.
        dtype: of what is returned.

    Raises:
        UsageError: it does something else, as a quantised or an adapted projection does.

    Example:
        >>> import torch
        >>> from bathyscope.circuits.attribution_graphs.attention import linear_map
        >>> weight, bias = linear_map(torch.nn.Linear(3, 2), "a layer", 3, torch.float64)
        >>> tuple(weight.shape), tuple(bias.shape)
        ((2, 3), (2,))
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point():
        # transformers' Conv1D keeps its weight the other way round.
        matrix = (weight if isinstance(module, nn.Linear) else weight.T).detach().to(dtype)
        offset = bias.detach().to(dtype) if isinstance(bias, Tensor) else matrix.new_zeros(len(matrix))
        if matrix.shape[1] == width:
            probe = torch.randn(width, generator=torch.Generator().manual_seed(0)).to(weight)
            with torch.no_grad():
                wanted = module(probe[None, None])[0, 0].to(dtype)
            if largest_gap(matrix @ probe.to(dtype) + offset, wanted) <= TOLERANCE.get(weight.dtype, HALF_TOLERANCE):
                return matrix, offset
    raise UsageError(
        f"{name} ({type(module).__name__}) is not the linear map of its weight and bias",
        "graphs are made of plain projections, neither quantised nor adapted",
        "a model in float32 without adapters",
    )
