"""The speed that this machine cannot exceed: a model's own weight matrices, multiplied and nothing else."""

import torch
from measure import clock, median
from torch import Tensor, nn


class Ceiling:
    """Every Linear weight of a model, the unembedding among them, times as many rows as a decoding step has.

    Args:
        model: the model; its weights are used as they are, so that they come from memory as in a real step.
        rows: how many rows.
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.rows = rows
        self.weights: list[Tensor] = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
        kind = {"dtype": self.weights[0].dtype, "device": self.weights[0].device}
        self._inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1], **kind) for weight in self.weights}
        self._outputs = {weight.shape[0]: torch.empty(rows, weight.shape[0], **kind) for weight in self.weights}

    @property
    def operations(self) -> int:
        """Multiplications and additions of one step."""
        return 2 * self.rows * sum(weight.numel() for weight in self.weights)

    def step(self) -> None:
        """The products of one decoding step."""
        with torch.no_grad():
            for weight in self.weights:
                torch.mm(self._inputs[weight.shape[1]], weight.t(), out=self._outputs[weight.shape[0]])

    def seconds(self, repeats: int = 5) -> float:
        """Median seconds of one step."""
        self.step()
        return median([clock(self.step)[1] for _ in range(repeats)])
