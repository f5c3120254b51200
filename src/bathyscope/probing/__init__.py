"""Probing: linear classifiers on representations, the trained baseline of everything that reads without training."""

from bathyscope.probing.by_layer import probe
from bathyscope.probing.classifier import Logistic, Majority, Predictor, Uniform, predictions
from bathyscope.probing.control_task import control_labels
from bathyscope.probing.folds import Folds
from bathyscope.probing.online_code import Codelength, codelength
from bathyscope.probing.reading import Example, bag_of_embeddings, random_model, representations
from bathyscope.probing.result import ProbingResult

__all__ = [
    "Codelength",
    "Example",
    "Folds",
    "Logistic",
    "Majority",
    "Predictor",
    "ProbingResult",
    "Uniform",
    "bag_of_embeddings",
    "codelength",
    "control_labels",
    "predictions",
    "probe",
    "random_model",
    "representations",
]
