"""The page of a graph: one HTML file to explore it in. No network.

Its scripts and its style stand beside this file; the web app draws with the same ones, but for `alone.js`. Tokens and
labels are hostile: they are in JSON in which no `<` is left, and reach the page as text only.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from bathyscope.circuits.viewer.view import View
from bathyscope.pages import script_page


def viewer_page(view: View, below: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        view: what it shows.
        below: bodies of pages that stand below it, such as tables.
    """
    here = files("bathyscope.circuits.viewer")
    viewer, alone, style = (here.joinpath(name).read_text("utf-8") for name in ("viewer.js", "alone.js", "viewer.css"))
    title = f"bathyscope: {view.captions[0]}"
    return script_page(title, style, viewer + alone, page_data(view), images=True, below=below)


def page_data(view: View) -> dict[str, Any]:
    """What is drawn, as JSON values."""
    layout = view.layout
    nodes = [
        {**vars(one), "halves": dict(one.halves), "x": round(x, 1), "y": round(y, 1)}
        for one, (x, y) in zip(view.nodes, layout.nodes, strict=True)
    ]
    return {
        **vars(view),
        "nodes": nodes,
        "columnX": [round(x, 1) for x in layout.columns],
        "rowY": [round(y, 1) for y in layout.rows],
        "width": layout.width,
        "height": layout.height,
    }
