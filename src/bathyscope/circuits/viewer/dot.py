"""A graph as text that Graphviz draws."""

from collections.abc import Iterator

from bathyscope.circuits.viewer.view import Drawn, View
from bathyscope.pictures import DOWN, QUIET, UP, plain, signed

SHAPES = {"feature": "ellipse", "error": "ellipse", "token": "box", "output": "box"}
WIDEST, NARROWEST = 6.0, 0.5


def to_dot(view: View) -> str:
    r"""The graph in Graphviz's language: layers upward, width by weight, what is negative dashed.

    Example:
        >>> from bathyscope.circuits.viewer.dot import quoted
        >>> print(quoted('a "b"\\'))
        "a \"b\"\\"
    """
    return "\n".join(_lines(view)) + "\n"


def quoted(text: str) -> str:
    r"""A text that Graphviz shows as it stands: a backslash would begin one of its own escapes, such as \N."""
    escaped = plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _lines(view: View) -> Iterator[str]:
    yield f"digraph {quoted(view.name)} {{"
    yield f"  label={quoted(view.captions[0])}; labelloc=t; rankdir=BT; newrank=true;"
    yield '  node [fontname="sans-serif", fontsize=11]; edge [fontname="sans-serif", fontsize=9];'
    below = None
    for row in range(len(view.rows)):
        members = [number for number, one in enumerate(view.nodes) if one.row == row]
        if not members:
            continue
        yield "  { rank=same;"
        for number in members:
            yield f"    n{number} [{_node(view.nodes[number], view)}];"
        yield "  }"
        if below is not None:  # rows keep their order where no edge says it
            yield f"  n{below} -> n{members[0]} [style=invis];"
        below = members[0]
    largest = max((abs(weight) for _, _, weight in view.edges), default=1.0) or 1.0
    for source, target, weight in view.edges:
        width = max(NARROWEST, WIDEST * abs(weight) / largest)
        style = "" if weight >= 0 else ", style=dashed"
        colour = UP if weight >= 0 else DOWN
        yield f'  n{source} -> n{target} [penwidth={width:.2f}, color="{colour}"{style}, tooltip="{weight:+.4g}"];'
    yield "}"


def _node(one: Drawn, view: View) -> str:
    value = "" if one.value is None else f"  {signed(one.value)}"
    texts = [f"{one.name}{value}", one.label]
    if one.kind in ("feature", "error"):
        texts = [f"{view.rows[one.row]} / {texts[0]}", one.label, view.columns[one.column]]
    # Lines are parted by Graphviz's own escape, which no quoting may touch.
    label = "\\n".join(quoted(text)[1:-1] for text in texts if text)
    colour = QUIET if one.value is None else UP if one.value >= 0 else DOWN
    style = ", style=dashed" if one.kind == "error" else ""
    return f'label="{label}", id={quoted(one.key)}, shape={SHAPES[one.kind]}, color="{colour}"{style}'
