"""Sparse coders: autoencoders and transcoders that take representations apart; trained, measured, run, read."""

from bathyscope.sae.code import Code, KeepAbove, KeepTop, Selection
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.evaluate import evaluate_coder, evaluate_coders
from bathyscope.sae.evaluation import CoderEvaluation, CoderEvaluations
from bathyscope.sae.losses import Loss
from bathyscope.sae.probing_latents import Absorption, SparseProbing, absorption, sparse_probing
from bathyscope.sae.reconstruction import Reconstruction
from bathyscope.sae.splice import Edit, Splice

__all__ = [
    "Absorption",
    "Code",
    "CoderEvaluation",
    "CoderEvaluations",
    "Edit",
    "KeepAbove",
    "KeepTop",
    "Loss",
    "Reconstruction",
    "Selection",
    "SparseCoder",
    "SparseProbing",
    "Splice",
    "absorption",
    "evaluate_coder",
    "evaluate_coders",
    "sparse_probing",
]
