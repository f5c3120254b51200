"""The tables of the multi-hop study: from what each patch said to counts of answers, corrected and broken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from bathyscope.facts import TwoHop
from bathyscope.studies.multihop_study.portions import CONFIGURATIONS, Layers
from bathyscope.studies.multihop_study.queries import Answered
from bathyscope.studies.paired import Bools, by_subject, cross_fitted, halves, sign_flip


@dataclass(frozen=True)
class Measured:
    """What was patched, and what it said.

    Args:
        answered: the queries that were patched, with what the model says of itself.
        others: for each the query whose first hop takes its place as a control, or None where there is none.
        patches: by configuration and query (its words) what its patch gave (`PatchPortion.values`).
        controls: by query what nothing and random vectors gave (`ControlPortion.values`).
    """

    answered: tuple[Answered, ...]
    others: tuple[TwoHop | None, ...]
    patches: Mapping[tuple[int, str], Mapping[str, Any]]
    controls: Mapping[str, Mapping[str, Any]]

    def grid(self, configuration: int, *, other: bool = False) -> Bools:
        """Whether each cell has the answer, (queries, layers read, layers written), where there is such a query."""
        found = []
        for one, control in zip(self.answered, self.others, strict=True):
            source = control if other else one.query
            if source is not None:
                patch = self.patches[configuration, source.query]
                found.append(hits(one, patch["texts"])[numpy.asarray(patch["grid"])])
        return numpy.stack(found) if found else numpy.zeros((0, 1, 1), bool)

    def random(self) -> Bools:
        """Whether each random vector has it, (queries, layers written)."""
        return numpy.stack([self._control(one, "random") for one in self.answered])

    def unpatched(self) -> Bools:
        """Whether the second hop's words alone have it, (queries,)."""
        return numpy.array([self._control(one, "unpatched") for one in self.answered])

    def _control(self, one: Answered, name: str) -> Any:
        found = self.controls[one.query.query]
        return hits(one, found["texts"])[found[name]]


def hits(one: Answered, texts: Sequence[str]) -> Bools:
    """Whether each text has a query's answer."""
    return numpy.array([one.right(text) for text in texts], bool)


def records(measured: Measured, layers: Layers) -> list[dict[str, Any]]:
    """One a configuration: counts of the queries that were patched."""
    answered = measured.answered
    subjects = [one.query.first.subject for one in answered]
    half = halves(subjects, seed=layers.seed)
    vanilla = numpy.array([one.right(one.vanilla) for one in answered])
    random = measured.random()
    known = {
        "n": len(answered),
        "vanilla": int(vanilla.sum()),
        "statement": sum(one.right(one.statement) for one in answered),
        "chain_of_thought": sum(one.right(one.chain_of_thought) for one in answered),
    }
    found = []
    for configuration in CONFIGURATIONS:
        grid = measured.grid(configuration)
        flat = grid.reshape(len(answered), -1)
        chosen, oracle = cross_fitted(flat, half), flat.any(1)
        best = int(flat.sum(0).argmax())
        record: dict[str, Any] = {"configuration": configuration, **known}
        record |= {"patchscope": int(chosen.right.sum()), "patchscope_oracle": int(oracle.sum())}
        record |= {
            "corrected": int((chosen.right & ~vanilla).sum()),
            "broken": int((~chosen.right & vanilla).sum()),
            "corrected_oracle": int((oracle & ~vanilla).sum()),
            "broken_oracle": int((~oracle & vanilla).sum()),
            "chosen_cells": [list(cell_of(cell, layers)) for cell in chosen.chosen],
            "best_cell": list(cell_of(best, layers)),
            "best_cell_right": int(flat[:, best].sum()),
            "p": sign_flip(by_subject(chosen.right.astype(int) - vanilla, subjects)),
        }
        record |= _controls(measured, configuration, half, random)
        found.append(record)
    return found


def _controls(measured: Measured, configuration: int, half: Any, random: Bools) -> dict[str, Any]:
    """The same patch from another query, random vectors, and nothing, each chosen as the patch is."""
    there = numpy.array([other is not None for other in measured.others])
    other = measured.grid(configuration, other=True).reshape(int(there.sum()), -1)
    return {
        "n_other": int(there.sum()),
        "control_other": int(cross_fitted(other, half[there]).right.sum()) if there.any() else 0,
        "control_other_oracle": int(other.any(1).sum()),
        "control_random": int(cross_fitted(random, half).right.sum()),
        "control_random_oracle": int(random.any(1).sum()),
        "control_unpatched": int(measured.unpatched().sum()),
    }


def cell_of(number: int, layers: Layers) -> tuple[int, int]:
    """The layers, read and written, of a cell by its number."""
    row, column = divmod(number, len(layers.targets))
    return layers.sources[row], layers.targets[column]


def joins(answered: Sequence[Answered], measured: Measured) -> list[dict[str, Any]]:
    """One a pair of relations: how many queries there are, and how many of them the model can be expected to answer."""
    names = dict.fromkeys((one.query.first_relation, one.query.second_relation) for one in answered)
    patched = {one.query.query: row for row, one in enumerate(measured.answered)}
    oracles = {number: numpy.asarray(measured.grid(number).any((1, 2))) for number in CONFIGURATIONS}
    found = []
    for first, second in names:
        them = [one for one in answered if (one.query.first_relation, one.query.second_relation) == (first, second)]
        rows = [patched[one.query.query] for one in them if one.query.query in patched]
        record: dict[str, Any] = {"first_relation": first, "second_relation": second, "queries": len(them)}
        record |= {"hop1": sum(one.knows_hops[0] for one in them), "hop2": sum(one.knows_hops[1] for one in them)}
        record |= {"both": sum(all(one.knows_hops) for one in them)}
        record |= {"vanilla": sum(one.right(one.vanilla) for one in them)}
        record |= {"chain_of_thought": sum(one.right(one.chain_of_thought) for one in them)}
        record |= {"patched": len(rows)}
        record |= {f"oracle_{number}": int(oracles[number][rows].sum()) for number in CONFIGURATIONS}
        found.append(record)
    return found
