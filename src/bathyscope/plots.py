"""Plots of studies: curves over layers with their intervals, as PNG or SVG. Knows results, not models.

Drawn with matplotlib, which is an extra, and without its global state. The same result gives the same
bytes: an SVG has no date, and its names are not random.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from bathyscope.errors import UsageError
from bathyscope.files import write_atomically
from bathyscope.sites import EMBEDDING_LAYER
from bathyscope.studies import NextTokenResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDINGS: Final = (".png", ".svg")
"""What a plot's name may end in."""


class Look(NamedTuple):
    """How a curve looks: told apart by colour, by dashes, and by both in print or by who sees few colours."""

    colour: str
    dashes: Any


LOOKS: Final = {
    "logit-lens": Look("#000000", "solid"),
    "tuned-lens": Look("#0072b2", (0, (6, 2))),
    "jacobian-lens": Look("#cc79a7", (0, (6, 2, 1, 2))),
    "token-identity": Look("#d55e00", "solid"),
    "bare-placeholder": Look("#009e73", (0, (1.5, 1.5))),
}
"""Each method in a colour of the set by Okabe and Ito, which is made for every kind of colour vision."""

PANELS: Final = {
    "precision_at_1": "precision at 1 (more is better)",
    "surprisal": "surprisal in nats (less is better)",
}


def save_plot(result: NextTokenResult, path: str | Path) -> Path:
    """Draw a study: one panel for precision and one for surprisal, a curve a method with its 95% interval.

    Args:
        result: of `studies.next_token`.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.plots import save_plot
        >>> from bathyscope.studies import NextTokenResult
        >>> record = {"layer": 0, "method": "logit-lens", "n": 2, "precision_at_1": 0.5, "surprisal": 1.0}
        >>> record |= {"precision_at_1_interval": [0.0, 1.0], "surprisal_interval": [0.5, 1.5]}
        >>> result = NextTokenResult((record,), {"models": [{"model": "tiny"}], "spec": {"seed": 0}})
        >>> save_plot(result, pathlib.Path(tempfile.mkdtemp()) / "study.svg").name
        'study.svg'
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
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        figure.suptitle(_title(result), fontsize=11)
        panels = figure.subplots(1, len(PANELS))
        for axes, measure in zip(panels, PANELS, strict=True):
            _panel(axes, result, measure)
        figure.legend(
            *panels[0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=len(LOOKS),
            frameon=False,
            handlelength=3,
        )
        figure.savefig(written, format=path.suffix[1:], dpi=150, metadata=_metadata(path))
    write_atomically(path, written.getvalue())
    return path


def _title(result: NextTokenResult) -> str:
    model, seed = result.provenance["models"][0]["model"], result.provenance["spec"]["seed"]
    return f"{result.heading}\n{model}, {result.records[0]['n']:,} positions, seed {seed}, 95% intervals"


def _panel(axes: "Axes", result: NextTokenResult, measure: str) -> None:
    for method in result.methods:
        records = result.of(method)
        layers = [record["layer"] for record in records]
        low, high = zip(*(record[f"{measure}_interval"] for record in records), strict=True)
        look = LOOKS[method]
        axes.fill_between(layers, low, high, color=look.colour, alpha=0.13, linewidth=0)
        axes.plot(
            layers,
            [record[measure] for record in records],
            color=look.colour,
            linestyle=look.dashes,
            linewidth=1.6,
            marker="." if len(layers) == 1 else "",
            label=method,
        )
    axes.set_xlabel("layer")
    axes.set_ylabel(PANELS[measure])
    axes.set_xticks(*_ticks(result.layers))
    axes.set_ylim(bottom=0, top=1.02 if measure == "precision_at_1" else None)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _ticks(layers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Some of the layers, the last among them, as far apart as leaves room for their names."""
    step = -(-len(layers) // 12)
    places = sorted(layers[::-step])
    if EMBEDDING_LAYER in layers and places[0] != EMBEDDING_LAYER:
        places = [EMBEDDING_LAYER, *(layer for layer in places if layer - EMBEDDING_LAYER >= step)]
    return places, ["embed" if layer == EMBEDDING_LAYER else str(layer) for layer in places]


def _metadata(path: Path) -> dict[str, Any]:
    # An SVG would say when it was drawn.
    return {"Creator": "bathyscope", "Date": None} if path.suffix == ".svg" else {"Software": "bathyscope"}
