"""A result as one HTML file that draws what the app draws, without a server and without a network.

The app's build leaves the page with one slot; what a model wrote goes there as data, which nothing in it can end.
"""

import json
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.results import Result
from bathyscope.web.assets import assets

KINDS = ("patchscope", "lens", "causal")
SLOT = 'id="result">null<'
ESCAPES = {one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"}


def page(result: Result) -> str:
    """The page of a patchscope, a lens or a causal result.

    Raises:
        UsageError: a result of another kind.
        StorageError: the app was not built.
    """
    if result.kind not in KINDS:
        raise UsageError(f"a result of kind {result.kind} was given", f"the app draws {', '.join(KINDS)}", "to_html()")
    data = json.dumps(drawn(result), ensure_ascii=False, allow_nan=False)
    data = "".join(ESCAPES.get(one, one) for one in data)
    return assets()["/export.html"].body.decode().replace(SLOT, SLOT.replace("null", data))


def drawn(result: Result) -> dict[str, Any]:
    """What the app is told of a result: all but its times, and the maps that are drawn of effects."""
    found = {name: value for name, value in result.to_dict().items() if name != "timing"}
    if maps := getattr(result, "maps", None):
        found["maps"] = [
            {"heading": one.heading, "columns": list(one.columns), "rows": [[*pair] for pair in one.rows.items()]}
            for one in maps()
        ]
    return found
