"""Folds by subject: no subject is in two of them, and the subjects of one class are in different ones.

A probe that has met a subject in training can know its label by heart. Knows labels, no representations.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy
from numpy.typing import NDArray

from bathyscope.errors import UsageError


@dataclass(frozen=True, eq=False)
class Folds:
    """Which fold each item is tested in.

    Args:
        of_item: for each item the number of its fold, from 0, (items,).
        learnable: for each item whether another subject has its label, (items,): a probe tested on subjects that
            it has not met cannot know a label that it has not met either.
    """

    of_item: NDArray[numpy.intp]
    learnable: NDArray[numpy.bool_]

    @classmethod
    def by_subject(cls, subjects: Sequence[Hashable], labels: Sequence[str], *, k: int = 3, seed: int = 0) -> Self:
        """Deal the subjects of each label out to the folds, in an order that the seed decides.

        Args:
            subjects: of each item.
            labels: of each item.
            k: how many folds.
            seed: decides which subject comes into which fold.

        Raises:
            UsageError: fewer than two folds, or fewer subjects than folds.

        Example:
            >>> from bathyscope.probing import Folds
            >>> folds = Folds.by_subject(["a", "a", "b", "c"], ["red", "red", "red", "blue"], k=2)
            >>> bool(folds.of_item[0] == folds.of_item[1] != folds.of_item[2]), folds.learnable.tolist()
            (True, [True, True, True, False])
        """
        label_of = {}
        for subject, label in zip(subjects, labels, strict=True):
            label_of.setdefault(subject, label)
        if k < 2 or len(label_of) < k:
            raise UsageError(
                f"{k} folds of {len(label_of)} subjects were asked for",
                "at least 2 folds, and a subject for each",
                "more subjects, or fewer folds",
            )
        order = [list(label_of)[index] for index in numpy.random.default_rng(seed).permutation(len(label_of))]
        # Neighbours get different folds, so that two subjects of a label never share one.
        order.sort(key=lambda subject: label_of[subject])
        fold_of = {subject: place % k for place, subject in enumerate(order)}
        sharing: dict[str, set[Hashable]] = {}
        for subject, label in zip(subjects, labels, strict=True):
            sharing.setdefault(label, set()).add(subject)
        return cls(
            numpy.array([fold_of[subject] for subject in subjects], numpy.intp),
            numpy.array([len(sharing[label]) > 1 for label in labels], numpy.bool_),
        )

    @property
    def k(self) -> int:
        """How many folds there are."""
        return int(self.of_item.max()) + 1
