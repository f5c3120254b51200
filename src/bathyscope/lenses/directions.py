"""Lenses on vectors that no prompt produced: weights, and gradients.

Each vector is read as if it stood behind the last block: final norm, then unembedding. A final norm
forgets length, so what is read is a direction.
"""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope.engine import Cell, Given, collect, plan
from bathyscope.errors import SiteError, UsageError
from bathyscope.forward import differentiate
from bathyscope.lens_result import LensCell, LensResult
from bathyscope.lenses.vocabulary import behind_last_block
from bathyscope.model import Model, Prompt
from bathyscope.prompts import prepare
from bathyscope.readouts import NextToken, token_id
from bathyscope.results import provenance
from bathyscope.sites import Site, parse_layers, residual_site

FIRST = 16
"""How many units are read unless said."""


def embedding_space(
    model: Model, site: str | Site, *, units: Sequence[int] | None = None, k: int = 5, suppressed: bool = False
) -> LensResult:
    """The tokens that each unit of a site promotes when it is active (arXiv 2209.02535).

    A unit's direction is what it adds to the residual stream: a row of the MLP's or of attention's
    output projection. A norm that a family applies after that projection is left out.

    Args:
        model: the model.
        site: `mlp_post.L` for neurons, or `z.L.H` for a head.
        units: which of them; the first sixteen unless said.
        k: how many tokens.
        suppressed: read what a unit speaks against instead: the direction, negated.

    Returns:
        A cell for each unit, at the unit's number for a position.

    Raises:
        SiteError: the site is no input of an output projection.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.embedding_space(bathyscope.load(), "mlp_post.20", units=[0, 1], k=3)
        >>> [len(cell.candidates) for cell in found.cells]
        [3, 3]
    """
    place = model.site(site)
    if place.component not in ("mlp_post", "z") or (place.component == "z") != (place.head is not None):
        raise SiteError(
            f"the weights of {place} were asked for",
            "neurons and heads write into the residual stream",
            "mlp_post.12, or z.12.3",
        )
    vectors, chosen = _output_directions(model, place, units)
    vectors = -vectors if suppressed else vectors
    places = [(int(place.layer or 0), unit, f"unit {unit}") for unit in chosen]
    what = {"site": str(place), "suppressed": suppressed}
    return _read("embedding-space", model, str(place), places, vectors, k, what)


def backward_lens(
    model: Model, text: Prompt, *, token: str | int | None = None, layer: str = "all", k: int = 5
) -> LensResult:
    """The tokens that a push towards a next token would write, layer by layer (after arXiv 2402.12865).

    What is read at each layer and position is the gradient of the token's log probability after the
    text. Where that is zero, as behind the last position's reach, there is no cell.

    Args:
        model: the model.
        text: what it reads.
        token: the next token that is pushed for; the model's own likeliest unless said.
        layer: after which layers, as in "all", "0-10".
        k: how many tokens.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.backward_lens(bathyscope.load(), "The capital of France is Paris", token=".")
        >>> found.cells[-1].layer, found.cells[-1].text
        (29, '.')
    """
    tokens = model.tokenize(text)
    wanted = None if token is None else token_id(model, token)

    def log_probability(logits: Tensor) -> Tensor:
        chosen = int(logits[-1].argmax()) if wanted is None else wanted
        return torch.log_softmax(logits[-1].float(), -1)[chosen]

    layers = parse_layers(layer, model.n_layers)
    gradients = differentiate(model, tokens, log_probability, [residual_site(one) for one in layers])
    places, vectors = [], []
    for position, name in enumerate(tokens.texts):
        for one in layers:
            direction = gradients[residual_site(one)][position]
            if direction.abs().max() > 0:
                places.append((one, position, name))
                vectors.append(direction)
    if not vectors:
        raise UsageError(
            f"the gradient is zero at layers {layer}",
            "behind the last block only the last position has one",
            "layer='all'",
        )
    return _read("backward-lens", model, tokens.text, places, torch.stack(vectors), k, {"token": token})


def _output_directions(model: Model, site: Site, units: Sequence[int] | None) -> tuple[Tensor, list[int]]:
    """What units add to the residual stream when they are 1, (units, d_model), and which units these are."""
    tap = model.tap(site)
    module = model.module(model.architecture.module_path(site), tap, site)
    weight = next(module.parameters())
    inputs = torch.arange(weight.numel() // model.d_model)
    if site.head is not None and tap.columns is not None:
        inputs = tap.columns[site.head].cpu()
    chosen = list(range(min(FIRST, len(inputs)))) if units is None else list(units)
    if not chosen or any(not 0 <= unit < len(inputs) for unit in chosen):
        raise UsageError(f"units {chosen} were asked for", f"{site} has units 0 to {len(inputs) - 1}")
    ones = torch.zeros(len(chosen), weight.numel() // model.d_model, dtype=weight.dtype)
    ones[torch.arange(len(chosen)), inputs[chosen]] = 1.0
    ones = ones.to(weight.device)
    with torch.no_grad():
        return module(ones) - module(torch.zeros_like(ones[:1])), chosen


def _read(
    lens: str,
    model: Model,
    text: str,
    places: Sequence[tuple[int, int, str]],
    vectors: Tensor,
    k: int,
    asked: dict[str, object],
) -> LensResult:
    """Directions, (cells, d_model), read behind the last block."""
    began = time.perf_counter()
    inspection = prepare(model, behind_last_block(model).prompt)
    last = Site("resid_post", model.n_layers - 1)
    # A norm adds a small constant, beside which a gradient would be nothing.
    lengths = vectors.norm(dim=-1, keepdim=True)
    directions = vectors / lengths.clamp_min(torch.finfo(vectors.dtype).tiny) * model.d_model**0.5
    cells = [
        Cell(inspection.tokens, NextToken(k), Given(direction, residual_site(layer)), last, inspection.positions)
        for direction, (layer, _, _) in zip(directions, places, strict=True)
    ]
    planned = plan(cells, model, model)
    readings = collect(planned, model, model).readings
    seconds = time.perf_counter() - began
    found = tuple(
        LensCell(layer, position, name, one.text, one.candidates, {"length": float(length)})
        for (layer, position, name), one, length in zip(places, readings, lengths.squeeze(-1).tolist(), strict=True)
    )
    spec = {"lens": lens, "source": {"prompt": text}, **asked, **NextToken(k).spec()}
    timing = {"seconds": round(seconds, 4), "cells": len(found), "cells_per_second": round(len(found) / seconds, 2)}
    origin = provenance([model.provenance()], spec)
    return LensResult(lens, text, found, origin, planned.to_dict(), timing)
