"""The cross-model study: what one model says of another's representations, for each pair of layers.

arXiv 2401.06102, section 4.4 and appendix E, with the controls that its figures lack: where the target has read the
same text up to the written position, much of the precision is its own.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any, Unpack

import numpy

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.generation import Progress
from bathyscope.mappings import Affine
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.store import Store
from bathyscope.studies.bootstrap import RESAMPLES, Bootstrap
from bathyscope.studies.cross_model_study.asked import Crossing, CrossModelChoices
from bathyscope.studies.cross_model_study.cells import COMPARED, SAME_TEXT, Crossed, Label
from bathyscope.studies.cross_model_study.portions import (
    CrossMeasuring,
    CrossPortion,
    NamePortion,
    WindowPortion,
    groups_of,
    values_by_label,
)
from bathyscope.studies.cross_model_study.result import CrossModelResult
from bathyscope.studies.next_token_study.tallies import Values, difference, tally
from bathyscope.texts import Texts

Measured = Mapping[CrossPortion, Mapping[str, Any]]
"""What each portion gave."""


def cross_model(  # noqa: PLR0913 (each is one thing that a user decides)
    source: Model,
    target: Model,
    texts: Texts,
    *,
    mapping: RepresentationMapping | None = None,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    planned: Callable[[Mapping[str, Plan]], None] | None = None,
    stop: Stop | None = None,
    **choices: Unpack[CrossModelChoices],
) -> CrossModelResult:
    """Write one model's representations into another, and compare what it says next with what the first says.

    Each representation is mapped and written into the text that the target has read as well, at the same place
    (the paper's released evaluation), and into the token-identity prompt. Beside every figure are those of nothing,
    of a random vector as long, and of the mean of what the mapping gives; and how often the two models agree
    anyway. Names are described in words. Next tokens are compared only where both models have one vocabulary.

    Args:
        source: the model that is read.
        target: the model that is written to.
        texts: what both read; the last documents are measured on.
        mapping: from `fitting.fit_affine` or `Affine.load`, or `Identity` between models of one width. Ridge is
            fitted for each pair of layers, on the text that is not measured on, unless given.
        store: where finished cells are kept.
        budget: bytes that one batch may take above the loaded models.
        progress: called with what is done and what there is to do, of the fit and then of the cells.
        planned: called before anything is carried out, with the plan of the first windows, which the others are
            like ("windows"), and that of the descriptions ("words").
        stop: looked at while it is fitted and after every batch.
        choices: see `CrossModelChoices`.

    Raises:
        UsageError: too little text, a layer that does not exist, or a mapping for other models or widths.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.mappings import Identity
        >>> from bathyscope.studies import cross_model
        >>> from bathyscope.texts import given_texts
        >>> model, texts = bathyscope.load(), given_texts(["One two three four five six", "Two three four five six"])
        >>> choices = {"source_layers": 29, "target_layers": 29, "positions": 4, "held_out": 1, "names": ()}
        >>> found = cross_model(model, model, texts, mapping=Identity(), length=8, **choices)
        >>> [(row["prompt"], row["precision_at_1"], row["agreement"]) for row in found.rows()]
        [('same-text', 1.0, 1.0), ('token-identity', 1.0, 1.0)]
    """
    crossed = Crossed.of(Crossing.of(source, target, texts, mapping, choices), progress, stop)
    groups, spec = list(groups_of(crossed)), _spec(crossed)
    measuring = CrossMeasuring(source, groups, budget, progress, stop, target=target)
    plans = {name: measuring.plan(group) for name, group in _named(groups).items()}
    if planned is not None:
        planned(plans)
    began = time.perf_counter()
    found = measuring.run() if store is None else measuring.run_stored(store, kind=CrossModelResult.kind, spec=spec)
    seconds = time.perf_counter() - began
    measured = dict(zip(chain(*groups), found.values, strict=True))
    return CrossModelResult(
        records=tuple(_records(crossed, measured)),
        provenance=provenance([source.provenance(), target.provenance()], spec),
        notes=tuple(_notes(crossed)),
        plans={name: one.to_dict() for name, one in plans.items()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": found.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=found.run,
        descriptions=tuple(_descriptions(crossed, measured)),
        description_controls=tuple(_description_controls(crossed, measured)),
    )


def _named(groups: Sequence[list[CrossPortion]]) -> dict[str, list[CrossPortion]]:
    """The groups whose plans are told: the first windows, which the others are like, and the names."""
    found = {}
    for group in groups:
        found.setdefault("windows" if isinstance(group[0], WindowPortion) else "words", group)
    return found


def _records(crossed: Crossed, measured: Measured) -> Iterator[dict[str, Any]]:
    asked = crossed.asked
    if not asked.places:
        return
    bootstrap = Bootstrap.of([place.window for place in asked.places], seed=asked.seed)
    windows = [found for portion, found in measured.items() if isinstance(portion, WindowPortion)]
    values = {
        label: {name: numpy.array(some) for name, some in by_name.items()}
        for label, by_name in values_by_label(crossed, windows).items()
    }
    agreement = bootstrap.mean(values[Label(SAME_TEXT, "nothing")]["precision_at_1"])
    for prompt, (layer, other) in product(COMPARED, asked.pairs):
        mapped, unpatched = values[Label(prompt, "mapped", layer, other)], values[Label(prompt, "nothing")]
        controls = {
            "unpatched": unpatched,
            "random": values[Label(prompt, "random", layer, other)],
            "mean": values[Label(prompt, "mean", layer, other)],
        }
        yield {
            "prompt": prompt,
            "source_layer": layer,
            "target_layer": other,
            **tally(mapped, bootstrap),
            **_beside(controls, bootstrap),
            "agreement": agreement,
            **difference(mapped, unpatched, "unpatched", bootstrap),
        }


def _beside(controls: Mapping[str, Values], bootstrap: Bootstrap) -> dict[str, float]:
    found = {name: bootstrap.mean(values["precision_at_1"]) for name, values in controls.items()}
    return found | {f"{name}_surprisal": bootstrap.mean(values["surprisal"]) for name, values in controls.items()}


def _descriptions(crossed: Crossed, measured: Measured) -> Iterator[dict[str, Any]]:
    for name, label, text in _texts(crossed, measured):
        if label.written == "mapped":
            yield {"name": name, "source_layer": label.source_layer, "target_layer": label.target_layer, "text": text}


def _description_controls(crossed: Crossed, measured: Measured) -> Iterator[dict[str, Any]]:
    for name, label, text in _texts(crossed, measured):
        if label.written == "nothing":
            yield {"written": "nothing", "text": text}
        elif label.written == "random":
            yield {"written": "random", "name": name, "target_layer": label.target_layer, "text": text}


def _texts(crossed: Crossed, measured: Measured) -> Iterator[tuple[str | None, Label, str]]:
    for portion, found in measured.items():
        if isinstance(portion, NamePortion):
            labels = crossed.described if portion.name is not None else (Label(None, "nothing"),)
            yield from ((portion.name, label, text) for label, text in zip(labels, found["texts"], strict=True))


def _spec(crossed: Crossed) -> dict[str, Any]:
    """What is measured, as JSON values."""
    asked = crossed.asked
    fit = crossed.mapping.fit if isinstance(crossed.mapping, Affine) else None
    return {
        "text": asked.measured.describe(),
        "positions": len(asked.places),
        "windows": asked.places[-1].window + 1 if asked.places else 0,
        "places": asked.places_fingerprint,
        "pairs": [list(pair) for pair in asked.pairs],
        **asked.settings,
        **({"fitted_on": dict(fit.text), "n_samples": fit.n_samples} if fit else {}),
        "models": [asked.source.loadable(), asked.target.loadable()],
        **crossed.mapping.spec(),
    }


def _notes(crossed: Crossed) -> Iterator[str]:
    asked, text = crossed.asked, crossed.asked.measured.describe()
    split = text.get("split")
    part = f"documents {split['first']} to {split['stop'] - 1} of {split['of']}" if split else "all documents"
    if asked.places:
        windows = asked.places[-1].window + 1
        yield (
            f"measured at {len(asked.places):,} positions of {windows:,} windows, {part} of {text['name']}, "
            f"seed {asked.seed}"
        )
        yield "precision at 1: how often the target's likeliest token is the one that the source itself says next"
        yield "surprisal: -log p(the target's likeliest token) under the source itself, in nats; less is better"
        yield (
            "same-text: the target has read the same text up to the written place, so that nothing written gives the "
            "agreement of the two models, and what is above it came through the mapping"
        )
        yield f"intervals: 95%, bootstrap over windows ({RESAMPLES:,} resamples); differences are paired"
    else:
        yield (
            f"next tokens are not compared: {asked.source.name} ({asked.source.vocabulary:,} tokens) and "
            f"{asked.target.name} ({asked.target.vocabulary:,}) have different vocabularies"
        )
    yield "random: a random direction as long as what the mapping gives; mean: the mean of what it gives"
    if isinstance(crossed.mapping, Affine):
        yield _about(crossed.mapping)
    else:
        yield f"mapping: {type(crossed.mapping).__name__}, which is not fitted"


def _about(mapping: Affine) -> str:
    fit = mapping.fit
    errors = [one["error"] for one in fit.held_out.values() if "error" in one]
    held_out = (
        f", squared error on held-out text {min(errors):.3g} to {max(errors):.3g} of the variation" if errors else ""
    )
    where = fit.text.get("name", "unknown text")
    return f"mapping: {fit.method}, fitted on {fit.n_samples:,} positions of {where}{held_out}"
