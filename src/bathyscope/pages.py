"""Self-contained pages: HTML with its style inside, no network, every text escaped; most have no script.

Knows tables, not results. Whatever a model wrote is hostile text: it reaches a page through `escape`, and a page's
script through `embedded_json`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

STYLE = """
.bathyscope { font: 14px/1.45 system-ui, sans-serif; color: #1b2733; max-width: 100%; overflow-x: auto }
.bathyscope h2 { font-size: 18px; margin: 0 0 8px; color: #0b4f6c }
.bathyscope dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 12px; margin: 0 0 12px }
.bathyscope dt { color: #5b6b7a }
.bathyscope dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere }
.bathyscope table { border-collapse: collapse }
.bathyscope th, .bathyscope td { border: 1px solid #d5dde5; padding: 4px 8px; text-align: left; vertical-align: top }
.bathyscope thead th { background: #0b4f6c; color: #fff; position: sticky; top: 0; white-space: pre-wrap }
.bathyscope tbody th { background: #eef4f8; text-align: right; white-space: nowrap }
.bathyscope td { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12em; max-width: 32em }
.bathyscope .heat td { min-width: 4em; max-width: 9em; padding: 3px 6px; font-family: ui-monospace, monospace }
.bathyscope .heat td { background: rgb(8 81 156 / var(--heat)) }
.bathyscope .heat td.below { background: rgb(166 54 3 / var(--heat)) }
.bathyscope .heat td.hot { color: #fff }
.bathyscope .heat thead th { min-width: 4em; max-width: 9em; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  .bathyscope { color: #dce6ee; background: #10181f }
  .bathyscope h2 { color: #7cc6e6 }
  .bathyscope dt { color: #93a4b3 }
  .bathyscope th, .bathyscope td { border-color: #2b3a47 }
  .bathyscope tbody th { background: #18242e }
  .bathyscope .heat td { background: rgb(107 174 214 / var(--heat)) }
  .bathyscope .heat td.below { background: rgb(253 141 60 / var(--heat)) }
  .bathyscope .heat td.hot { color: #04121c }
}
"""


def document(title: str, *bodies: str) -> str:
    """A whole page around one body or several.

    Example:
        >>> from bathyscope.pages import document
        >>> document("a < b", "<p>body</p>").count("a &lt; b")
        1
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title></head><body>\n{'<hr>'.join(bodies)}\n</body></html>\n"
    )


def script_page(
    title: str, style: str, script: str, data: Any, *, images: bool = False, below: Sequence[str] = ()
) -> str:
    """A whole page that its own script draws from data inside it; no other script runs, and nothing is fetched.

    Args:
        title: of the page.
        style: CSS.
        script: a module that reads the JSON in the element `data`, and takes texts for text only.
        data: JSON values.
        images: whether images that the script itself made may be shown.
        below: bodies of pages that stand below what the script draws.

    Example:
        >>> from bathyscope.pages import script_page
        >>> script_page("a", "", "", ["</script>"]).count("</script>")
        2
    """
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    policy += "; img-src data:" if images else ""
    # Half a character is no text, and could not be written: as a number it is harmless.
    shown = escape(title).encode("ascii", "xmlcharrefreplace").decode()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{shown}</title><style>{style}</style></head><body>"
        "<noscript>This page needs its own script, which is inside it, to be run.</noscript>"
        f'{"<hr>".join(below)}<script type="application/json" id="data">{embedded_json(data)}</script>'
        f'<script type="module">{script}</script></body></html>\n'
    )


def embedded_json(data: Any) -> str:
    r"""JSON that can stand inside a script element, whatever text is in it.

    Example:
        >>> from bathyscope.pages import embedded_json
        >>> embedded_json("</script><!--")
        '"\\u003c/script>\\u003c!--"'
    """
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    # Surrogates without their other half are met in broken tokens; UTF-8 has none.
    return "".join(f"\\u{ord(one):04x}" if "\ud800" <= one <= "\udfff" else one for one in written)


def grid(
    heading: str,
    facts: Mapping[str, str],
    corner: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
) -> str:
    """A table under a heading and a list of facts.

    Args:
        heading: what the table shows.
        facts: what was asked, by name.
        corner: what the rows are.
        columns: their names.
        rows: for each row's name a text for every column.
    """
    cells = {name: [f"<td>{escape(text)}</td>" for text in texts] for name, texts in rows.items()}
    return _table(heading, facts, corner, columns, cells)


@dataclass(frozen=True)
class Heat:
    """One cell of a heat map.

    Args:
        text: what stands in it.
        heat: its colour, from 0 to 1, or from 0 to -1 in another hue; None for none.
        details: what a pointer that rests on it shows.
    """

    text: str
    heat: float | None
    details: str


def heat_map(
    heading: str,
    facts: Mapping[str, str],
    corner: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[Heat]],
) -> str:
    """A table whose cells are coloured, under a heading and a list of facts.

    Args:
        heading: what the table shows.
        facts: what was asked, by name.
        corner: what the rows are.
        columns: their names.
        rows: for each row's name a cell for every column.

    Example:
        >>> from bathyscope.pages import Heat, heat_map
        >>> "--heat: 0.50" in heat_map("h", {}, "layer", ["a"], {"0": [Heat("x < y", 0.5, "")]})
        True
    """
    cells = {name: [_heat_cell(one) for one in ones] for name, ones in rows.items()}
    return _table(heading, facts, corner, columns, cells, kind="heat")


def _heat_cell(cell: Heat) -> str:
    heat = 0.0 if cell.heat is None else min(1.0, abs(cell.heat))
    named = ["below"] if cell.heat is not None and cell.heat < 0 else []
    named += ["hot"] if heat > 0.55 else []  # white on a dark colour is read from here on
    classes = f' class="{" ".join(named)}"' if named else ""
    return f'<td{classes} style="--heat: {heat:.2f}" title="{escape(cell.details)}">{escape(cell.text)}</td>'


def _table(
    heading: str,
    facts: Mapping[str, str],
    corner: str,
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    kind: str = "grid",
) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>' for name, cells in rows.items())
    return (
        f'<div class="bathyscope"><style>{STYLE}</style><h2>{escape(heading)}</h2><dl>{listed}</dl>'
        f'<table class="{kind}"><thead><tr><th scope="col">{escape(corner)}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


Record = Mapping[str, Any]
"""One measurement: JSON values by name; an interval is a list [low, high]."""


def table_of(heading: str, facts: Mapping[str, str], records: Sequence[Record]) -> str:
    """Records as a table of a page, a row each, numbered."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    return grid(
        heading,
        facts,
        corner="",
        columns=columns,
        rows={str(number): [_text(record.get(name)) for name in columns] for number, record in enumerate(records, 1)},
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return " to ".join(map(_text, value))
    return str(value)
