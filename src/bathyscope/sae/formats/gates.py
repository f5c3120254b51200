"""Gates as thresholds: a gated coder is a JumpReLU whose encoder rows are rescaled."""

from torch import Tensor

from bathyscope.sae.code import KeepAbove


def gated(encoder: Tensor, r_mag: Tensor, b_mag: Tensor, b_gate: Tensor) -> tuple[Tensor, Tensor, KeepAbove]:
    """The encoder, its bias and the thresholds that do what a gated encoder does (arXiv 2404.16014).

    With p a latent's product with the input, it is active where p + b_gate > 0, and then has the value
    ReLU(y) with y = exp(r_mag) p + b_mag. Since exp(r_mag) > 0, the first says that y > b_mag - exp(r_mag) b_gate, and
    the second adds that y > 0; both are strict, as `KeepAbove` is.

    Args:
        encoder: (n_latents, d_in).
        r_mag: logarithm of each row's factor, (n_latents,).
        b_mag: bias of the values, (n_latents,).
        b_gate: bias of the gates, (n_latents,).

    Example:
        >>> import torch
        >>> from bathyscope.sae.formats.gates import gated
        >>> encoder, bias, above = gated(torch.ones(1, 1), torch.zeros(1), torch.tensor([3.0]), torch.tensor([1.0]))
        >>> above.threshold.tolist()  # open where p > -1, that is where p + 3 > 2
        [2.0]
    """
    factor = r_mag.exp()
    return encoder * factor[:, None], b_mag, KeepAbove((b_mag - factor * b_gate).clamp(min=0))
