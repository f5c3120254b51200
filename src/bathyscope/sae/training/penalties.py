"""Sparsities that punish active latents: ReLU with L1, its annealed form, JumpReLU and Gated.

Any number of latents may be active, so these steps are dense, and autograd takes their gradients.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.sae.code import KeepAbove, Selection
from bathyscope.sae.formats.gates import gated
from bathyscope.sae.training.sparsity import Learned, Moment, Sparsity
from bathyscope.sae.training.weights import Weights

WARM: Final = 0.05
"""Share of the training over which a penalty grows from 0: a full one from the start kills latents."""

THRESHOLD_RATE: Final = 0.05
"""Learning rate of JumpReLU's thresholds, whatever the coder's: steps of a logarithm have no unit, and at the coder's
rate 700 steps are too few to come from the start to where k latents are active. Tried on three made-up sets of 8, 32
and 64 dimensions, with learning rates from .001 to .01: after 720 steps L0 is within an eighth of k (less only where
fewer than k latents explain everything), and up to 7 times k at the coder's rate; at .3 coders with rate .01 died."""


@dataclass(frozen=True, eq=False)
class _Pass:
    """A dense pass.

    Args:
        latents: (rows, n_latents).
        penalty: what is added to the reconstruction's loss, ().
        more: losses of the way that gates are trained, ().
    """

    latents: Tensor
    penalty: Tensor
    more: Tensor | float = 0.0


class Penalised(Sparsity):
    """A sparsity whose penalty is added to the loss."""

    @abstractmethod
    def forward(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> _Pass:
        """Latents and penalty, with a graph."""

    @override
    def learn(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> Learned:
        with torch.enable_grad():
            found = self.forward(weights, x, y, moment)
            residual = y - reconstruction(weights, x, found.latents)
            loss = residual.square().sum() / len(x) + min(1.0, moment.share / WARM) * found.penalty + found.more
            names, trained = zip(*weights.trained.items(), strict=True)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        weights.add_gradients(
            **{
                name: torch.zeros_like(weight) if gradient is None else gradient
                for name, weight, gradient in zip(names, trained, gradients, strict=True)
            }
        )
        return Learned(loss.detach(), residual.detach(), (found.latents > 0).sum(0))


def reconstruction(weights: Weights, x: Tensor, latents: Tensor) -> Tensor:
    """What dense latents stand for, (rows, d_out)."""
    found = torch.addmm(weights["decoder_bias"], latents, weights["decoder"])
    return found if weights.skip is None else found + x @ weights.skip


def pre_activations(weights: Weights, x: Tensor) -> Tensor:
    """What latents are made of, (rows, n_latents)."""
    return nn.functional.linear(x, weights["encoder"], weights["encoder_bias"])


@dataclass(frozen=True)
class L1(Penalised):
    """ReLU, and the sum of all latents as the penalty (transformer-circuits.pub/2023/monosemantic-features).

    Args:
        coefficient: of the penalty; the loss beside it is the share of the variance that is missed.

    Example:
        >>> from bathyscope.sae import L1
        >>> L1(0.02).spec()
        {'sparsity': 'l1', 'coefficient': 0.02}
    """

    coefficient: float = 0.03
    name: ClassVar[str] = "l1"

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    @override
    def forward(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> _Pass:
        latents = pre_activations(weights, x).relu()
        return _Pass(latents, self.coefficient * latents.sum() / len(x))

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepAbove(torch.zeros(()))


@dataclass(frozen=True)
class PAnneal(Penalised):
    """ReLU, and the sum of latents to a power that falls from 1 (arXiv 2408.00113).

    At each fall the coefficient is set so that the penalty stays what it was.

    Args:
        coefficient: of the penalty, at power 1.
        last: the power at the end.
        begin: share of the training at power 1.
        falls: how many times the power falls.
    """

    coefficient: float = 0.03
    last: float = 0.2
    begin: float = 0.3
    falls: int = 10
    name: ClassVar[str] = "p-anneal"

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)
        if not (0 < self.last < 1 and 0 <= self.begin < 1 and self.falls >= 1):
            raise UsageError(
                f"last={self.last}, begin={self.begin}, falls={self.falls} were given",
                "a last power between 0 and 1, a beginning from 0 and below 1, at least one fall",
            )

    @override
    def kept(self) -> dict[str, Tensor]:
        return {"power": torch.ones(()), "factor": torch.ones(())}

    @override
    def forward(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> _Pass:
        latents = pre_activations(weights, x).relu()
        power = self._power(moment.share)
        before = float(weights.kept["power"])
        if power != before:
            ratio = _powered(latents.detach(), before) / _powered(latents.detach(), power).clamp_min(1e-30)
            weights.kept["factor"] = weights.kept["factor"] * ratio
            weights.kept["power"] = torch.tensor(power)
        return _Pass(latents, self.coefficient * weights.kept["factor"] * _powered(latents, power))

    def _power(self, share: float) -> float:
        if share < self.begin:
            return 1.0
        fallen = min(self.falls, 1 + int((share - self.begin) / (1 - self.begin) * self.falls))
        return float(torch.tensor(1 - (1 - self.last) * fallen / self.falls))

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepAbove(torch.zeros(()))


@dataclass(frozen=True)
class JumpReLU(Penalised):
    """A threshold for each latent, trained through a kernel, towards a number of active ones (arXiv 2407.14435).

    The penalty is coefficient * (L0 / k - 1) ** 2. What is below a threshold gets no gradient but the threshold's.
    Thresholds have a learning rate of their own (`THRESHOLD_RATE`); some hundred steps are needed to come near k.

    Args:
        k: how many latents of a row should be active on average.
        coefficient: of the penalty.
        bandwidth: width of the kernel; inputs have mean squared length 1.
        start: thresholds at the beginning.
    """

    k: float = 32
    coefficient: float = 1.0
    bandwidth: float = 0.02
    start: float = 0.02
    name: ClassVar[str] = "jumprelu"
    rates: ClassVar[Mapping[str, float]] = {"log_threshold": THRESHOLD_RATE}

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)
        if min(self.k, self.bandwidth, self.start) <= 0:
            raise UsageError(
                f"k={self.k}, bandwidth={self.bandwidth}, start={self.start} were given", "numbers above 0"
            )

    @override
    def trained(self, n_latents: int) -> dict[str, Tensor]:
        # As its logarithm: thresholds stay positive whatever the steps.
        return {"log_threshold": torch.full((n_latents,), self.start).log()}

    @override
    def forward(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> _Pass:
        pre, threshold = pre_activations(weights, x), weights["log_threshold"].exp()
        latents = _Jump.apply(pre, threshold, self.bandwidth)
        l0 = _Step.apply(pre, threshold, self.bandwidth).sum() / len(x)
        return _Pass(latents, self.coefficient * (l0 / self.k - 1) ** 2)

    @override
    def selection(self, weights: Weights) -> Selection:
        return KeepAbove(weights["log_threshold"].detach().exp())


@dataclass(frozen=True)
class Gated(Penalised):
    """Whether a latent is active and how much are found apart (arXiv 2404.16014).

    A finished gated coder is a JumpReLU: rows of its encoder scaled, and one threshold each.

    Args:
        coefficient: of the L1 penalty on the gates.
    """

    coefficient: float = 0.3
    name: ClassVar[str] = "gated"
    bias: ClassVar[str] = "gate_bias"

    def __post_init__(self) -> None:
        _check_coefficient(self.coefficient)

    @override
    def trained(self, n_latents: int) -> dict[str, Tensor]:
        return {"gate_bias": torch.zeros(n_latents), "log_scale": torch.zeros(n_latents)}

    @override
    def forward(self, weights: Weights, x: Tensor, y: Tensor, moment: Moment) -> _Pass:
        shared = x @ weights["encoder"].T
        gates = shared + weights["gate_bias"]
        latents = (shared * weights["log_scale"].exp() + weights["encoder_bias"]).relu() * (gates > 0)
        open_gates = gates.relu()
        # Gates get no gradient through the step above: they learn by reconstructing alone, which trains no decoder.
        alone = torch.addmm(weights["decoder_bias"].detach(), open_gates, weights["decoder"].detach())
        alone = alone if weights.skip is None else alone + x @ weights.skip.detach()
        return _Pass(latents, self.coefficient * open_gates.sum() / len(x), (y - alone).square().sum() / len(x))

    @override
    def encoder(self, weights: Weights) -> tuple[Tensor, Tensor]:
        return _gated(weights)[:2]

    @override
    def selection(self, weights: Weights) -> Selection:
        return _gated(weights)[2]


def _gated(weights: Weights) -> tuple[Tensor, Tensor, KeepAbove]:
    return gated(*(weights[name].detach() for name in ("encoder", "log_scale", "encoder_bias", "gate_bias")))


class _Jump(torch.autograd.Function):
    """z where it is above a threshold, else 0; the threshold's gradient by a rectangular kernel."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(z > threshold, z, 0)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor, None]:
        (z, threshold), (slope,) = ctx.saved_tensors, slopes
        near = ((z - threshold).abs() < ctx.bandwidth / 2).to(z.dtype)
        return slope * (z > threshold), -(threshold / ctx.bandwidth) * (near * slope).sum(0), None


class _Step(torch.autograd.Function):
    """1 where z is above a threshold, else 0; gradients for the threshold alone."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, Tensor, None]:
        (z, threshold), (slope,) = ctx.saved_tensors, slopes
        near = ((z - threshold).abs() < ctx.bandwidth / 2).to(z.dtype)
        return None, -(1 / ctx.bandwidth) * (near * slope).sum(0), None


def _powered(latents: Tensor, power: float) -> Tensor:
    # A root has no gradient at 0, and inactive latents need none.
    return torch.where(latents > 0, latents.clamp_min(1e-12) ** power, 0).sum() / len(latents)


def _check_coefficient(coefficient: float) -> None:
    if not coefficient > 0:
        raise UsageError(f"coefficient={coefficient} was given", "a number above 0")
