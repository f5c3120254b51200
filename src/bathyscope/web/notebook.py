"""Notebooks: results drawn by the app's own renderer, as a widget (anywidget) or in a frame that can reach nothing.

Either holds all that it shows, so that a notebook that was saved shows it again, and asks no server.
"""

from functools import cache
from html import escape
from importlib import import_module
from typing import Any

from bathyscope.errors import StorageError, UsageError
from bathyscope.results import Result
from bathyscope.web.assets import assets
from bathyscope.web.page import KINDS, drawn, page

HEIGHT = 560
"""Pixels of a frame, in which one scrolls."""


class Framed:
    """A result as any notebook shows it: its page in a frame of its own, and a line of text elsewhere.

    Args:
        result: what is shown.

    Example:
        >>> import bathyscope
        >>> from bathyscope.web.notebook import Framed
        >>> found = bathyscope.lenses.logit_lens(bathyscope.load(), "The capital of France is", layer="29")
        >>> Framed(found)
        lens, 5 rows, SmolLM2-135M-Instruct
    """

    def __init__(self, result: Result) -> None:
        self.result = result

    def __repr__(self) -> str:
        models = " to ".join(dict.fromkeys(str(one["model"]) for one in self.result.provenance["models"]))
        return f"{self.result.kind}, {len(self.result.rows())} rows, {models}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        del include, exclude
        whole = page(self.result) if self.result.kind in KINDS else self.result.to_html()
        # Without "allow-same-origin" the frame is a stranger to the notebook: no cookie, no cell, no kernel.
        told = f'width="100%" height="{HEIGHT}" style="border: 0" title="{escape(repr(self))}"'
        frame = f'<iframe sandbox="allow-scripts" {told} srcdoc="{escape(whole)}"></iframe>'
        return {"text/html": frame, "text/plain": repr(self)}


def show(result: Result) -> Any:
    """What a notebook's cell ends with to show a result: a widget where there is anywidget, else a frame.

    Args:
        result: a patchscope, a lens or a causal result is drawn as the app draws it; others as their saved pages.

    Raises:
        StorageError: the app was not built.
    """
    if result.kind in KINDS:
        try:
            return widget(result)
        except UsageError:  # it is not installed, and a frame shows the same
            pass
    return Framed(result)


def widget(result: Result) -> Any:
    """A result as a widget: the app's grid, with each cell's details.

    Args:
        result: a patchscope, a lens or a causal result.

    Raises:
        UsageError: anywidget is not installed, or the result is of another kind.
        StorageError: the app was not built.
    """
    if result.kind not in KINDS:
        raise UsageError(f"a result of kind {result.kind} was given", f"a widget draws {', '.join(KINDS)}", "show()")
    return _widget_class()(result=drawn(result))


def load_ipython_extension(ipython: Any) -> None:
    """Show every result that a cell ends with as `show` does, after `%load_ext bathyscope.web.notebook`."""
    ipython.display_formatter.mimebundle_formatter.for_type(Result, _bundle)


def _bundle(result: Result, include: Any = None, exclude: Any = None) -> Any:
    return show(result)._repr_mimebundle_(include=include, exclude=exclude)


@cache
def _widget_class() -> type:
    try:
        anywidget: Any = import_module("anywidget")  # not imported by name: types are checked without the extra
        traitlets: Any = import_module("traitlets")
    except ImportError:
        needed = 'pip install "bathyscope[notebook]"'
        raise UsageError("a widget needs anywidget", "it is an extra", needed) from None
    found = assets().get("/widget.js")
    if found is None:
        raise StorageError("this installation's app is older than its widget", "it is built anew", "make ui")

    class Drawn(anywidget.AnyWidget):
        _esm = found.body.decode()
        result = traitlets.Dict().tag(sync=True)

    return Drawn
