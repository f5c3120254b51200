"""Translators: an affine step from each layer's residual stream towards the last block's output, and its training.

All layers take a step together, on one batch of positions. Weights live in coordinates of their own:
what is read is standardised, and what is added is in units of what the model itself still adds after
that layer, direction by direction. At zero nothing is added, whatever the coordinates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from bathyscope.fitting.vocabulary import draw, kl_gradient
from bathyscope.mappings import Term
from bathyscope.model import Model

BETAS: Final = (0.9, 0.99)
"""Of Adam. The second is short, for a fit has some hundred steps."""

FLOOR: Final = 1e-3
"""A number or a direction that varies less than this share of the mean is taken to vary so much."""

TINY: Final = 1e-12
"""What stands for nothing where something is divided by."""

PENALTY: Final = 1e-2
"""Of the least squares, on weights of standardised numbers: what ridge regression chooses on held-out text."""

WARM: Final = 0.1
"""Share of the steps in which the learning rate rises where training starts at zero; after that it falls to nothing."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """What is standardised, and in which units something is added; layers first.

    Args:
        mean: of each layer's residual stream, (layers, 1, d_model).
        deviation: its standard deviation, number by number, (layers, 1, d_model).
        basis: a direction a row, as long as what the model still adds along it, (layers, d_model, d_model).
    """

    mean: Tensor
    deviation: Tensor
    basis: Tensor

    @classmethod
    def of(cls, states: Tensor, final: Tensor) -> Self:
        """From residual streams, (layers, positions, d_model), and the last block's output, (positions, d_model)."""
        mean = states.mean(1, keepdim=True)
        deviation = states.std(1, keepdim=True, correction=0)
        # A number that hardly varies in what was read first must not be blown up when it does later.
        deviation = deviation.clamp_min(FLOOR * deviation.mean(-1, keepdim=True).clamp_min(TINY))
        gap = final - states
        gap = (gap - gap.mean(1, keepdim=True)).double()
        sizes, directions = torch.linalg.eigh(gap.transpose(1, 2) @ gap / gap.shape[1])
        least = FLOOR * sizes.mean(-1, keepdim=True).clamp_min(TINY)
        basis = sizes.clamp_min(least).sqrt()[..., None] * directions.transpose(1, 2)
        return cls(mean, deviation, basis.to(mean))

    def standardised(self, states: Tensor) -> Tensor:
        """Residual streams, (layers, positions, d_model), with mean 0 and deviation 1."""
        return (states - self.mean) / self.deviation

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return {"mean": self.mean, "deviation": self.deviation, "basis": self.basis}


class LeastSquares:
    """Sums over positions, from which the translators with the least squared error follow.

    Args:
        coordinates: what they are relative to.
    """

    def __init__(self, coordinates: Coordinates) -> None:
        self.coordinates, self.n = coordinates, 0
        layers, width = coordinates.basis.shape[:2]
        self._products = torch.zeros(layers, width + 1, width + 1, dtype=torch.float64)
        self._crossed = torch.zeros(layers, width + 1, width, dtype=torch.float64)

    def add(self, states: Tensor, final: Tensor) -> None:
        """Take in residual streams, (layers, positions, d_model), and the last block's output."""
        self.n += states.shape[1]
        for layer, read in enumerate(self.coordinates.standardised(states).double()):
            read = torch.cat([read, torch.ones(len(read), 1, dtype=read.dtype)], 1)
            self._products[layer] += read.T @ read
            self._crossed[layer] += read.T @ (final - states[layer]).double()

    def solved(self) -> tuple[Tensor, Tensor]:
        """Weights, (layers, d_model, d_model), and biases, (layers, 1, d_model), in the coordinates."""
        width = self._products.shape[-1] - 1
        penalty = torch.eye(width + 1, dtype=torch.float64) * (PENALTY * self.n)
        penalty[-1, -1] = 0.0
        # One layer at a time: factorising a batch of matrices on several threads has been seen to fail in LAPACK.
        found = torch.stack(
            [
                torch.cholesky_solve(crossed, torch.linalg.cholesky(products + penalty))
                for products, crossed in zip(self._products, self._crossed, strict=True)
            ]
        )
        # Rows of the basis are orthogonal, so that its inverse is its transpose over their squared lengths.
        basis = self.coordinates.basis.double()
        found = found @ (basis / basis.square().sum(-1, keepdim=True)).transpose(1, 2)
        return found[:, :-1], found[:, -1:]


class Translators:
    """One translator a layer, in training.

    Args:
        coordinates: what their weights are relative to.
        steps: how many steps there will be.
        rate: the learning rate at its highest.
    """

    def __init__(self, coordinates: Coordinates, steps: int, rate: float) -> None:
        self.coordinates, self.steps, self.rate = coordinates, steps, rate
        self.weight = torch.zeros_like(coordinates.basis, requires_grad=True)
        self.bias = torch.zeros_like(coordinates.mean, requires_grad=True)
        self._adam = torch.optim.Adam([self.weight, self.bias], lr=rate, betas=BETAS, eps=1e-12)

    def start_from(self, weight: Tensor, bias: Tensor) -> None:
        """Begin elsewhere than at zero: with weights in the coordinates, shaped as `weight` and `bias`."""
        self.weight.data.copy_(weight)
        self.bias.data.copy_(bias)

    def apply(self, states: Tensor) -> Tensor:
        """Residual streams, (layers, rows, d_model), translated."""
        by = self.coordinates
        bias = self.bias.expand(-1, states.shape[1], -1)
        return states + torch.baddbmm(bias, by.standardised(states), self.weight) @ by.basis

    def step(self, model: Model, states: Tensor, final: Tensor, size: int, number: int) -> None:
        """Learn from one batch.

        Args:
            model: whose next-token distribution is met.
            states: residual streams, (layers, rows, d_model).
            final: the last block's output at the same positions, (rows, d_model).
            size: how many tokens of the vocabulary stand for all (`vocabulary.draw`).
            number: of the step, from 0; it decides the draw and the learning rate.
        """
        with torch.no_grad():
            teacher = model.unembed(final.to(model.dtype)).to(final.dtype)
            mass = torch.softmax(teacher, -1).mean(0)
            sample = draw(mass, size, torch.Generator().manual_seed(number))
            tokens = torch.arange(len(mass)) if sample.tokens is None else sample.tokens
            wanted = sample.probabilities(teacher[:, tokens])
        with torch.enable_grad():
            translated = self.apply(states).flatten(0, 1)
            logits = model.token_logits(model.last_hidden(translated.to(model.dtype)), tokens)
            layers = len(states)
            slope = kl_gradient(logits.detach(), wanted.repeat(layers, 1), sample) * layers
            gradients = torch.autograd.grad(logits, (self.weight, self.bias), slope)
        self.weight.grad, self.bias.grad = gradients
        done = (number + 1) / self.steps
        for group in self._adam.param_groups:
            group["lr"] = self.rate * min(1.0, done / WARM, (1 - done) / (1 - WARM) + 1 / self.steps)
        self._adam.step()

    def terms(self) -> list[Term]:
        """Each layer's translator as one matrix and one bias, (d_model, d_model) and (d_model,)."""
        by, found = self.coordinates, []
        with torch.no_grad():
            for layer, weight in enumerate(self.weight.double()):
                change = (weight / by.deviation[layer].T) @ by.basis[layer].double()
                bias = self.bias[layer, 0].double() @ by.basis[layer].double() - by.mean[layer, 0].double() @ change
                whole = torch.eye(len(change), dtype=change.dtype) + change
                found.append(Term(whole.to(by.mean), bias.to(by.mean)))
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training depends on, by name."""
        found = {"weight": self.weight.detach(), "bias": self.bias.detach(), **self.coordinates.tensors()}
        for name, parameter in (("weight", self.weight), ("bias", self.bias)):
            found |= {f"{name}.{what}": value for what, value in self._adam.state[parameter].items()}
        return {name: value.clone() for name, value in found.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], steps: int, rate: float) -> Self:
        """As they were when `tensors` was called."""
        found = cls(Coordinates(*(tensors[name] for name in ("mean", "deviation", "basis"))), steps, rate)
        for name, parameter in (("weight", found.weight), ("bias", found.bias)):
            parameter.data.copy_(tensors[name])
            state = {what.partition(".")[2]: one for what, one in tensors.items() if what.startswith(f"{name}.")}
            found._adam.state[parameter] = state
        return found
