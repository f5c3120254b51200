"""Which part of a text a study measures on: the last documents, none of which a fitted lens has seen."""

from collections.abc import Sequence
from typing import Any, Final

from bathyscope.errors import UsageError
from bathyscope.mappings import Affine
from bathyscope.texts import Texts, split_texts

HELD_OUT: Final = 0.3
"""Share of the documents that is measured on unless said, so that the windows come from many of them."""


def parted(texts: Texts, held_out: float | None, lenses: Sequence[Affine]) -> tuple[Texts | None, Texts]:
    """Part documents in those that lenses may be fitted on and those that are measured on.

    Args:
        texts: the documents.
        held_out: share that is measured on, 1 for all; None for `HELD_OUT`, or less where that is all that the
            lenses have left.
        lenses: those that are there already.

    Returns:
        To fit on, None where all is measured on; and to measure on.

    Raises:
        UsageError: a lens has seen what would be measured on, or one side would be empty.

    Example:
        >>> from bathyscope.studies.unseen import parted
        >>> from bathyscope.texts import given_texts
        >>> fit, measured = parted(given_texts(["One.", "Two.", "Three.", "Four."]), None, [])
        >>> list(fit.documents()), list(measured.documents())
        (['One.', 'Two.', 'Three.'], ['Four.'])
    """
    count = sum(1 for _ in texts.documents())
    seen = {lens.fit.method: _seen(lens, texts.describe(), count) for lens in lenses}
    most = max(seen.values(), default=0)
    if most == count and count:
        raise _seen_all(max(seen, key=lambda method: seen[method]), texts.describe())
    if held_out is None:
        held_out = min(HELD_OUT, (count - most) / count)
    first = 0 if held_out == 1 else count - max(1, round(held_out * count))
    for method, stop in seen.items():
        if first < stop:
            share = int(100 * (count - stop) / count) / 100
            raise UsageError(
                f"the {method} was fitted on documents 0 to {stop - 1} of this text, and documents {first} to "
                f"{count - 1} were to be measured on",
                "a lens is measured on text that it has not seen",
                f"--held-out {share or (count - stop) / count:.4g}, or other text",
            )
    return (None, texts) if held_out == 1 else split_texts(texts, held_out=held_out)


def _seen(lens: Affine, text: dict[str, Any], count: int) -> int:
    """How many of the first documents of a text a lens may have seen."""
    fitted_on, options = lens.fit.text, lens.fit.options
    if fitted_on.get("sha256") != text["sha256"]:
        return 0
    if fitted_on.get("seed") != text.get("seed"):
        return count  # in another order the first documents are others
    if "split" in fitted_on:
        return int(fitted_on["split"]["stop"])
    return count - max(1, round(options["held_out"] * count)) if "held_out" in options else count


def _seen_all(method: str, text: dict[str, Any]) -> UsageError:
    return UsageError(
        f"the {method} was fitted on this very text, {text['name']}",
        "a lens is measured on text that it has not seen",
        "other text, or none of its files: a lens is then fitted on one part and measured on the other",
    )
