"""The probe: logistic regression on standardised representations, and its accuracy on subjects it has not met.

scikit-learn is an extra, and is imported when a probe is first fitted. Standardisation belongs to the probe: mean and
spread are those of what it is fitted on, and of nothing that it is tested on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy
from numpy.typing import ArrayLike, NDArray

from bathyscope.errors import UsageError
from bathyscope.probing.folds import Folds

Floats = NDArray[numpy.float64]

ITERATIONS = 1000
"""Steps of the solver, which none of the fits here has needed."""


class Predictor(Protocol):
    """What is fitted to representations and labels and gives probabilities."""

    def fit(self, representations: Floats, labels: NDArray[numpy.intp]) -> Any:
        """Fit to items, (items, width) and (items,)."""

    def probabilities(self, representations: Floats, n_classes: int) -> Floats:
        """Of each class for each item, (items, n_classes)."""
        ...


@dataclass(eq=False)
class Logistic:
    """Multinomial logistic regression with an L2 penalty, on standardised representations.

    Where all items that it is fitted on have one label, it gives that label.

    Args:
        penalty: of the squared weights; 1 / C of scikit-learn.

    Example:
        >>> import numpy
        >>> from bathyscope.probing import Logistic
        >>> probe = Logistic().fit(numpy.array([[0.0], [0.1], [1.0], [1.1]]), numpy.array([0, 0, 1, 1]))
        >>> probe.probabilities(numpy.array([[-1.0], [2.0]]), 2).argmax(1).tolist()
        [0, 1]
    """

    penalty: float = 1.0

    def fit(self, representations: Floats, labels: NDArray[numpy.intp]) -> Self:
        """Fit to items.

        Raises:
            UsageError: scikit-learn is not installed.
        """
        sklearn = _sklearn()
        self._scaler = sklearn.StandardScaler().fit(representations)
        self._seen = numpy.unique(labels)
        self._model = None
        if len(self._seen) > 1:
            self._model = sklearn.LogisticRegression(C=1 / self.penalty, max_iter=ITERATIONS)
            self._model.fit(self._scaler.transform(representations), labels)
        return self

    def probabilities(self, representations: Floats, n_classes: int) -> Floats:
        """Of each class for each item; 0 for classes that it was not fitted on."""
        found = numpy.zeros((len(representations), n_classes))
        if self._model is None:
            found[:, self._seen[0]] = 1.0
        else:
            found[:, self._seen] = self._model.predict_proba(self._scaler.transform(representations))
        return found


class Uniform:
    """Every class alike, whatever it is fitted on: the code that costs n log2 K bits."""

    def fit(self, representations: Floats, labels: NDArray[numpy.intp]) -> Self:
        """Nothing."""
        del representations, labels
        return self

    def probabilities(self, representations: Floats, n_classes: int) -> Floats:
        """1 / n_classes each."""
        return numpy.full((len(representations), n_classes), 1 / n_classes)


class Majority:
    """The commonest label of what it is fitted on, whatever is asked: what a probe has to beat."""

    def fit(self, representations: Floats, labels: NDArray[numpy.intp]) -> Self:
        """Count labels; of equally common ones the first by number."""
        del representations
        self._best = int(numpy.bincount(labels).argmax())
        return self

    def probabilities(self, representations: Floats, n_classes: int) -> Floats:
        """1 for that label."""
        found = numpy.zeros((len(representations), n_classes))
        found[:, self._best] = 1.0
        return found


@dataclass(frozen=True, eq=False)
class Classes:
    """Labels as numbers.

    Args:
        names: the distinct labels, sorted.
        numbers: of each item, (items,).
    """

    names: tuple[str, ...]
    numbers: NDArray[numpy.intp]

    @classmethod
    def of(cls, labels: Sequence[str]) -> Self:
        """Number the labels."""
        names = sorted(set(labels))
        index = {name: number for number, name in enumerate(names)}
        return cls(tuple(names), numpy.array([index[label] for label in labels], numpy.intp))


def predictions(
    representations: ArrayLike,
    labels: Sequence[str],
    folds: Folds,
    *,
    predictor: Callable[[], Predictor] = Logistic,
) -> list[str]:
    """The label that a probe gives each item, fitted on the other folds.

    Args:
        representations: (items, width).
        labels: of each item.
        folds: of the items.
        predictor: makes the probe of each fold.

    Raises:
        UsageError: not one representation an item, or scikit-learn is not installed.

    Example:
        >>> from bathyscope.probing import Folds, predictions
        >>> labels, subjects = ["low", "low", "high", "high"], ["a", "b", "c", "d"]
        >>> predictions([[0.0], [0.1], [1.0], [1.1]], labels, Folds.by_subject(subjects, labels, k=2))
        ['low', 'low', 'high', 'high']
    """
    read = numpy.asarray(representations, numpy.float64)
    classes = Classes.of(labels)
    if read.ndim != 2 or len(read) != len(labels):
        raise UsageError(f"representations of shape {read.shape} for {len(labels)} items", "(items, width)")
    found = numpy.zeros(len(labels), numpy.intp)
    for fold in range(folds.k):
        tested = folds.of_item == fold
        probe = predictor()
        probe.fit(read[~tested], classes.numbers[~tested])
        found[tested] = probe.probabilities(read[tested], len(classes.names)).argmax(1)
    return [classes.names[number] for number in found]


@dataclass(frozen=True)
class _Sklearn:
    StandardScaler: Any
    LogisticRegression: Any


def check_installed() -> None:
    """Refuse to begin what needs a probe at its end.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    _sklearn()


def _sklearn() -> _Sklearn:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise UsageError("a probe needs scikit-learn", "it is an extra", 'pip install "bathyscope[studies]"') from None
    return _Sklearn(StandardScaler, LogisticRegression)
