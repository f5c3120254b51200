"""Plots of training: how a sparse coder learned, as PNG or SVG. Knows what was measured, no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bathyscope.figures import figure_in

if TYPE_CHECKING:
    from bathyscope.sae import Measured


def save_training(course: "Sequence[Measured]", title: str, path: str | Path) -> Path:
    """Draw how a sparse coder learned: the variance that it misses, its active latents, and its dead ones.

    Args:
        course: what was measured, in the order of time (`TrainedCoder.history`).
        title: what stands above.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.training_plots import save_training
        >>> from bathyscope.sae import Measured
        >>> course = [Measured(2048, 0.9, 0.9, 32.0, 0), Measured(4096, 0.5, 0.5, 32.0, 3)]
        >>> save_training(course, "resid_post.12", pathlib.Path(tempfile.mkdtemp()) / "training.svg").name
        'training.svg'
    """
    shown = {"fvu": "share of the variance missed", "l0": "active latents of a token", "dead": "dead latents"}
    with figure_in(path, (10, 3.2)) as figure:
        figure.suptitle(title, fontsize=11)
        for axes, (name, label) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            axes.plot([one.tokens / 1e6 for one in course], [getattr(one, name) for one in course], color="#0072b2")
            axes.set(xlabel="tokens seen, millions", title=label)
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
    return Path(path)
