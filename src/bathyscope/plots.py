"""Plots of studies: curves over layers with intervals, heat maps of pairs of layers, graphs, as PNG or SVG.

Knows results, not models. How a figure becomes a file is in `figures`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from bathyscope.errors import UsageError
from bathyscope.figures import figure_in
from bathyscope.pictures import Disc, Line, Picture, Words, dashes_of, plain
from bathyscope.sites import EMBEDDING_LAYER
from bathyscope.studies import (
    PROMPTS,
    CrossModelResult,
    MultihopResult,
    NextTokenResult,
)
from bathyscope.studies.curves import Drawable, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    with figure_in(path, (10, 4.6)) as figure:
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
    return Path(path)


def save_heat_maps(result: CrossModelResult, path: str | Path) -> Path:
    """Draw a study of two models: precision by the layer read and the layer written, and controls beside it.

    Args:
        result: of `studies.cross_model`.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, no precision in the result, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.plots import save_heat_maps
        >>> from bathyscope.studies import CrossModelResult
        >>> record = {"prompt": "same-text", "source_layer": 0, "target_layer": 5, "n": 2, "agreement": 0.5}
        >>> record |= {"precision_at_1": 0.5, "random": 0.0, "mean": 0.0, "unpatched": 0.5}
        >>> models = {"models": [{"model": "a"}, {"model": "b"}], "spec": {"seed": 0}}
        >>> save_heat_maps(CrossModelResult((record,), models), pathlib.Path(tempfile.mkdtemp()) / "study.svg").name
        'study.svg'
    """
    if not result.records:
        raise UsageError("a plot of a study without figures was wanted", "models of one vocabulary have them")
    with figure_in(path, (11, 3.7 * len(result.prompts) + 0.7)) as figure:
        figure.suptitle(_title_of_two(result), fontsize=11)
        panels = figure.subplots(len(result.prompts), len(WRITTEN), squeeze=False)
        image = None
        for row, prompt in zip(panels, result.prompts, strict=True):
            for axes, (field, name) in zip(row, WRITTEN.items(), strict=True):
                image = _heat_map(axes, result, prompt, field)
                axes.set_title(f"{name}\n{PROMPTS[prompt]}", fontsize=9)
        assert image is not None
        figure.colorbar(image, ax=panels, label=PANELS["precision_at_1"], shrink=0.8)
    return Path(path)


WRITTEN: Final = {"precision_at_1": "mapped", "mean": "the mean instead", "random": "a random vector instead"}
"""What the panels of a prompt show, by the field of a record."""


def _title_of_two(result: CrossModelResult) -> str:
    first, (source, target) = result.records[0], (model["model"] for model in result.provenance["models"])
    nothing = ", ".join(
        f"{next(iter(result.of(prompt).values()))['unpatched']:.3f} into {PROMPTS[prompt]}" for prompt in result.prompts
    )
    seed = result.provenance["spec"]["seed"]
    return (
        f"{source} to {target}, {first['n']:,} positions, seed {seed}; "
        f"untouched, they agree at {first['agreement']:.3f}\n"
        f"nothing written: {nothing}"
    )


def _heat_map(axes: "Axes", result: CrossModelResult, prompt: str, field: str) -> Any:
    records = result.of(prompt)
    sources, targets = (sorted({pair[side] for pair in records}) for side in (0, 1))
    rows = [
        [records[layer, other][field] if (layer, other) in records else float("nan") for other in targets]
        for layer in sources
    ]
    image = axes.imshow(rows, vmin=0, vmax=1, cmap="viridis", origin="lower", aspect="auto")
    if len(sources) * len(targets) <= MOST_NUMBERS:
        for row, values in enumerate(rows):
            for column, value in enumerate(values):
                shown = "" if value != value else f"{value:.2f}".removeprefix("0")
                colour = "black" if value > 0.6 else "white"
                axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=7)
    names = [["embed" if layer == EMBEDDING_LAYER else str(layer) for layer in layers] for layers in (targets, sources)]
    axes.set_xticks(range(len(targets)), names[0])
    axes.set_yticks(range(len(sources)), names[1])
    axes.set_xlabel("written after layer")
    axes.set_ylabel("read after layer")
    return image


MOST_NUMBERS: Final = 150
"""More figures in one panel could not be read."""


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


def save_curves(result: Drawable, path: str | Path) -> Path:
    """Draw a study that has curves over layers: a panel for each of its measures, controls thin and dashed.

    Args:
        result: of `studies.entity_resolution`, `studies.tokenization` or `studies.attribute_extraction`.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.plots import save_curves
        >>> from bathyscope.studies import EntityResolutionResult
        >>> record = {"layer": 0, "n": 4, "rouge_l": 0.5, "rouge_l_interval": [0.4, 0.6], "random": 0.1}
        >>> result = EntityResolutionResult((record,), {"models": [{"model": "tiny"}], "spec": {"seed": 0}})
        >>> save_curves(result, pathlib.Path(tempfile.mkdtemp()) / "study.svg").name
        'study.svg'
    """
    panels = [panel for panel in result.panels() if panel.curves]
    model, seed = result.provenance["models"][0]["model"], result.provenance["spec"]["seed"]
    with figure_in(path, (5.5 * len(panels), 5)) as figure:
        spread = ", 95% intervals" if any(curve.intervals for panel in panels for curve in panel.curves) else ""
        figure.suptitle(f"{result.heading}\n{model}, n = {result.records[0]['n']}, seed {seed}{spread}", fontsize=11)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _curves(axes, panel)
    return Path(path)


def save_counts(result: MultihopResult, path: str | Path) -> Path:
    """Draw a multi-hop study: for each configuration how many queries are right at each pair of layers.

    Args:
        result: of `studies.multihop`.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.plots import save_counts
        >>> from bathyscope.studies import MultihopResult
        >>> record = {"configuration": 1, "n": 4, "vanilla": 1, "patchscope_oracle": 2, "control_random_oracle": 0}
        >>> asked = {"models": [{"model": "tiny"}], "spec": {"seed": 0, "layers": [0], "target_layers": [0, 1]}}
        >>> result = MultihopResult((record,), asked, grids={"1": [[1, 2]]})
        >>> save_counts(result, pathlib.Path(tempfile.mkdtemp()) / "study.svg").name
        'study.svg'
    """
    n = result.records[0]["n"]
    model, seed = result.provenance["models"][0]["model"], result.provenance["spec"]["seed"]
    names = [
        ["embed" if layer == EMBEDDING_LAYER else str(layer) for layer in layers]
        for layers in (result.targets, result.sources)
    ]
    with figure_in(path, (5.5 * len(result.grids), 5.4)) as figure:
        figure.suptitle(
            f"{result.heading}\n{model}, n = {n}, seed {seed}; vanilla {result.records[0]['vanilla']}", fontsize=11
        )
        panels = figure.subplots(1, len(result.grids), squeeze=False)[0]
        for axes, record in zip(panels, result.records, strict=True):
            grid = result.grids[str(record["configuration"])]
            image = axes.imshow(grid, vmin=0, vmax=n, cmap="viridis", origin="lower", aspect="auto")
            axes.set_title(
                f"configuration {record['configuration']}: ORACLE {record['patchscope_oracle']}, "
                f"that of random vectors {record['control_random_oracle']}",
                fontsize=9,
            )
            axes.set_xticks(range(len(result.targets)), names[0], fontsize=7)
            axes.set_yticks(range(len(result.sources)), names[1], fontsize=7)
            axes.set_xlabel("written after layer")
            axes.set_ylabel("read after layer")
            figure.colorbar(image, ax=axes, label="queries right", shrink=0.8)
    return Path(path)


def save_graph(result: "Pictured | Picture", path: str | Path) -> Path:
    """Draw a graph: columns of nodes filled by activation, edges as wide as their effect.

    Args:
        result: of `studies.toy_agreement`, `studies.agreement` or `circuits.find_circuit`, or a picture itself.
        path: a file that ends in .png or .svg; what was there is replaced.

    Raises:
        UsageError: another ending, or matplotlib is not installed.
        StorageError: it cannot be written; what was there is intact.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.plots import save_graph
        >>> from bathyscope.studies import toy_agreement
        >>> save_graph(toy_agreement(by_hand=True), pathlib.Path(tempfile.mkdtemp()) / "toy.svg").name
        'toy.svg'
    """
    picture = result if isinstance(result, Picture) else result.picture
    with figure_in(path, (picture.width / PIXELS, picture.height / PIXELS)) as figure:
        figure.set_layout_engine("none")  # the picture has laid itself out
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
        for line in picture.lines:
            _line(axes, line)
        for disc in picture.discs:
            _disc(axes, disc)
        for words in picture.words:
            _words(axes, words)
    return Path(path)


class Pictured(Protocol):
    """A result that knows how it is drawn."""

    @property
    def picture(self) -> Picture:
        """The drawing."""
        ...


PIXELS: Final = 100
"""Of a picture, to an inch."""
POINTS: Final = 72 / PIXELS
"""In which matplotlib counts lines and letters, to a pixel."""


def _line(axes: "Axes", line: Line) -> None:
    dashes = (0, tuple(length / line.width for length in dashes_of(line))) if line.dashed else "solid"
    ends = zip(line.start, line.end, strict=True)
    axes.plot(*ends, color=line.colour, linewidth=line.width * POINTS, linestyle=dashes, dash_capstyle="butt", zorder=1)


def _disc(axes: "Axes", disc: Disc) -> None:
    from matplotlib.patches import Circle, Wedge

    for begins, ends, colour in ((90, 270, disc.left), (-90, 90, disc.right)):
        axes.add_patch(Wedge(disc.at, disc.radius, begins, ends, facecolor=colour, linewidth=0, zorder=2))
    rim = (0, (3, 2)) if disc.dashed else "solid"
    axes.add_patch(Circle(disc.at, disc.radius, fill=False, edgecolor=disc.rim, linestyle=rim, linewidth=1.2, zorder=3))


def _words(axes: "Axes", words: Words) -> None:
    from matplotlib.patches import Rectangle

    if words.boxed:
        left, top, right, bottom = words.box()
        box = Rectangle((left, top), right - left, bottom - top, facecolor="white", linewidth=0, zorder=4)
        axes.add_patch(box)
    axes.text(
        *words.at,
        plain(words.text),
        parse_math=False,  # a token may have dollars
        fontsize=words.size * POINTS,
        color=words.colour,
        weight="bold" if words.bold else "normal",
        ha="left" if words.start else "center",
        va="center_baseline",
        zorder=5,
    )


def _curves(axes: "Axes", panel: Panel) -> None:
    colours = iter(COLOURS * 2)
    for number, curve in enumerate(panel.curves):
        colour = next(colours)
        if curve.intervals:
            low, high = zip(*curve.intervals, strict=True)
            axes.fill_between(curve.layers, low, high, color=colour, alpha=0.08 if curve.control else 0.15, linewidth=0)
        axes.plot(
            curve.layers,
            curve.values,
            color=colour,
            linestyle=(0, (1 + number, 1.5)) if curve.control else "solid",
            linewidth=1.1 if curve.control else 1.8,
            marker="." if len(curve.layers) == 1 else "",
            label=curve.name,
        )
    axes.set_xlabel("layer")
    axes.set_ylabel(panel.title)
    axes.set_xticks(*_ticks(sorted({layer for curve in panel.curves for layer in curve.layers})))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, handlelength=3)


COLOURS: Final = ("#d55e00", "#000000", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of the set by Okabe and Ito."""
