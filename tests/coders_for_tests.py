"""Coders whose behaviour theory knows: one that loses nothing, one that knows nothing, one drawn at random."""

from typing import Any

import torch
from torch import Tensor

from bathyscope.model import Model
from bathyscope.sae import KeepAbove, KeepTop, SparseCoder
from bathyscope.sites import Site


def width_of(model: Model, site: Site) -> int:
    """How many numbers one position of a site has."""
    from bathyscope import capture

    return capture(model, "a", [site])[site][0][0].numel()


def identity_coder(width: int, **about: Any) -> SparseCoder:
    """x = relu(x) - relu(-x): two latents a coordinate, and nothing is lost."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    nothing = torch.zeros(2 * width), both, torch.zeros(width)
    return SparseCoder(both, *nothing, KeepAbove(torch.tensor(0.0)), **about)


def blind_coder(width: int, bias: Tensor | None = None, **about: Any) -> SparseCoder:
    """No latent is ever active: the reconstruction is the bias, or zero."""
    never = torch.full((4,), -1.0)
    bias = torch.zeros(width) if bias is None else bias
    return SparseCoder(torch.zeros(4, width), never, torch.ones(4, width), bias, KeepTop(2), **about)


def random_coder(
    width: int, d_out: int | None = None, n_latents: int = 64, k: int = 6, seed: int = 0, **about: Any
) -> SparseCoder:
    """Weights drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    d_out = width if d_out is None else d_out

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return SparseCoder(
        draw(n_latents, width) / width**0.5,
        0.1 * draw(n_latents),
        draw(n_latents, d_out) / d_out**0.5,
        0.1 * draw(d_out),
        KeepTop(k),
        **about,
    )
