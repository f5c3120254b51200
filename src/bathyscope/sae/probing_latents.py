"""Whether a label that a probe finds is in a few latents (sparse probing), or hidden among several (absorption).

Knows codes and labels, no model. Probes are those of `probing`: tested on items they have not met, standardised on
the items they were fitted on.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.probing import Folds, Logistic, Majority, Predictor, predictions
from bathyscope.probing.classifier import Floats
from bathyscope.sae.coder import SparseCoder

FOLDS: Final = 3

COSINE: Final = 0.25
"""A decoder direction this near to the label's is taken to carry it. Of random directions in 576 dimensions
the cosine is within 0.04 two times in three; but activations vary along few directions, along which decoder rows lie,
so that more are near any difference of means: `Absorption.control` says how many."""

SHUFFLES: Final = 10
"""Directions of shuffled labels that the control is a mean over, in each fold."""


@dataclass(frozen=True)
class SparseProbing:
    """How well few latents tell a label, on items that they were not chosen on.

    Args:
        n: items.
        by_k: for each k the accuracy of a probe on the k latents whose means differ most.
        random: for each k that on k latents drawn from those that are active at all, or on all of them: the control.
        dense: accuracy of a probe on the activations themselves.
        majority: accuracy of the commonest label.
    """

    n: int
    by_k: Mapping[int, float]
    random: Mapping[int, float]
    dense: float
    majority: float


@dataclass(frozen=True)
class Absorption:
    """How often the latent that stands for a label is silent where the label is there (arXiv 2409.14507).

    Args:
        n: items with the label that a dense probe finds, having been fitted on others.
        silent: share of them where the label's own latent is not active.
        absorbed: share of them where it is not, and another latent is whose decoder direction is near the label's.
        control: that last share for the directions of shuffled labels in place of the label's: what chance gives.
        latents: the label's own latent in each fold.
    """

    n: int
    silent: float
    absorbed: float
    control: float
    latents: tuple[int, ...]


class FewLatents:
    """A probe on k latents: those whose means differ most between classes, or, with a seed, any that are active.

    Args:
        k: how many.
        seed: draws them; None chooses them by difference of means.
    """

    def __init__(self, k: int, seed: int | None = None) -> None:
        self.k, self.seed = k, seed

    def fit(self, representations: Floats, labels: NDArray[numpy.intp]) -> Self:
        """Choose latents and fit a probe to them; both see these items alone."""
        if self.seed is None:
            self.chosen = by_difference(representations, labels)[: self.k]
        else:
            active = numpy.flatnonzero(representations.any(0))
            # A silent latent tells nothing whatever it is drawn for: fewer are drawn where fewer are active.
            drawn = numpy.random.default_rng(self.seed).permutation(active if len(active) else self.k)
            self.chosen = drawn[: self.k]
        self._probe = Logistic().fit(representations[:, self.chosen], labels)
        return self

    def probabilities(self, representations: Floats, n_classes: int) -> Floats:
        """Of each class for each item, (items, n_classes)."""
        return self._probe.probabilities(representations[:, self.chosen], n_classes)


def by_difference(latents: Floats, labels: NDArray[numpy.intp]) -> NDArray[numpy.intp]:
    """Latents by the largest difference between a class's mean and that of all other items, largest first."""
    found = numpy.zeros(latents.shape[1])
    for label in numpy.unique(labels):
        own = labels == label
        if not own.all():
            found = numpy.maximum(found, abs(latents[own].mean(0) - latents[~own].mean(0)))
    return numpy.argsort(-found, kind="stable")


def sparse_probing(
    coder: SparseCoder,
    activations: Tensor,
    labels: Sequence[str],
    *,
    k: Sequence[int] = (1, 2, 5),
    subjects: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> SparseProbing:
    """Probe for a label with a few latents, chosen by difference of means (arXiv 2305.01610).

    Items are parted into folds; latents are chosen and probes fitted on two thirds, and tested on the third.

    Args:
        coder: the coder.
        activations: at the coder's site, one an item, (items, d_in).
        labels: of each item.
        k: how many latents.
        subjects: what each item is about; no subject is both fitted and tested on. Every item its own unless said.
        seed: of the folds, and of the control's latents.

    Raises:
        UsageError: one label, other numbers of items and labels, a k below 1, or scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from bathyscope.sae import KeepTop, SparseCoder, sparse_probing
        >>> coder = SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.zeros(3), KeepTop(3))
        >>> x = torch.tensor([[5.0, 1.0, 1.0], [0.0, 1.0, 1.0]]).repeat(6, 1)
        >>> found = sparse_probing(coder, x, ["yes", "no"] * 6, k=[1])
        >>> found.by_k, found.dense, found.majority
        ({1: 1.0}, 1.0, 0.5)
    """
    kinds = len(set(labels))
    if len(activations) != len(labels) or kinds < 2:
        given = f"{len(activations)} items and {len(labels)} labels of {kinds} kinds were given"
        raise UsageError(given, "one label an item, and at least 2 kinds of them")
    if not k or min(k) < 1 or max(k) > coder.n_latents:
        raise UsageError(f"k={tuple(k)} was given", f"numbers of latents from 1 to {coder.n_latents}", "k=(1, 2, 5)")
    folds = Folds.by_subject(range(len(labels)) if subjects is None else subjects, labels, k=FOLDS, seed=seed)
    latents, raw = _latents(coder, activations), activations.double().cpu().numpy()

    def accuracy(read: Floats, predictor: Callable[[], Predictor]) -> float:
        found = predictions(read, labels, folds, predictor=predictor)
        return float((numpy.asarray(found) == numpy.asarray(labels)).mean())

    return SparseProbing(
        len(labels),
        {few: accuracy(latents, partial(FewLatents, few)) for few in k},
        {few: accuracy(latents, partial(FewLatents, few, seed)) for few in k},
        accuracy(raw, Logistic),
        accuracy(raw, Majority),
    )


def absorption(
    coder: SparseCoder,
    activations: Tensor,
    has_label: Sequence[bool],
    *,
    cosine: float = COSINE,
    subjects: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> Absorption:
    """Measure how often a label's own latent gives way to others that carry the label besides what they stand for.

    In each fold a dense probe, the latent with the largest difference of means, and the label's direction are found
    on the other folds. A simple form of the paper's measure: whether another latent carries the label is told by its
    direction alone. The label's direction is the difference of means, since that of a probe on standardised
    activations is made of the coordinates that vary least, and no decoder row is near it.

    Args:
        coder: an autoencoder.
        activations: at the coder's site, one an item, (items, d_in).
        has_label: of each item, such as whether a word begins with a letter.
        cosine: how near a decoder direction must be to the label's.
        subjects: what each item is about; no subject is both fitted and tested on. Every item its own unless said.
        seed: of the folds and of the control's shuffled labels.

    Raises:
        UsageError: a transcoder, one label only, or no item that a probe finds.
    """
    if coder.is_transcoder:
        raise UsageError("absorption of a transcoder was asked for", "its latents do not write where they are read")
    labels = ["yes" if one else "no" for one in has_label]
    if len(activations) != len(labels) or len(set(labels)) < 2:
        raise UsageError(f"{len(activations)} items and {len(labels)} labels were given", "items with and without it")
    folds = Folds.by_subject(range(len(labels)) if subjects is None else subjects, labels, k=FOLDS, seed=seed)
    latents, raw = _latents(coder, activations), activations.double().cpu().numpy()
    numbers = numpy.array([one == "yes" for one in labels], numpy.intp)
    decoder = coder.decoder.double().cpu().numpy()
    generator = numpy.random.default_rng(seed)
    n, chosen = 0, []
    counted: dict[str, int] = {"silent": 0, "absorbed": 0, "control": 0}
    for fold in range(folds.k):
        fitted = folds.of_item != fold
        probe = Logistic().fit(raw[fitted], numbers[fitted])
        own = _most_telling(latents[fitted], numbers[fitted])
        right = probe.probabilities(raw, 2).argmax(1) == 1
        tested = latents[~fitted & (numbers == 1) & right]
        silent = tested[:, own] == 0
        n, chosen = n + len(tested), [*chosen, own]
        counted["silent"] += int(silent.sum())
        shuffled = [_shuffled(numbers[fitted], generator) for _ in range(SHUFFLES)]
        for name, some in (("absorbed", [numbers[fitted]]), ("control", shuffled)):
            for one in some:
                near = _cosines(decoder, raw[fitted][one == 1].mean(0) - raw[fitted][one == 0].mean(0)) >= cosine
                near[own] = False
                counted[name] += int((silent & (tested[:, near] > 0).any(1)).sum())
    if not n:
        raise UsageError(
            "no item with the label was found by a probe that was fitted on others", "a label that is there"
        )
    silenced, absorbed = counted["silent"] / n, counted["absorbed"] / n
    return Absorption(n, silenced, absorbed, counted["control"] / (n * SHUFFLES), tuple(chosen))


def _latents(coder: SparseCoder, activations: Tensor) -> Floats:
    with torch.no_grad():
        return coder.encode(activations).dense().double().cpu().numpy()


def _shuffled(numbers: NDArray[numpy.intp], generator: numpy.random.Generator) -> NDArray[numpy.intp]:
    """Other labels, which say nothing of these: half of the items of either kind have the one, half the other.

    Shuffled at will, those of the one kind would be more on one side, and their direction in part the label's.
    """
    found = numpy.zeros_like(numbers)
    for kind in (0, 1):
        own = generator.permutation(numpy.flatnonzero(numbers == kind))
        found[own[: (len(own) + kind) // 2]] = 1
    return found


def _most_telling(latents: Floats, numbers: NDArray[numpy.intp]) -> int:
    """The latent that is more active where the label is, by the largest difference of means."""
    return int((latents[numbers == 1].mean(0) - latents[numbers == 0].mean(0)).argmax())


def _cosines(rows: Floats, direction: Floats) -> Floats:
    lengths = numpy.linalg.norm(rows, axis=1) * numpy.linalg.norm(direction)
    return rows @ direction / numpy.maximum(lengths, numpy.finfo(float).tiny)
