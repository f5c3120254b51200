"""The toy's network: two inputs, hidden units behind a ReLU, the logits of two verbs. Knows no coder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor, nn

from bathyscope.studies.toy_agreement_study.descent import descend
from bathyscope.studies.toy_agreement_study.sentences import VERBS, Sentences, best_accuracy

HIDDEN: Final = 4
STEPS: Final = 300
RATE: Final = 0.02


@dataclass(frozen=True, eq=False)
class AgreementNetwork:
    """logits = relu(x @ hidden.T + hidden_bias) @ output.T + output_bias.

    Args:
        hidden: (units, 2).
        hidden_bias: (units,).
        output: (2, units); the rows are the verbs, "runs" and "run".
        output_bias: (2,).

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.worked import NETWORK
        >>> NETWORK.logits(NETWORK.units(torch.tensor([[1.0, 0.0]], dtype=torch.float64))).tolist()
        [[2.5, -1.5]]
    """

    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor

    def units(self, inputs: Tensor) -> Tensor:
        """The hidden units of inputs, (rows, 2) to (rows, units)."""
        return torch.relu(nn.functional.linear(inputs, self.hidden, self.hidden_bias))

    def logits(self, units: Tensor) -> Tensor:
        """The verbs' logits of hidden units, (rows, units) to (rows, 2)."""
        return nn.functional.linear(units, self.output, self.output_bias)

    def towards(self, verb: str) -> Tensor:
        """What the metric, that verb's logit less the other's, takes of each logit, (2,): 1 and -1."""
        return torch.tensor([1.0 if verb == one else -1.0 for one in VERBS]).to(self.output)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return dict(vars(self))

    @classmethod
    def drawn(cls, generator: torch.Generator) -> Self:
        """One to be trained, drawn as torch draws its linear layers: evenly, within 1 / sqrt(inputs)."""

        def within(bound: float, *shape: int) -> Tensor:
            return bound * (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1)

        first, second = 2**-0.5, HIDDEN**-0.5
        return cls(within(first, HIDDEN, 2), within(first, HIDDEN), within(second, 2, HIDDEN), within(second, 2))


def trained_network(sentences: Sentences, generator: torch.Generator) -> tuple[AgreementNetwork, Mapping[str, Any]]:
    """A network that learned the verbs of the sentences that are not held out, and how well.

    Args:
        sentences: with their held-out ones.
        generator: draws the weights that it begins with.

    Returns:
        The network, and its steps, losses (mean cross-entropy in nats) and accuracies.
    """
    network = AgreementNetwork.drawn(generator)
    weights = [tensor.requires_grad_() for tensor in network.tensors().values()]
    seen, unseen = ~sentences.held_out, sentences.held_out

    def loss(which: Tensor) -> Tensor:
        logits = network.logits(network.units(sentences.inputs[which]))
        return nn.functional.cross_entropy(logits, sentences.numbers[which])

    losses = descend(weights, lambda: loss(seen), steps=STEPS, rate=RATE)
    for tensor in weights:
        tensor.requires_grad_(False)
    return network, {
        "steps": STEPS,
        "rate": RATE,
        "dtype": "float64",
        "final_loss": losses[-1],
        "held_out_loss": float(loss(unseen)),
        **accuracies(network, sentences),
        "losses": list(losses),
    }


def accuracies(network: AgreementNetwork, sentences: Sentences) -> dict[str, float]:
    """How often the likelier verb is the right one, in sentences to train on, held out, and at best."""
    right = network.logits(network.units(sentences.inputs)).argmax(-1) == sentences.numbers
    seen, unseen = right[~sentences.held_out].double(), right[sentences.held_out].double()
    return {
        "sentences": len(seen),
        "held_out_sentences": len(unseen),
        "accuracy": float(seen.mean()),
        "held_out_accuracy": float(unseen.mean()),
        "best_accuracy": best_accuracy(),
    }
