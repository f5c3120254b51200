"""What of a coder is trained, how it starts, and how it becomes a coder of activations as they are.

Training sees activations about their mean, and of mean squared length 1 (`Scaling`): so one learning
rate fits every site, and the loss is a share of the variance.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bathyscope.errors import UsageError


@dataclass(frozen=True, eq=False)
class Scaling:
    """What activations are brought to: mean 0, mean squared length 1.

    Args:
        mean: (width,).
        length: root of the mean squared length about it.
    """

    mean: Tensor
    length: float

    @classmethod
    def of(cls, total: Tensor, squares: float, n: int) -> "Scaling":
        """From a sum of activations, (width,), the sum of their squared lengths, and their number, in float64.

        Raises:
            UsageError: they are all one and the same, or there is none.
        """
        mean = total / max(n, 1)
        variance = squares / max(n, 1) - float(mean @ mean)
        if not n or not variance > 1e-12 * max(1.0, squares / n):
            raise UsageError(f"{n} activations without variance were given", "a coder learns from what varies")
        return cls(mean.float(), variance**0.5)

    def apply(self, x: Tensor) -> Tensor:
        """Activations as training sees them, (rows, width), float32."""
        return (x.to(torch.float32) - self.mean) / self.length


class Weights:
    """The tensors of one coder in training, in the units of `Scaling`.

    Args:
        trained: by name: "encoder", "encoder_bias", "decoder", "decoder_bias", perhaps "skip", and what a
            sparsity adds.
        kept: what a sparsity remembers besides, by name.
    """

    def __init__(self, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        self.trained = {name: nn.Parameter(tensor.clone()) for name, tensor in trained.items()}
        self.kept = {name: tensor.clone() for name, tensor in kept.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.trained[name] if name in self.trained else self.kept[name]

    @property
    def n_latents(self) -> int:
        """How many latents there are."""
        return len(self["encoder"])

    @property
    def skip(self) -> Tensor | None:
        """The linear path from input to output, if there is one."""
        return self.trained.get("skip")

    def add_gradients(self, **gradients: Tensor) -> None:
        """Add to what has been found of a step's gradients."""
        for name, gradient in gradients.items():
            weight = self.trained[name]
            weight.grad = gradient if weight.grad is None else weight.grad + gradient

    def tensors(self) -> dict[str, Tensor]:
        """All of them, by name."""
        return {**{name: weight.detach() for name, weight in self.trained.items()}, **self.kept}


def autoencoder_start(n_latents: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random directions that latents read and write alike; biases 0, which is the mean of the data."""
    decoder = unit_rows(torch.randn(n_latents, width, generator=generator))
    return {
        "encoder": decoder.clone(),
        "encoder_bias": torch.zeros(n_latents),
        "decoder": decoder,
        "decoder_bias": torch.zeros(width),
    }


def transcoder_start(
    n_latents: int, d_in: int, d_out: int, generator: torch.Generator, *, skip: bool
) -> dict[str, Tensor]:
    """Random directions on either side; the skip, if there is one, begins at 0."""
    return {
        "encoder": unit_rows(torch.randn(n_latents, d_in, generator=generator)),
        "encoder_bias": torch.zeros(n_latents),
        "decoder": unit_rows(torch.randn(n_latents, d_out, generator=generator)),
        "decoder_bias": torch.zeros(d_out),
        **({"skip": torch.zeros(d_in, d_out)} if skip else {}),
    }


def unit_rows(matrix: Tensor) -> Tensor:
    """Rows of length 1."""
    return matrix / matrix.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
