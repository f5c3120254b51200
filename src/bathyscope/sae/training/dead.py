"""Latents that have died, and the loss that brings them back (aux-k, arXiv 2406.04093, appendix A.2).

A latent is dead when it has been silent for so many tokens. Dead ones reconstruct what the living
leave, without any bias, so that they learn what is missing; their encoder learns as their decoder does.
One that is negative in every row reconstructs nothing and has no such gradient: its bias is raised until it has.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope.sae.training.weights import Weights

WEIGHT: Final = 1 / 32
"""Of the auxiliary loss."""


@dataclass
class Silence:
    """How many tokens each latent has been silent for.

    Args:
        tokens: (n_latents,), int64.
    """

    tokens: Tensor

    @classmethod
    def none(cls, n_latents: int) -> "Silence":
        """At the beginning."""
        return cls(torch.zeros(n_latents, dtype=torch.long))

    def hear(self, active: Tensor, n_tokens: int) -> None:
        """Take in a step: in how many of its tokens each latent was active, (n_latents,)."""
        self.tokens = torch.where(active > 0, 0, self.tokens + n_tokens)

    def dead(self, after: int) -> Tensor:
        """The numbers of latents that have been silent for at least so many tokens."""
        return (self.tokens >= after).nonzero().squeeze(1)


@torch.no_grad()
def revive(weights: Weights, x: Tensor, residual: Tensor, dead: Tensor, most: int, bias: str) -> Tensor:
    """Add the gradients of the auxiliary loss: WEIGHT x the squared error of the dead on what the living leave.

    Args:
        weights: its gradients grow at the dead latents alone.
        x: what is encoded, (rows, d_in).
        residual: what the living leave, (rows, d_out).
        dead: which latents, (n_dead,).
        most: at most so many of them reconstruct each row.
        bias: the bias that decides whether they are active.

    Returns:
        The auxiliary loss, ().
    """
    encoder, decoder = weights["encoder"][dead], weights["decoder"][dead]
    pre = torch.addmm(weights[bias][dead], x, encoder.T)
    negative = (pre <= 0).all(0)
    if len(dead) > most:
        kept = pre.topk(most, dim=-1).values[:, -1:]
        pre = torch.where(pre >= kept, pre, 0)
    latents = pre.relu()
    missed = residual - latents @ decoder
    slope = missed * (-2 * WEIGHT / len(x))
    back = (slope @ decoder.T) * (latents > 0)
    for name, gradient in (
        ("decoder", latents.T @ slope),
        ("encoder", back.T @ x),
        (bias, back.sum(0) - WEIGHT * negative),
    ):
        grad = weights.trained[name].grad
        assert grad is not None
        grad[dead] += gradient
    return WEIGHT * missed.square().sum() / len(x)
