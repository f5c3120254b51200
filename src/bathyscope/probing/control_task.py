"""The control task: a label for each subject that means nothing (Hewitt and Liang, arXiv 1909.03368).

What a probe learns of it, it has learnt by heart; its accuracy above that is called selectivity.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

from bathyscope.errors import UsageError


def control_labels(subjects: Sequence[str], labels: Sequence[str], *, seed: int = 0) -> list[str]:
    """A label for each item that depends on its subject and the seed alone, as common as the real ones.

    Args:
        subjects: of each item.
        labels: the real ones, whose frequencies the control's are drawn from.
        seed: another seed, other labels.

    Raises:
        UsageError: no items, or not a label for each.

    Example:
        >>> from bathyscope.probing import control_labels
        >>> found = control_labels(["a", "b", "a", "c"], ["red", "blue", "red", "blue"])
        >>> found[0] == found[2], set(found) <= {"red", "blue"}
        (True, True)
    """
    if len(subjects) != len(labels) or not labels:
        raise UsageError(f"{len(subjects)} subjects and {len(labels)} labels were given", "one label a subject")
    counts = sorted(Counter(labels).items())
    return [_drawn(subject, counts, len(labels), seed) for subject in subjects]


def _drawn(subject: str, counts: Sequence[tuple[str, int]], total: int, seed: int) -> str:
    # A hash and not a generator: the label is the same in whatever order, and among whichever subjects, it is asked.
    digest = hashlib.sha256(f"{seed}|{subject}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") * total // 2**64
    for label, count in counts:
        place -= count
        if place < 0:
            return label
    raise AssertionError("counts add up to the total")
