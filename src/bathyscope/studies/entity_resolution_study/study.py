"""The entity-resolution study: from which layer on a model can say what a name stands for.

arXiv 2401.06102, section 4.3, with what its figure lacks: controls beside every layer, lenses and a probe on the same
representations, a layer that is chosen on other entities than it is measured on, and names by their number of tokens.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Unpack

import numpy
from numpy.typing import NDArray

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.probing import Folds, Majority, predictions
from bathyscope.results import provenance
from bathyscope.sentences import INSTALL
from bathyscope.store import Store
from bathyscope.studies.bootstrap import RESAMPLES, Bootstrap, tallied
from bathyscope.studies.entity_resolution_study.asked import RANDOM, AskedEntities, EntityResolutionChoices
from bathyscope.studies.entity_resolution_study.layers import FLOOR, SHARE, by_tokens, distribution, resolving_layers
from bathyscope.studies.entity_resolution_study.measures import MEASURES, SIMILARITY, Alike, Measures, Reference, Table
from bathyscope.studies.entity_resolution_study.portions import TOP, EntityMeasuring, Said, groups_of
from bathyscope.studies.entity_resolution_study.result import CONTROLS, EARLY, EntityResolutionResult
from bathyscope.studies.entity_resolution_study.scores import check_rouge, description_of
from bathyscope.studies.paired import Halves

PROBE_FOLDS = 5


def entity_resolution(
    model: Model,
    *,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    planned: Callable[[Mapping[str, Plan]], None] | None = None,
    stop: Stop | None = None,
    **choices: Unpack[EntityResolutionChoices],
) -> EntityResolutionResult:
    """Describe well-known entities from each layer, and measure how right the descriptions are.

    The source is a bare name, read at its last token after each layer; it is written into the paper's
    entity-description prompt at the same layer, and what is said is compared with a short reference.

    Args:
        model: the model.
        store: where finished cells are kept.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do.
        planned: called before anything is carried out, with the plans of the first names and of the controls.
        stop: looked at at every decoding step.
        choices: see `EntityResolutionChoices`.

    Returns:
        A record a layer, with 95% intervals by a bootstrap over entities.

    Raises:
        UsageError: too few entities, a layer that does not exist, a lens of another model, or an extra is missing.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import entities
        >>> from bathyscope.studies import entity_resolution
        >>> found = entity_resolution(bathyscope.load(), entities=entities()[::20], layers="3,7", new_tokens=4)
        >>> [(row["layer"], row["n"]) for row in found.rows()]
        [(3, 7), (7, 7)]
    """
    check_rouge()
    asked = AskedEntities.of(model, choices)
    groups, spec = groups_of(asked), asked.spec()
    measuring = EntityMeasuring(model, groups, budget, progress, stop)
    plans = {"names": measuring.plan(groups[0]), "controls": measuring.plan(groups[-2])}
    if planned is not None:
        planned(plans)
    began = time.perf_counter()
    kind = EntityResolutionResult.kind
    found = measuring.run() if store is None else measuring.run_stored(store, kind=kind, spec=spec)
    seconds = time.perf_counter() - began
    scored = _Scored.of(asked, Said.of(found.values))
    records = tuple(scored.records())
    return EntityResolutionResult(
        records=records,
        provenance=provenance([model.provenance()], {**spec, "sentence_model": _name(asked)}),
        notes=tuple(_notes(asked)),
        controls=tuple(scored.controls()),
        plans={name: one.to_dict() for name, one in plans.items()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": found.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=found.run,
        early=scored.early(),
        best=scored.best(),
        entities=tuple(scored.entities()),
        by_tokens=tuple(scored.by_tokens()),
        resolved={
            "patchscope": distribution(scored.resolved, asked.layers),
            **{name: distribution(found, asked.layers) for name, found in scored.resolved_by_others.items()},
        },
    )


class _Scored:
    """Everything that follows from what was said."""

    def __init__(self, asked: AskedEntities, said: Said, probe: Mapping[str, Table]) -> None:
        self.asked, self.said = asked, said
        prompt, alike, self.measures = asked.inspection.tokens.text, None, tuple(MEASURES)
        if asked.sentence_model is not None:
            said_all = map(description_of, said.all_texts())
            alike = Alike(asked.sentence_model, [*(one.description for one in asked.entities), *said_all])
            self.measures = (*MEASURES, SIMILARITY)
        measures = Measures(tuple(Reference.of(one, prompt, alike) for one in asked.entities), said, asked.seed)
        self.bootstrap = Bootstrap.of([*range(len(asked.entities))], seed=asked.seed)
        self.halves = Halves.drawn(len(asked.entities), asked.seed)
        self.patched = {measure: measures.patched(measure) for measure in self.measures}
        self.beside = {measure: _controls(measures, measure) for measure in self.measures}
        self.lenses = {lens: measures.lens(lens) for lens in said.lenses}
        self.probe = probe
        scores = self.patched["rouge_l"]
        self.resolved = resolving_layers(scores, asked.layers)
        self.resolved_by_others = {
            name: resolving_layers(self.beside["rouge_l"][name], asked.layers)
            for name in ("shuffled", "shuffled_same_type")
        }
        self.chosen_at, self.chosen = self.halves.chosen(scores)

    @classmethod
    def of(cls, asked: AskedEntities, said: Said) -> "_Scored":
        """With the probe of the entity's type, which is fitted now."""
        return cls(asked, said, _probed(asked))

    def records(self) -> Iterator[dict[str, Any]]:
        """One a layer."""
        for column, layer in enumerate(self.asked.layers):
            yield self._record(layer, [column])

    def early(self) -> dict[str, Any]:
        """The mean over the first blocks, where all of them were measured."""
        columns = [column for column, layer in enumerate(self.asked.layers) if layer in EARLY]
        if len(columns) < len(EARLY):
            return {}
        return self._record(f"{EARLY[0]}-{EARLY[-1]}", columns)

    def controls(self) -> Iterator[dict[str, Any]]:
        """The means over all layers that were measured, beside the descriptions'."""
        for name in ("patchscope", *CONTROLS):
            record: dict[str, Any] = {"control": name}
            for measure in self.measures:
                table = self.patched[measure] if name == "patchscope" else self.beside[measure][name]
                record |= tallied(measure, _mean(table), self.bootstrap)
            yield record

    def best(self) -> dict[str, Any]:
        """The layer chosen on the other half, and the oracle, never to be taken for one another."""
        scores, others = self.patched["rouge_l"], self.beside["rouge_l"]["shuffled"]
        return {
            "chosen_layers": [self.asked.layers[column] for column in self.chosen_at],
            **tallied("chosen", self.chosen, self.bootstrap),
            **tallied("oracle", numpy.nanmax(scores, 1), self.bootstrap),
            **tallied("oracle_shuffled", _best(others), self.bootstrap),
            **tallied("prompting", self.beside["rouge_l"]["prompting"][:, 0], self.bootstrap),
        }

    def entities(self) -> Iterator[dict[str, Any]]:
        """What came of each entity."""
        for number, entity in enumerate(self.asked.entities):
            scores = self.patched["rouge_l"][number]
            column = int(scores.argmax())
            yield {
                "name": entity.name,
                "type": entity.type,
                "reference": entity.description,
                "n_tokens": self.asked.n_tokens[number],
                "layer": self.resolved[number],
                "best_layer": self.asked.layers[column],
                "best": float(scores[column]),
                "text": description_of(self.said.texts[number][column]),
                "prompting": description_of(self.said.prompting[number]),
            }

    def by_tokens(self) -> list[dict[str, Any]]:
        """By the number of tokens of the name."""
        scores, asked = self.patched["rouge_l"], self.asked
        return by_tokens(self.resolved, asked.n_tokens, scores, self.chosen, asked.layers, asked.seed)

    def _record(self, layer: int | str, columns: list[int]) -> dict[str, Any]:
        record: dict[str, Any] = {"layer": layer, "n": len(self.asked.entities)}
        patched = {measure: _mean(table[:, columns]) for measure, table in self.patched.items()}
        for measure, values in patched.items():
            record |= tallied(measure, values, self.bootstrap)
        record["n_telling"] = int((~numpy.isnan(patched["contains"])).sum())
        for name in CONTROLS:
            record |= {name: _overall(self.beside["rouge_l"][name], columns)}
            for measure in self.measures[2:]:
                record |= {f"{measure}_{name}": _overall(self.beside[measure][name], columns)}
        for lens, table in self.lenses.items():
            listed = _mean(table[:, columns])
            record |= tallied(lens, listed, self.bootstrap)
            record |= tallied(f"contains_minus_{lens}", patched["contains"] - listed, self.bootstrap)
        for name, table in self.probe.items():
            record |= tallied(name, _mean(table[:, columns]), self.bootstrap)
        return record


def _controls(measures: Measures, measure: str) -> dict[str, Table]:
    return {
        "unpatched": measures.unpatched(measure),
        "random": measures.random(measure),
        "mean": measures.mean(measure),
        "shuffled": measures.shuffled(measure),
        "shuffled_same_type": measures.shuffled(measure, same_type=True),
        "prompting": measures.prompting(measure),
    }


def _probed(asked: AskedEntities) -> dict[str, Table]:
    """Whether a probe tells each entity's type, folds by entity, (entities, layers); none where there is one type."""
    types = [one.type for one in asked.entities]
    if len(set(types)) < 2:
        return {}
    k = min(PROBE_FOLDS, len(types))
    folds = Folds.by_subject([one.name for one in asked.entities], types, k=k, seed=asked.seed)
    read = [asked.representations[layer].double().cpu().numpy() for layer in asked.layers]
    right = numpy.array(types)
    return {
        "probe": numpy.array([numpy.array(predictions(rows, types, folds)) == right for rows in read], float).T,
        "majority": numpy.array([numpy.array(predictions(read[0], types, folds, predictor=Majority)) == right], float)
        .repeat(len(read), 0)
        .T,
    }


def _name(asked: AskedEntities) -> str | None:
    return None if asked.sentence_model is None else asked.sentence_model.name


def _mean(table: Table) -> NDArray[numpy.float64]:
    """Of each entity, over columns; an entity has a value in all of them or in none."""
    return table.mean(1)


def _best(table: Table) -> NDArray[numpy.float64]:
    return table.max(1)


def _overall(table: Table, columns: list[int]) -> float | None:
    """The mean over entities that have one, of some layers; a control without layers is the same at all."""
    values = _mean(table if table.shape[1] == 1 else table[:, columns])
    there = values[~numpy.isnan(values)]
    return float(there.mean()) if len(there) else None


def _notes(asked: AskedEntities) -> Iterator[str]:
    n = len(asked.entities)
    yield f"{n} entities, bare names read at their last token, seed {asked.seed}; written at the layer that was read"
    yield "layer: the residual stream after that block; -1 is the embedding"
    yield (
        f"a description is what is written (at most {asked.new_tokens} tokens) up to a line end or to the next entry "
        "of the list; ROUGE-L is the F1 of rouge-score, without stemming"
    )
    yield (
        "telling words are those of the reference that stand neither in the name nor in the target prompt and are no "
        "function words; entities without any are left out of shares of telling words, and of rouge_l_unseen, for "
        "which words of name and prompt are taken out of both texts"
    )
    yield f"lenses: whether one of the {TOP} likeliest tokens is a telling word; probe: of the type, folds by entity"
    yield (
        f"random: {RANDOM} directions a layer, as long as what is written of names; mean: over names; shuffled: "
        "another entity's descriptions; prompting: the name as text in the placeholder's place"
    )
    yield (
        f"an entity resolves at the first layer that has {SHARE:.0%} of its best ROUGE-L, if that is {FLOOR} or more; "
        "its best layer is known only by looking at all of them, as the oracle's is"
    )
    if asked.at_first:
        yield (
            f"{len(asked.at_first)} of {n} names: read at the first position of their prompt, where many models have "
            "an attention sink, which holds little of the name; mean and random vectors are of the other names"
        )
    yield "chosen: each half of the entities at the layer that is best for the other half"
    yield f"intervals: 95%, bootstrap over entities ({RESAMPLES:,} resamples)"
    if asked.sentence_model is None:
        yield f"similarity is not measured: no sentence model was given, or is installed ({INSTALL})"
    else:
        yield f"similarity: cosine of description and reference under {asked.sentence_model.name}"
