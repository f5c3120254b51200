"""Translator: one layer's part of a tuned lens while it is trained, in coordinates in which training is quick.

A residual stream's numbers differ a hundredfold in spread, and an optimiser that moves every weight by
the same amount would move a few of them far too much. So the input is standardised, and the output is a
sum of the directions in which the last block's residual stream varies, each as long as it varies there.
Both are folded into a matrix and a bias at the end. Knows no models.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from bathyscope.mappings import Term

DECAY: Final = (0.9, 0.99)
"""How much Adam keeps of its running mean and mean square at each step."""

FLAT: Final = 1e-3
"""Directions that vary less than this share of the mean variance are taken to vary by that much."""


@dataclass(eq=False)
class Translator:
    """What is added to a layer's residual stream: zero at first.

    Args:
        mean: of the layer's residual stream, (d_model,).
        spread: its standard deviation in every coordinate, (d_model,).
        directions: what a step of one in each output coordinate adds to the residual stream, (d_model, d_model).
        weight: from standardised input to output coordinates; the last row is the bias, (d_model + 1, d_model).
        first, second: Adam's running mean and mean square of the gradient, of the weight's shape.
    """

    mean: Tensor
    spread: Tensor
    directions: Tensor
    weight: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def start(cls, residual: Tensor, directions: Tensor) -> Self:
        """The translator that changes nothing.

        Args:
            residual: the layer's residual stream at some positions, (positions, d_model).
            directions: of the last block's, as `main_directions` gives them.
        """
        mean, spread = residual.mean(0), residual.std(0, correction=0)
        around = spread.square().mean().sqrt()
        # A coordinate that never moves says nothing; divided by its spread it would say it loudly.
        spread = spread.clamp_min(1e-6 * float(around) or 1.0)
        nothing = residual.new_zeros(residual.shape[1] + 1, residual.shape[1])
        return cls(mean, spread, directions * around, nothing, nothing.clone(), nothing.clone())

    def coordinates(self, residual: Tensor) -> Tensor:
        """The layer's residual stream, standardised, and a one for the bias: (rows, d_model + 1)."""
        return torch.cat([(residual - self.mean) / self.spread, residual.new_ones(len(residual), 1)], 1)

    def added(self, coordinates: Tensor) -> Tensor:
        """What the translator adds to the residual stream, (rows, d_model)."""
        return coordinates @ self.weight @ self.directions

    def step(self, coordinates: Tensor, gradient: Tensor, rate: float, number: int) -> None:
        """Move against a gradient, by Adam (arXiv 1412.6980).

        Args:
            coordinates: of the input, (rows, d_model + 1).
            gradient: with respect to the translated residual stream, (rows, d_model).
            rate: how far a weight moves at most, about.
            number: which step this is, from 1.
        """
        slope = coordinates.T @ (gradient @ self.directions.T)
        keep, keep_square = DECAY
        self.first.lerp_(slope, 1 - keep)
        self.second.lerp_(slope.square_(), 1 - keep_square)
        size = (self.second / (1 - keep_square**number)).sqrt_().add_(1e-12)
        self.weight.addcdiv_(self.first, size, value=-rate / (1 - keep**number))

    def term(self) -> Term:
        """The whole translation as one matrix and one bias: h times (I + W), plus b."""
        weight, directions = self.weight.double(), self.directions.double()
        matrix = (weight[:-1] / self.spread.double()[:, None]) @ directions
        bias = weight[-1] @ directions - self.mean.double() @ matrix
        matrix = matrix + torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
        return Term(matrix.to(self.weight.dtype), bias.to(self.weight.dtype))

    def tensors(self) -> dict[str, Tensor]:
        """All that it is, for a checkpoint."""
        return {name: tensor.contiguous() for name, tensor in vars(self).items()}

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor]) -> Self:
        """What `tensors` gave."""
        return cls(**tensors)


def main_directions(residual: Tensor) -> Tensor:
    """The directions in which a residual stream varies, as rows, each as long as its standard deviation.

    They are scaled so that the mean variance is 1, and none is shorter than the root of `FLAT`.

    Args:
        residual: at some positions, (positions, d_model).

    Returns:
        (d_model, d_model).
    """
    centred = (residual - residual.mean(0)).double()
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    shares = (variances / variances.mean().clamp_min(1e-300)).clamp_min(FLAT)
    return (shares.sqrt()[:, None] * directions.T).to(residual.dtype)
