"""Part (d): activation patching, every block and position of a pair of prompts, the clean value into the corrupted run.

The metric is the difference of two answers' logits after the last token. TransformerLens runs its own
generic patching of the same places.
"""

from collections.abc import Sequence
from typing import Any

import loop
import torch
from environments import LENS_3, LENS_4, PeerError, measure_peer
from measure import Check, Part, Row, Settings, cold_and_warm, median, ratio, say

import bathyscope
from bathyscope import Model, Site
from bathyscope.engine import Cell, Plan, Read, collect, plan
from bathyscope.readouts import LogitDiff

CLEAN = "When Mary and John went to the store, Mary gave a bottle of milk to"
CORRUPTED = "When Mary and John went to the store, John gave a bottle of milk to"
ANSWERS = (" John", " Mary")
TOKENS = 16


def measure(settings: Settings) -> Part:
    """Run all of it."""
    say("patching")
    part = Part(f"(d) Activation patching on {settings.folder.name}: blocks x positions of {TOKENS} tokens, float32")
    job, own, cold, warm, planned = _own(settings)
    say("  per-cell loop")
    wanted, seconds = loop.patching(loop.load(settings.folder, torch.float32), job)
    whole, apart = sum(seconds), _apart(wanted, own)
    part.rows += [
        Row("loop", (whole,), note=f"{len(wanted)} cells, median {median(seconds):.3f} s a cell"),
        Row(
            "this project",
            warm,
            cold,
            ratio(whole, median(warm)),
            "loop",
            f"batches: {len(planned.batches)}; largest difference from the loop {apart:.1e}",
        ),
    ]
    part.checks += [
        Check("times the loop", ratio(whole, median(warm)), 8),
        Check("largest difference from the loop", apart, 1e-4, at_least=False, timed=False),
    ]
    part.details |= {
        "job": job,
        "loop": wanted,
        "loop_seconds": seconds,
        "this project": own,
        "plan": planned.to_dict(),
    }
    for peer in (LENS_3, LENS_4):
        try:
            found = measure_peer(peer, job, settings)
        except PeerError as error:
            part.rows.append(Row(peer.name, note=str(error)))
            continue
        first, *later = found["seconds"]
        apart = _apart(wanted, found["values"])
        note = f"{found['class']}, generic patching; largest difference from the loop {apart:.1e}"
        part.rows.append(Row(peer.name, tuple(later), first, ratio(whole, median(later)), "loop", note))
        part.details[peer.name] = found
    return part


def _own(settings: Settings) -> tuple[dict[str, Any], list[float], float, tuple[float, ...], Plan]:
    """The job, and what this project makes of it: values, seconds of the first run and of the others, the plan."""
    model = bathyscope.load(settings.folder, dtype=torch.float32)
    job = _job(model, settings)
    values, cold, warm = cold_and_warm("this project", lambda: _patch(model, job), settings.repeats)
    return job, values, cold, warm, plan(_cells(model, job), model, model)


def _job(model: Model, settings: Settings) -> dict[str, Any]:
    clean, corrupted = (model.tokenize(text).ids for text in (CLEAN, CORRUPTED))
    answers = [model.tokenize(text).ids for text in ANSWERS]
    differ = [index for index, pair in enumerate(zip(clean, corrupted, strict=True)) if pair[0] != pair[1]]
    if len(clean) != TOKENS or len(differ) != 1 or any(len(ids) != 1 for ids in answers):
        raise ValueError(f"with this tokenizer the prompts have {len(clean)} tokens and differ at {differ}")
    cells = [(layer, position) for layer in range(model.n_layers) for position in range(TOKENS)]
    if settings.quick:
        layers = (0, model.n_layers // 2, model.n_layers - 1)
        cells = [(layer, position) for layer in layers for position in (*differ, TOKENS - 1)]
    return {
        "folder": str(settings.folder),
        "threads": settings.threads,
        # A peer takes minutes a run.
        "repeats": 2,
        "clean_ids": list(clean),
        "corrupted_ids": list(corrupted),
        "answers": [ids[0] for ids in answers],
        "cells": cells,
    }


def _cells(model: Model, job: dict[str, Any]) -> list[Cell]:
    clean, corrupted, readout = model.tokenize(CLEAN), model.tokenize(CORRUPTED), LogitDiff(*ANSWERS)
    sites = {layer: Site("resid_pre", layer) for layer in range(model.n_layers)}
    return [
        Cell(corrupted, readout, Read(clean, sites[layer], position), sites[layer], (position,))
        for layer, position in job["cells"]
    ]


def _patch(model: Model, job: dict[str, Any]) -> list[float]:
    found = collect(plan(_cells(model, job), model, model), model, model)
    return [reading.values["logit_diff"] for reading in found.readings]


def _apart(values: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(one - other) for one, other in zip(values, others, strict=True))
