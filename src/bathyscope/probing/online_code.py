"""Minimum description length: how many bits the labels cost who has the representations (arXiv 2003.12298).

The online code: labels are sent a block at a time, each with the probabilities of a probe that was fitted on the
blocks before it; the first costs log2 K bits a label. A probe that needs much data to be right sends a long code.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy
from numpy.typing import ArrayLike

from bathyscope.errors import UsageError
from bathyscope.probing.classifier import Classes, Floats, Logistic, Predictor

FRACTIONS: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where blocks end, as shares of the subjects."""


@dataclass(frozen=True)
class Codelength:
    """What the labels cost.

    Args:
        bits: of the online code.
        uniform_bits: of a code without a probe, n log2 K.
        n: labels.
        n_classes: K.
        blocks: how many labels each block has, the first sent without a probe.
    """

    bits: float
    uniform_bits: float
    n: int
    n_classes: int
    blocks: tuple[int, ...]

    @property
    def compression(self) -> float:
        """How many times shorter than the uniform code; 1 where there is nothing to learn."""
        return self.uniform_bits / self.bits


def codelength(
    representations: ArrayLike,
    labels: Sequence[str],
    subjects: Sequence[Hashable],
    *,
    predictor: Callable[[], Predictor] = Logistic,
    seed: int = 0,
) -> Codelength:
    """The online code of labels, in bits.

    Blocks hold whole subjects, in an order that the seed decides, so that no label is sent with the help of its own
    subject. A probe gives nothing to a class that it has not met, which would cost infinitely many bits; so its
    probabilities after n labels are mixed with 1 part in n + 1 of the uniform ones.

    Args:
        representations: (items, width).
        labels: of each item.
        subjects: of each item.
        predictor: makes the probe of each block.
        seed: decides the order.

    Raises:
        UsageError: fewer than two classes, not one representation an item, or scikit-learn is not installed.

    Example:
        >>> from bathyscope.probing import codelength
        >>> labels = ["low", "high"] * 50
        >>> found = codelength([[float(label == "high")] for label in labels], labels, range(100))
        >>> found.uniform_bits, found.compression > 3
        (100.0, True)
    """
    read = numpy.asarray(representations, numpy.float64)
    classes = Classes.of(labels)
    n_classes = len(classes.names)
    if n_classes < 2:
        raise UsageError(f"labels of {n_classes} class were given", "a code is of at least 2")
    if read.ndim != 2 or not len(read) == len(labels) == len(subjects):
        raise UsageError(f"representations of shape {read.shape} for {len(labels)} items", "(items, width)")
    order, ends = _blocks(subjects, seed)
    read, numbers = read[order], classes.numbers[order]
    bits = float(ends[0] * numpy.log2(n_classes))
    for start, stop in pairwise(ends):
        probe = predictor()
        probe.fit(read[:start], numbers[:start])
        mixed = _mixed(probe.probabilities(read[start:stop], n_classes), start)
        bits -= float(numpy.log2(mixed[numpy.arange(stop - start), numbers[start:stop]]).sum())
    sizes = numpy.diff([0, *ends])
    return Codelength(
        bits, float(len(labels) * numpy.log2(n_classes)), len(labels), n_classes, tuple(int(size) for size in sizes)
    )


def _mixed(probabilities: Floats, n: int) -> Floats:
    return (n * probabilities + 1 / probabilities.shape[1]) / (n + 1)


def _blocks(subjects: Sequence[Hashable], seed: int) -> tuple[list[int], list[int]]:
    """The items in the order that they are sent, and after how many of them each block ends."""
    distinct = list(dict.fromkeys(subjects))
    drawn = [distinct[index] for index in numpy.random.default_rng(seed).permutation(len(distinct))]
    items: dict[Hashable, list[int]] = {}
    for index, subject in enumerate(subjects):
        items.setdefault(subject, []).append(index)
    sent = numpy.cumsum([len(items[subject]) for subject in drawn])
    stops = sorted({max(1, round(share * len(drawn))) for share in FRACTIONS})
    return [index for subject in drawn for index in items[subject]], [int(sent[stop - 1]) for stop in stops]
