"""The page of a coder: one HTML file with every latent in it, to search, sort and link to. No network.

Its scripts and its style stand beside this file; the web app draws with the same ones, but for `alone.js`. Data are
columns of small integers in base64, and each token's text is there once: what 24,000 latents are shown by takes some
20 MB, and is unpacked only where it is looked at. Token texts are hostile: they are in JSON in which no `<` is left,
and reach the page as text only.
"""

import base64
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from bathyscope.pages import script_page
from bathyscope.sae.reading.activity import edge
from bathyscope.sae.reading.columns import Columns
from bathyscope.sae.reading.examples import Examples
from bathyscope.sae.reading.latent import Description, is_label
from bathyscope.sae.reading.rules import MeasuredRule

TYPES = ((2**8, torch.uint8, "u1"), (2**16, torch.uint16, "u2"), (2**32, torch.uint32, "u4"))


def dashboard(columns: Columns, facts: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        columns: what it shows.
        facts: what was read, by name.
    """
    here = files("bathyscope.sae.reading")
    drawing, alone, style = (
        here.joinpath(name).read_text("utf-8") for name in ("dashboard.js", "alone.js", "dashboard.css")
    )
    return script_page(f"bathyscope: latents at {columns.site}", style, drawing + alone, page_data(columns, facts))


def packed(values: Tensor) -> list[Any]:
    """Numbers from 0, or float32 numbers, as [type, base64]: little-endian, in the smallest type that holds them.

    Example:
        >>> import torch
        >>> from bathyscope.sae.reading.dashboard import packed
        >>> packed(torch.tensor([1, 2, 255])), packed(torch.tensor([1, 256]))
        (['u1', 'AQL/'], ['u2', 'AQAAAQ=='])
    """
    if values.is_floating_point():
        kind, stored = "f4", values.float()
    else:
        most = int(values.max()) if values.numel() else 0
        dtype, kind = next((dtype, kind) for limit, dtype, kind in TYPES if most < limit)
        stored = values.to(dtype)
    raw = stored.contiguous().numpy()
    return [kind, base64.b64encode(raw.astype(raw.dtype.newbyteorder("<")).tobytes()).decode()]


def page_data(read: Columns, facts: Mapping[str, str]) -> dict[str, Any]:
    """What the page's script reads: facts, token texts, and columns over all latents."""
    activity, order = read.activity, sorted(read.text.words)
    number = torch.full((max(order, default=0) + 1,), 0)
    number[torch.tensor(order, dtype=torch.int64)] = torch.arange(len(order))
    first, stop = _span(activity.histogram)
    columns = {
        "latent": read.latents,
        "active": activity.active,
        "largest": activity.largest,
        "histogram": activity.histogram[:, first:stop],
        "near": read.neighbours.latents,
        "nearness": read.neighbours.cosines,
        "own": read.neighbours.own,
        "text": number[read.text.ids],
        "starts": read.text.starts,
        **_rule_columns(read.rules),
    }
    if read.promoted is not None:
        sides = read.promoted
        columns |= {"up": number[sides.up], "upBy": sides.up_by, "down": number[sides.down], "downBy": sides.down_by}
    columns |= _example_columns("example", read.examples, activity.largest)
    columns |= _example_columns("sample", read.samples, activity.largest)
    word = read.text.word
    return {
        "title": f"Latents at {read.site}",
        "facts": facts,
        "site": read.site,
        "of": read.n_latents,
        "rows": activity.n_rows,
        "before": read.examples.before,
        "context": read.examples.contexts.shape[2],
        "edges": [float(f"{edge(one):.4g}") for one in range(first, stop + 1)],
        "words": [read.text.words[token] for token in order],
        "rules": [one.rule.words(word) if one else "" for one in read.rules],
        "descriptions": {str(latent): _described(one) for latent, one in read.descriptions.items()},
        "columns": {name: packed(values) for name, values in columns.items()},
        "widths": {name: values.shape[1] for name, values in columns.items() if values.ndim == 2},
    }


def _span(histogram: Tensor) -> tuple[int, int]:
    """From where to where any latent's histogram is not empty."""
    there = histogram.sum(0).nonzero().squeeze(1)
    return (int(there[0]), int(there[-1]) + 1) if len(there) else (0, 1)


def _rule_columns(rules: Iterable[MeasuredRule | None]) -> dict[str, Tensor]:
    rows = [
        (
            one.held_out.precision,
            one.held_out.recall,
            one.held_out.f1,
            one.control_f1,
            one.held_out.active,
            is_label(one),
        )
        if one
        else (0.0, 0.0, 0.0, 0.0, 0, False)
        for one in rules
    ]
    precision, recall, f1, control, active, label = zip(*rows, strict=True)
    found = {"precision": precision, "recall": recall, "f1": f1, "controlF1": control}
    columns = {name: torch.tensor(values, dtype=torch.float32) for name, values in found.items()}
    return {**columns, "heldOut": torch.tensor(active), "ruled": torch.tensor(label, dtype=torch.uint8)}


def _example_columns(name: str, examples: Examples, largest: Tensor) -> dict[str, Tensor]:
    """Where each example is, and only those tokens of its context at which the latent is active.

    An activation is stored as a 65,535th of the latent's largest.
    """
    there = examples.places >= 0
    contexts = torch.where(there[..., None], examples.contexts, 0.0)
    row, rank, column = contexts.nonzero(as_tuple=True)
    shares = (contexts[row, rank, column] / largest[row].clamp_min(1e-12)).clamp(0, 1)
    return {
        name: (examples.places + 1).clamp_min(0),
        f"{name}Stops": (contexts > 0).sum(2).reshape(-1).cumsum(0),
        f"{name}At": column,
        f"{name}Share": (shares * 65_535).round().long(),
    }


def _described(one: Description) -> dict[str, Any]:
    return {
        "text": one.text,
        "says": one.says_something,
        "score": round(one.score, 4),
        "control": round(one.control, 4),
        "controls": one.n_controls,
        "layer": one.layer,
        "scale": one.scale,
    }
