"""Figures: what a plot is drawn in, and how it becomes a PNG or SVG file. Knows no result.

Drawn with matplotlib, which is an extra, and without its global state. The same drawing gives the same
bytes: an SVG has no date, and its names are not random.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bathyscope.errors import UsageError
from bathyscope.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS: Final = (".png", ".svg")
"""What a plot's name may end in."""


@contextmanager
def figure_in(path: str | Path, size: tuple[float, float]) -> "Iterator[Figure]":
    """A figure to draw in, which is written when that is done: whole, or not at all.

    Args:
        path: a file that ends in .png or .svg.
        size: width and height in inches.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UsageError(f"{str(path)!r} was given", "plots are drawn as .png or .svg", f"{path.stem}.svg")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("a plot needs matplotlib", "it is an extra", 'pip install "bathyscope[plots]"') from None
    written = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bathyscope", "font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        figure.savefig(written, format=path.suffix[1:], dpi=150, metadata=_metadata(path))
    write_atomically(path, written.getvalue())


def _metadata(path: Path) -> dict[str, Any]:
    # An SVG would say when it was drawn.
    return {"Creator": "bathyscope", "Date": None} if path.suffix == ".svg" else {"Software": "bathyscope"}
