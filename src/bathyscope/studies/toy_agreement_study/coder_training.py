"""The toy's sparse coder: ReLU latents, an L1 penalty, decoder rows of length 1."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from bathyscope.sae import KeepAbove, SparseCoder
from bathyscope.studies.toy_agreement_study.descent import descend

STEPS: Final = 1000
RATE: Final = 0.02
PENALTY: Final = 0.05
"""What one unit of activation costs beside the error, both in units of the data's deviation."""


def trained_coder(
    seen: Tensor, unseen: Tensor, n_latents: int, generator: torch.Generator
) -> tuple[SparseCoder, Mapping[str, Any]]:
    """A coder of hidden units, and how good it is.

    Args:
        seen: what it is trained on, (rows, units).
        unseen: what it is measured on, (rows, units).
        n_latents: how many latents.
        generator: draws the directions that they begin with.

    Returns:
        The coder, and its steps, losses, FVU (over all values of `unseen`), L0 and the share of latents that are
        active on no row at all.
    """
    # What stands behind a ReLU is not negative: a direction that points away from it would be dead from the start.
    drawn = torch.randn(n_latents, seen.shape[1], generator=generator, dtype=seen.dtype).abs()
    decoder = nn.functional.normalize(drawn, dim=-1)
    encoder, encoder_bias = decoder.clone(), decoder.new_zeros(n_latents)
    decoder_bias = decoder.new_zeros(seen.shape[1])
    learned = [tensor.requires_grad_() for tensor in (encoder, encoder_bias, decoder, decoder_bias)]
    spread = (seen - seen.mean(0)).square().sum(-1).mean()

    def loss() -> Tensor:
        latents = torch.relu(nn.functional.linear(seen, encoder, encoder_bias))
        error = (latents @ decoder + decoder_bias - seen).square().sum(-1).mean() / spread
        return error + PENALTY * latents.sum(-1).mean() / spread.sqrt()

    # Without this the penalty would be escaped by small latents and long rows.
    losses = descend(
        learned,
        loss,
        steps=STEPS,
        rate=RATE,
        after=lambda: decoder.div_(decoder.norm(dim=-1, keepdim=True)),  # pyright: ignore[reportArgumentType]
    )
    tensors = [tensor.detach() for tensor in learned]
    coder = SparseCoder(*tensors, selection=KeepAbove(seen.new_zeros(())))
    return coder, {
        "steps": STEPS,
        "rate": RATE,
        "penalty": PENALTY,
        "latents": n_latents,
        "final_loss": losses[-1],
        **measured(coder, seen, unseen),
        "losses": list(losses),
    }


def measured(coder: SparseCoder, seen: Tensor, unseen: Tensor) -> dict[str, float]:
    """FVU and mean L0 on what the coder has not seen, and the share of latents that nothing makes active."""
    error = (unseen - coder.reconstruct(unseen)).square().sum()
    everywhere = coder.encode(torch.cat([seen, unseen])).counts()
    return {
        "fvu": float(error / (unseen - unseen.mean(0)).square().sum()),
        "l0": float(coder.encode(unseen).l0().double().mean()),
        "dead_share": float((everywhere == 0).double().mean()),
    }
