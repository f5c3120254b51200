"""Probing a model layer by layer, with everything that a probe's accuracy must be read beside."""

from collections.abc import Sequence
from typing import Any, Final

import numpy
from numpy.typing import NDArray

from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.probing.classifier import Floats, Majority, predictions
from bathyscope.probing.control_task import control_labels
from bathyscope.probing.folds import Folds
from bathyscope.probing.online_code import codelength
from bathyscope.probing.reading import Example, bag_of_embeddings, random_model, representations
from bathyscope.probing.result import ProbingResult
from bathyscope.results import provenance
from bathyscope.sites import EMBEDDING_LAYER, parse_layers

NOTES: Final = (
    "layer: the residual stream after that block, at the subject's last token; -1 is the embedding",
    "folds are by subject: a probe is tested on subjects that it has not met; standardised on the training folds only",
    "learnable: items whose label another subject has; of the others a probe by subject can know nothing",
    "control task: a random label for each subject (arXiv 1909.03368); on subjects that are new it is at chance, "
    "unless something leaks; selectivity is accuracy less that",
    "bits: of the online code, subjects in random order (arXiv 2003.12298); compression is n log2 K over it",
)


def probe(
    model: Model,
    examples: Sequence[Example],
    *,
    layers: int | str = "all",
    k: int = 3,
    seed: int = 0,
    random_init: bool = True,
) -> ProbingResult:
    """Train a linear probe at each layer, and measure what its accuracy is worth.

    Args:
        model: the model.
        examples: texts, their subjects, and the labels to be told.
        layers: after which layers; -1 is the embedding.
        k: folds, by subject.
        seed: of folds, control labels, the code's order and random weights.
        random_init: whether the same is measured on a model of random weights.

    Returns:
        A record a layer, and baselines: the majority label, the subject's embedding (layer -1), a bag of embeddings.

    Raises:
        UsageError: fewer than two labels, too few subjects for the folds, or scikit-learn is not installed.
        PositionError: a subject is not in its text.

    Example:
        >>> import bathyscope
        >>> from bathyscope.probing import Example, probe
        >>> things = {"apple": "food", "bread": "food", "hammer": "tool", "drill": "tool"}
        >>> examples = [Example(f"There is the {thing}", thing, label) for thing, label in things.items()]
        >>> found = probe(bathyscope.load(), examples, layers="0,3", k=2, random_init=False)
        >>> [row["n"] for row in found.rows()]
        [4, 4]
    """
    labels, subjects = [one.label for one in examples], [one.subject for one in examples]
    if len(set(labels)) < 2:
        raise UsageError(f"{len(examples)} examples of {len(set(labels))} label were given", "at least 2 labels")
    chosen = parse_layers(layers, model.n_layers)
    folds = Folds.by_subject(subjects, labels, k=k, seed=seed)
    read = representations(model, examples, [*chosen, EMBEDDING_LAYER])
    untrained = representations(random_model(model, seed=seed), examples, chosen) if random_init else {}
    control = control_labels(subjects, labels, seed=seed)
    records = []
    for layer in chosen:
        right = _right(read[layer], labels, folds)
        guessed = float(_right(read[layer], control, folds).mean())
        code = codelength(read[layer], labels, subjects, seed=seed)
        record: dict[str, Any] = {"layer": layer, "n": len(examples), "accuracy": float(right.mean())}
        record |= learnable(right, folds)
        record |= {"control_accuracy": guessed, "selectivity": float(right.mean()) - guessed}
        record |= {"bits": code.bits, "compression": code.compression}
        if random_init:
            record["random_init"] = float(_right(untrained[layer], labels, folds).mean())
        records.append(record)
    return ProbingResult(
        tuple(records),
        tuple(_baselines(model, examples, read[EMBEDDING_LAYER], folds)),
        provenance([model.provenance()], {"layers": list(chosen), "k": k, "seed": seed, "n": len(examples)}),
        NOTES,
    )


def learnable(right: NDArray[numpy.bool_], folds: Folds) -> dict[str, Any]:
    """How many items another subject's label is that of, and the accuracy on these; None where there are none."""
    n = int(folds.learnable.sum())
    return {"n_learnable": n, "accuracy_learnable": float(right[folds.learnable].mean()) if n else None}


def _baselines(model: Model, examples: Sequence[Example], embedded: Floats, folds: Folds) -> list[dict[str, Any]]:
    labels = [one.label for one in examples]
    majority = numpy.asarray(predictions(embedded, labels, folds, predictor=Majority)) == numpy.asarray(labels)
    found = {
        "majority label": majority,
        "the subject's embedding": _right(embedded, labels, folds),
        "bag of the text's embeddings": _right(bag_of_embeddings(model, examples), labels, folds),
    }
    return [{"baseline": name, "accuracy": float(right.mean())} for name, right in found.items()]


def _right(read: Floats, labels: Sequence[str], folds: Folds) -> NDArray[numpy.bool_]:
    return numpy.asarray(predictions(read, labels, folds)) == numpy.asarray(labels)
