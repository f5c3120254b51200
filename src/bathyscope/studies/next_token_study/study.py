"""The next-token study: how early, and by which method, a representation tells what the model will say next.

Precision@1 and surprisal for every layer and method on the same positions, as in arXiv 2401.06102,
section 4.1. It is one plan: every window is read once, whatever the number of layers and methods.
"""

import time
from collections.abc import Iterator
from itertools import chain
from typing import Final, Unpack

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.store import Store
from bathyscope.studies.bootstrap import RESAMPLES
from bathyscope.studies.next_token_study.asked import Asked, NextTokenChoices, Ready, argument
from bathyscope.studies.next_token_study.fitted import LensFit
from bathyscope.studies.next_token_study.result import NextTokenResult
from bathyscope.studies.next_token_study.table import Table
from bathyscope.texts import Texts

FEW_WINDOWS: Final = 20
"""Fewer are too few to draw from again."""


def next_token(
    model: Model,
    texts: Texts,
    *,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    stop: Stop | None = None,
    **choices: Unpack[NextTokenChoices],
) -> NextTokenResult:
    """Measure how early, and by which method, representations tell what the model will say next.

    Each method makes a next token of the representation at a layer and a position. "precision_at_1" is how
    often that is the token that the model itself says there; "surprisal" is -log p(that token) under the model
    itself, in nats. At the last block every method gives the model's own answer: precision 1, and the least
    surprisal that there can be.

    Args:
        model: the model.
        texts: what it reads. The last documents are measured on; lenses are fitted on the others.
        store: where finished cells are kept, and lenses that are fitted here: what it holds is not computed again.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do, of each fit and then of the study.
        stop: looked at at every step of a fit and after every batch.
        choices: see `NextTokenChoices`.

    Returns:
        A record for each method and layer, with 95% intervals by a bootstrap over windows. The controls are the
        prompts of "token-identity" and "bare-placeholder" with nothing written into them.

    Raises:
        UsageError: too little text, an unknown method or layer, or a lens of another model or of this very text.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies import next_token
        >>> from bathyscope.texts import given_texts
        >>> texts = given_texts(["One two three four five six seven", "Two three four five six seven eight"])
        >>> found = next_token(
        ...     bathyscope.load(), texts, positions=4, length=8, layers=29, methods=["logit-lens"], held_out=1
        ... )
        >>> found.rows()[0]["precision_at_1"]
        1.0
    """
    ready = Asked.of(model, texts, choices).fitted(store, progress, stop)
    measuring, spec = ready.measuring(budget, progress, stop), ready.spec()
    began = time.perf_counter()
    found = measuring.run() if store is None else measuring.run_stored(store, kind=NextTokenResult.kind, spec=spec)
    seconds = time.perf_counter() - began
    table = Table.of(ready.asked, [*chain(*measuring.groups)], found.values)
    return NextTokenResult(
        records=tuple(table.records()),
        provenance=provenance([model.provenance()], spec),
        notes=tuple(_notes(ready)),
        controls=tuple(table.controls()),
        plans={"first windows": measuring.plan(measuring.groups[0]).to_dict()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": found.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=found.run,
    )


def plan_next_token(
    model: Model, texts: Texts, *, budget: int = MEMORY_BUDGET, **choices: Unpack[NextTokenChoices]
) -> dict[str, Plan]:
    """What `next_token` would run for the first windows: each method by itself, and all together as it is run.

    The plans of the other windows are like it, `measuring.WINDOWS` at a time.

    Args:
        model: the model.
        texts: what it reads.
        budget: bytes that one batch may take above the loaded model.
        choices: see `NextTokenChoices`; lenses that are needed must be given, since they are part of the cells.

    Raises:
        UsageError: as `next_token`, or a lens was not given.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies import plan_next_token
        >>> from bathyscope.texts import given_texts
        >>> texts = given_texts(["One two three four five six seven", "Two three four five six seven eight"])
        >>> plans = plan_next_token(bathyscope.load(), texts, positions=4, length=8, methods=["logit-lens"], held_out=1)
        >>> plans["logit-lens"].target_passes
        0
    """
    asked = Asked.of(model, texts, choices)
    if lacking := asked.fits():
        raise UsageError(
            f"the {lacking[0].method} was not given", "a plan is of cells, and it is part of them", "lens_fits(...)"
        )
    measuring = Ready(asked, asked.lenses).measuring(budget)
    first = measuring.groups[0]
    plans = {way: measuring.plan([one for one in first if one.way.method == way]) for way in asked.methods}
    return {**plans, "all": measuring.plan(first)}


def lens_fits(model: Model, texts: Texts, **choices: Unpack[NextTokenChoices]) -> dict[str, LensFit]:
    """What `next_token` would fit before it measures: by argument, lenses that are needed and were not given.

    Args:
        model: the model.
        texts: what it reads.
        choices: see `NextTokenChoices`.

    Raises:
        UsageError: as `next_token`.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies import lens_fits
        >>> from bathyscope.texts import given_texts
        >>> texts = given_texts([f"One two three four five {word}" for word in ("six", "ten", "one", "two", "four")])
        >>> list(lens_fits(bathyscope.load(), texts, positions=4, length=8))
        ['tuned_lens', 'jacobian_lens']
    """
    return {argument(fit.method): fit for fit in Asked.of(model, texts, choices).fits()}


def _notes(ready: Ready) -> Iterator[str]:
    asked, text = ready.asked, ready.asked.measured.describe()
    split = text.get("split")
    part = f"documents {split['first']} to {split['stop'] - 1} of {split['of']}" if split else "all documents"
    n, windows = len(asked.places), asked.places[-1].window + 1
    yield f"measured at {n:,} positions of {windows:,} windows, {part} of {text['name']}, seed {asked.seed}"
    yield "layer: the residual stream after that block; -1 is the embedding"
    yield "precision at 1: how often a method's likeliest token is the one that the model itself says next there"
    yield "surprisal: -log p(the method's likeliest token) under the model itself, in nats; less is better"
    yield f"intervals: 95%, bootstrap over windows ({RESAMPLES:,} resamples); differences are paired"
    if windows < FEW_WINDOWS:
        yield f"{windows} windows are few: the intervals are rough"
    for method, lens in ready.lenses.items():
        if "sha256" in lens.fit.text:
            where = f"{lens.fit.n_samples:,} positions of {lens.fit.text['name']}, none of which is measured on"
        else:
            where = "text that is not known, so that it may have seen what is measured on"
        yield f"{method}: fitted on {where}"
