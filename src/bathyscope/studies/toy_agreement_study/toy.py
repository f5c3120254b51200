"""The toy itself: a network with the coder of its hidden units, trained or made by hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from bathyscope.sae import SparseCoder
from bathyscope.studies.toy_agreement_study import coder_training, worked
from bathyscope.studies.toy_agreement_study.network import AgreementNetwork, accuracies, trained_network
from bathyscope.studies.toy_agreement_study.sentences import Sentences


@dataclass(frozen=True, eq=False)
class Toy:
    """A network and its coder, and how good each of them is.

    Args:
        name: for people.
        network: of subject-verb agreement.
        coder: of its hidden units.
        accuracy: of the network, with steps and losses where it was trained.
        quality: of the coder, with steps and losses where it was trained.
    """

    name: str
    network: AgreementNetwork
    coder: SparseCoder
    accuracy: Mapping[str, Any]
    quality: Mapping[str, Any]

    @classmethod
    def trained(cls, sentences: Sentences, n_latents: int, generator: torch.Generator) -> Self:
        """Both learned from sentences, the coder from what the finished network makes of them."""
        network, accuracy = trained_network(sentences, generator)
        coder, quality = coder_training.trained_coder(*_units(network, sentences), n_latents, generator)
        return cls(f"2-4-2 network, {n_latents} latents", network, coder, accuracy, quality)

    @classmethod
    def by_hand(cls, sentences: Sentences) -> Self:
        """The worked example, measured on sentences."""
        quality = coder_training.measured(worked.CODER, *_units(worked.NETWORK, sentences))
        accuracy = accuracies(worked.NETWORK, sentences)
        return cls("2-4-2 network, 3 latents, made by hand", worked.NETWORK, worked.CODER, accuracy, quality)

    def weights(self) -> dict[str, Tensor]:
        """All tensors by name."""
        parts = {"network": self.network.tensors(), "coder": self.coder.tensors()}
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}


def _units(network: AgreementNetwork, sentences: Sentences) -> tuple[Tensor, Tensor]:
    """Hidden units of the sentences that are trained on, and of the others."""
    units = network.units(sentences.inputs)
    return units[~sentences.held_out], units[sentences.held_out]
