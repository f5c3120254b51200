"""Training sparse coders: activations in, coders out."""

from bathyscope.sae.training.activations import Activations, GivenActivations
from bathyscope.sae.training.cache import CachedActivations, cache_activations
from bathyscope.sae.training.learner import CoderConfig, Measured
from bathyscope.sae.training.penalties import L1, Gated, JumpReLU, PAnneal
from bathyscope.sae.training.reader import Reader, WeightedTexts
from bathyscope.sae.training.settings import Settings
from bathyscope.sae.training.sparsity import BatchTopK, Matryoshka, Sparsity, TopK
from bathyscope.sae.training.stream import StreamedActivations
from bathyscope.sae.training.trainer import TrainedCoder, train_coders

__all__ = [
    "L1",
    "Activations",
    "BatchTopK",
    "CachedActivations",
    "CoderConfig",
    "Gated",
    "GivenActivations",
    "JumpReLU",
    "Matryoshka",
    "Measured",
    "PAnneal",
    "Reader",
    "Settings",
    "Sparsity",
    "StreamedActivations",
    "TopK",
    "TrainedCoder",
    "WeightedTexts",
    "cache_activations",
    "train_coders",
]
