"""The attribute-extraction study: whether a model says what it knows of a subject, and more than a probe tells.

Zero-shot feature extraction of arXiv 2401.06102, section 4.2, over every layer read and written, against logistic
regression on the same items; with the controls that its published figures lack.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Unpack

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.facts import Relation
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.store import Store
from bathyscope.studies.attribute_extraction_study.asked import Asked, AttributeChoices
from bathyscope.studies.attribute_extraction_study.result import AttributeExtractionResult
from bathyscope.studies.attribute_extraction_study.table import Table
from bathyscope.studies.bootstrap import RESAMPLES


def attribute_extraction(
    model: Model,
    relations: Sequence[Relation],
    *,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    stop: Stop | None = None,
    **choices: Unpack[AttributeChoices],
) -> AttributeExtractionResult:
    """Measure which attributes of a subject can be read at which layer, by the model itself and by a probe.

    The representation of a subject in a sentence is written over the placeholder of a prompt such as "The capital city
    of x"; it is right if the object stands in what the model writes then. The probe is logistic regression from the
    same representations to the objects, tested on subjects that it has not met.

    Args:
        model: the model.
        relations: their pairs and templates.
        store: where finished cells are kept: what it holds is not computed again.
        budget: bytes that one batch may take above the loaded model.
        progress: called with the cells that are done and those there are.
        stop: looked at after every batch.
        choices: see `AttributeChoices`.

    Returns:
        A record for each relation and layer that is read.

    Raises:
        UsageError: no relation, a choice that cannot be, every answer stands in its text already, or scikit-learn is
            not installed.
        PositionError: a placeholder shares its token with other text.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies import attribute_extraction
        >>> found = attribute_extraction(
        ...     bathyscope.load(), [own_relation("animal-class")], layers="5", pairs=6, new_tokens=2
        ... )
        >>> found.rows()[0]["n"]
        6
    """
    asked = Asked.of(model, relations, choices)
    measuring, spec = asked.measuring(budget, progress, stop), asked.spec()
    began = time.perf_counter()
    found = (
        measuring.run()
        if store is None
        else measuring.run_stored(store, kind=AttributeExtractionResult.kind, spec=spec)
    )
    seconds = time.perf_counter() - began
    tables = list(_tables(asked, measuring.groups, found.values))
    return AttributeExtractionResult(
        records=tuple(record for table in tables for record in table.records(len(tables))),
        provenance=provenance([model.provenance()], spec),
        notes=tuple(_notes(asked)),
        plans={f"first of {len(measuring.groups)} parts": measuring.plan(measuring.groups[0]).to_dict()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": found.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=found.run,
        summary=tuple(table.summary(len(tables)) for table in tables),
    )


def plan_attribute_extraction(
    model: Model, relations: Sequence[Relation], *, budget: int = MEMORY_BUDGET, **choices: Unpack[AttributeChoices]
) -> list[Plan]:
    """What `attribute_extraction` would run, a plan for each group of cells that is kept together.

    Args:
        model: the model.
        relations: their pairs and templates.
        budget: bytes that one batch may take above the loaded model.
        choices: see `AttributeChoices`.

    Raises:
        UsageError: as `attribute_extraction`.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies import plan_attribute_extraction
        >>> plans = plan_attribute_extraction(bathyscope.load(), [own_relation("animal-class")], layers="5", pairs=6)
        >>> len(plans), plans[0].source_passes
        (1, 6)
    """
    measuring = Asked.of(model, relations, choices).measuring(budget)
    return [measuring.plan(group) for group in measuring.groups]


def _tables(asked: Asked, groups: Sequence[Sequence[Any]], values: Sequence[Any]) -> Iterator[Table]:
    portions = [portion for group in groups for portion in group]
    by_relation = groupby(zip(portions, values, strict=True), lambda one: one[0].grid.relation)
    for relation, (_, found) in zip(asked.relations, by_relation, strict=True):
        yield Table.of(asked, relation, [value for _, value in found])


def _notes(asked: Asked) -> Iterator[str]:
    spec = asked.spec()
    drawn = ", ".join(f"{one['name']} {one['pairs']} of {one['of']} pairs" for one in spec["relations"])
    yield f"{drawn}; {spec['contexts']} sentence a pair, seed {asked.seed}"
    yield "layer: the residual stream after that block, at the subject's last token; -1 is the embedding"
    yield (
        f"right: the object stands in the {asked.new_tokens} tokens that the model writes greedily (the paper has 20), "
        "both normalized (NFKC, case folded, letters and digits only), at the borders of words"
    )
    yield (
        "patchscope: at the layer written at that was best on the other half of the subjects; oracle: at any of the "
        f"{len(asked.targets)} layers, as in the paper, which grows with their number. Controls are chosen alike."
    )
    yield (
        f"probe: logistic regression on the same items, {spec['folds']} folds by subject; a class of one subject can "
        "not be learnt so and counts as wrong; learnable: without those"
    )
    yield (
        "random: a Gaussian vector at the norm of what it replaces, another for each sentence; mean: of the relation's "
        "sentences; shuffled: the sentence of another object; no-activation: zeros; unpatched: nothing written; "
        "prompting: the subject itself in the template"
    )
    yield f"lenses: the object's first token is among the {spec['top']} likeliest at the subject"
    yield (
        "p: exact, signs of the differences of subjects flipped (McNemar's test where a subject has one item); "
        f"Bonferroni over {len(asked.relations)} relations. Intervals: bootstrap over subjects ({RESAMPLES:,})"
    )
    if asked.left_out:
        yield f"left out, since every object stands in its text already: {', '.join(asked.left_out)}"
    given = {one.relation.name: sum(item.given for item in one.items) for one in asked.relations}
    if any(given.values()):
        told = ", ".join(f"{name} {count}" for name, count in given.items() if count)
        yield f"left out and reported apart, since the object stands in the sentence or the template already: {told}"
