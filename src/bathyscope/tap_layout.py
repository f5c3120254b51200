"""Where a site's activation stands within the tensor that a module receives or returns, and how it is put back.

A `Tap` says how a family lays a tensor out; these functions read it and write it as such. Knows no passes and no hooks.
"""

from typing import Any

from torch import Tensor

from bathyscope.architectures import Tap
from bathyscope.errors import InterventionError
from bathyscope.interventions import Intervention
from bathyscope.sites import Site


def lay_out(tensor: Tensor, tap: Tap, length: int) -> Tensor:
    """A view of the module's tensor as (batch, positions, ...).

    Args:
        tensor: what the module receives or returns.
        tap: how it lays that out.
        length: how many positions the pass computes.

    Example:
        >>> import torch
        >>> from bathyscope.architectures import Tap
        >>> from bathyscope.tap_layout import lay_out
        >>> lay_out(torch.zeros(6, 4), Tap("mlp", axes="rows width"), 3).shape
        torch.Size([2, 3, 4])
    """
    if tap.axes in ("batch head pos width", "batch head pos key"):
        return tensor.transpose(1, 2)
    if tap.axes == "rows width":
        return tensor.view(-1, length, tensor.shape[-1])
    return tensor


def get(laid_out: Tensor, tap: Tap, site: Site) -> Tensor:
    """The site's activation, (..., site shape), from the module's tensor, (..., module shape).

    Args:
        laid_out: the tensor as `lay_out` gives it, or some places of it.
        tap: how the module lays it out.
        site: the site, whose head may be named.

    Example:
        >>> import torch
        >>> from bathyscope.architectures import Tap
        >>> from bathyscope.sites import Site
        >>> from bathyscope.tap_layout import get
        >>> fused = Tap("attn", columns=torch.tensor([[0, 1], [2, 3]]))
        >>> get(torch.arange(4.0), fused, Site.parse("z.0.1")).tolist()
        [2.0, 3.0]
    """
    value = laid_out if tap.columns is None else laid_out[..., tap.columns.to(laid_out.device)]
    value = value if tap.multiplier == 1.0 else value * tap.multiplier
    if site.head is None:
        return value
    return value.select(value.ndim - 2, site.head)


def written(old: Tensor, tap: Tap, site: Site, intervention: Intervention, read: Tensor | None) -> Tensor:
    """The module's tensor at the written places, (n, ...), after an intervention on the site within it.

    Args:
        old: the tensor at these places before.
        tap: how the module lays it out.
        site: the site, whose head may be named.
        intervention: what is written.
        read: what the same places hold at the site that the intervention reads, if it reads one.

    Raises:
        InterventionError: the intervention changed the shape.

    Example:
        >>> import torch
        >>> from bathyscope.architectures import Tap
        >>> from bathyscope.interventions import Ablate
        >>> from bathyscope.sites import Site
        >>> from bathyscope.tap_layout import written
        >>> fused = Tap("attn", columns=torch.tensor([[0, 1], [2, 3]]))
        >>> written(torch.ones(1, 4), fused, Site.parse("z.0.1"), Ablate(), None).tolist()
        [[1.0, 1.0, 0.0, 0.0]]
    """
    before = get(old, tap, site)
    after = intervention.apply(before) if read is None else intervention.apply_given(before, read)
    if after.shape != before.shape:
        raise InterventionError(
            f"{type(intervention).__name__} returned shape {tuple(after.shape)} at {site}",
            f"it must keep the shape {tuple(before.shape)}",
        )
    after = (after if tap.multiplier == 1.0 else after / tap.multiplier).to(old)
    new = old.clone()
    if tap.columns is not None:
        columns = tap.columns if site.head is None else tap.columns[site.head]
        new[..., columns.to(old.device)] = after
    elif site.head is not None:
        new.select(new.ndim - 2, site.head).copy_(after)
    else:
        new = after
    return new


def one_head(tensor: Tensor, tap: Tap, head: int, length: int) -> Tensor:
    """A module's tensor, with zero for all but one head in it.

    Args:
        tensor: what the module receives or returns, or a gradient by it.
        tap: how it lays that out.
        head: the head that is kept.
        length: how many positions the pass computes.

    Example:
        >>> import torch
        >>> from bathyscope.architectures import Tap
        >>> from bathyscope.tap_layout import one_head
        >>> one_head(torch.ones(1, 1, 4), Tap("attn", columns=torch.tensor([[0, 1], [2, 3]])), 0, 1).tolist()
        [[[1.0, 1.0, 0.0, 0.0]]]
    """
    kept = tensor.new_zeros(tensor.shape)
    given, into = (lay_out(one, tap, length) for one in (tensor, kept))
    if tap.columns is not None:
        columns = tap.columns[head].to(tensor.device)
        into[..., columns] = given[..., columns]
    else:
        into.select(into.ndim - 2, head).copy_(given.select(given.ndim - 2, head))
    return kept


def pick(output: Any, item: int) -> Tensor:
    """The tensor in what a module returns: that itself, an element of a tuple, or the logits.

    Args:
        output: what the module returned.
        item: which element, where that is a tuple.

    Example:
        >>> from bathyscope.tap_layout import pick
        >>> pick(("residual", "pattern"), 1)
        'pattern'
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)):
        return output[item]
    return output.logits


def put(output: Any, item: int, value: Tensor) -> Any:
    """What a module returns, with another tensor where `pick` finds one.

    Args:
        output: what the module returned.
        item: which element, where that is a tuple.
        value: the other tensor.

    Example:
        >>> import torch
        >>> from bathyscope.tap_layout import put
        >>> put((torch.zeros(1), "pattern"), 0, torch.ones(1))
        (tensor([1.]), 'pattern')
    """
    if isinstance(output, Tensor):
        return value
    if isinstance(output, (tuple, list)):
        return (*output[:item], value, *output[item + 1 :])
    output.logits = value
    return output
