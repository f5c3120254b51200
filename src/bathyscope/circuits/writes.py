"""What circuits write: values with their graph, and activations of which only a circuit's features are let through."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from bathyscope.circuits.features import Basis, Gates, Parts
from bathyscope.interventions import Intervention


@dataclass(frozen=True, eq=False)
class ReplaceLive(Intervention):
    """As `Replace`, with one value for every prompt and position, whose graph is kept.

    Args:
        value: (prompts, positions, width), heads side by side.
    """

    together: ClassVar[bool] = True

    value: Tensor

    @override
    def apply(self, activation: Tensor) -> Tensor:
        return self.value.reshape(activation.shape)


@dataclass(frozen=True, eq=False)
class LetThrough(Intervention):
    """Keep what gates let through of what is there, and put a reference in place of the rest.

    Args:
        basis: what activations are taken apart in.
        gates: what is kept, by position.
        reference: what the rest becomes, (positions, ...), or for each prompt, (prompts, positions, ...).
    """

    together: ClassVar[bool] = True

    basis: Basis
    gates: Gates
    reference: Parts

    @override
    def apply(self, activation: Tensor) -> Tensor:
        x = activation.reshape(-1, len(self.gates.error), self.basis.width)
        kept = self.gates.error[:, None]
        # x is what its features write, a constant and the error, of which each becomes its reference as far as its
        # gate is shut. What is put together here is the same: features of x are met once, by the active ones.
        rest = self.reference * self.gates.complement()
        fixed = self.basis.written(rest.features) + rest.error + (1 - kept) * self.basis.constant
        found = kept * x + self.basis.gated(x, self.gates.features - kept) + fixed
        return found.reshape(activation.shape)
