"""Sparse coders: autoencoders and transcoders that take representations apart; trained, measured, run, read."""

from bathyscope.sae.code import Code, KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.evaluate import evaluate_coder, evaluate_coders
from bathyscope.sae.evaluation import CoderEvaluation, CoderEvaluations
from bathyscope.sae.formats import coder_folders, load_coder, save_coder
from bathyscope.sae.latent_steering import latent_direction
from bathyscope.sae.losses import Loss
from bathyscope.sae.probing_latents import Absorption, SparseProbing, absorption, sparse_probing
from bathyscope.sae.reading import LatentReadings, describe_latents, nearest_latents, promoted_tokens, read_latents
from bathyscope.sae.reconstruction import Reconstruction
from bathyscope.sae.splice import Edit, Splice
from bathyscope.sae.training import (
    L1,
    Activations,
    BatchTopK,
    CachedActivations,
    CoderConfig,
    Gated,
    GivenActivations,
    JumpReLU,
    Matryoshka,
    Measured,
    PAnneal,
    Reader,
    Settings,
    Sparsity,
    StreamedActivations,
    TopK,
    TrainedCoder,
    WeightedTexts,
    cache_activations,
    train_coders,
)

__all__ = [
    "L1",
    "Absorption",
    "Activations",
    "BatchTopK",
    "CachedActivations",
    "Code",
    "CoderConfig",
    "CoderEvaluation",
    "CoderEvaluations",
    "Edit",
    "Gated",
    "GivenActivations",
    "JumpReLU",
    "KeepAbove",
    "KeepTop",
    "LatentReadings",
    "Loss",
    "Matryoshka",
    "Measured",
    "PAnneal",
    "Reader",
    "Reconstruction",
    "Selection",
    "Settings",
    "SparseCoder",
    "SparseProbing",
    "Sparsity",
    "Splice",
    "StreamedActivations",
    "TopK",
    "TrainedCoder",
    "WeightedTexts",
    "absorption",
    "cache_activations",
    "coder_folders",
    "describe_latents",
    "evaluate_coder",
    "evaluate_coders",
    "latent_direction",
    "load_coder",
    "nearest_latents",
    "promoted_tokens",
    "read_latents",
    "save_coder",
    "sparse_probing",
    "train_coders",
]
