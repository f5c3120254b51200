"""The multi-hop study: whether a failing two-hop answer is repaired by moving a representation.

Chain-of-thought patching of arXiv 2401.06102, section 5: the representation that ends the first hop's words is written
over the last token of the second hop's, at every pair of layers, in both published configurations. What the paper
counts is an oracle, the best of all pairs for each query; here it stands beside a pair chosen on other queries, answers
that are broken, and controls.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack

from bathyscope.engine import Plan, Stop
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.facts import Relation, TwoHop
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.store import Store
from bathyscope.studies.attribute_extraction_study.asked import layers_of
from bathyscope.studies.measuring import CELLS_AT_ONCE, Measuring
from bathyscope.studies.multihop_study import table as multihop_table
from bathyscope.studies.multihop_study.portions import CONFIGURATIONS, ControlPortion, Layers, PatchPortion
from bathyscope.studies.multihop_study.queries import Answered, answer_all, draw_queries
from bathyscope.studies.multihop_study.result import MultihopResult
from bathyscope.studies.multihop_study.table import Measured

QUERIES: Final = 200


class MultihopChoices(TypedDict, total=False):
    """What the multi-hop study takes besides the model and the relations.

    Args:
        queries: how many two-hop queries are asked, drawn by the seed: 200 unless said, None for all there are.
        layers: after which layers the source is read; ten spread over all unless said, "all" for the whole grid.
        target_layers: after which layers is written; the same unless said.
        new_tokens: at most so many tokens are written, 10 unless said; the paper has 20.
        seed: decides what is drawn; 0 unless said.
        every: whether queries are patched whose hops the model does not answer alone; not unless said, as in the paper.
    """

    queries: int | None
    layers: int | str | Sequence[int] | None
    target_layers: int | str | Sequence[int] | None
    new_tokens: int
    seed: int
    every: bool


@dataclass(frozen=True, eq=False)
class _Asked:
    """One call, resolved and with the model's own answers."""

    model: Model
    queries: tuple[TwoHop, ...]
    answered: tuple[Answered, ...]
    patched: tuple[Answered, ...]
    layers: Layers
    choices: MultihopChoices

    @classmethod
    def of(
        cls, model: Model, relations: Sequence[Relation], choices: MultihopChoices, progress: Progress | None
    ) -> "_Asked":
        sources = layers_of(choices.get("layers"), model)
        targets = sources if (given := choices.get("target_layers")) is None else layers_of(given, model)
        layers = Layers(sources, targets, choices.get("new_tokens", 10), choices.get("seed", 0))
        queries = draw_queries(relations, count=choices.get("queries", QUERIES), seed=layers.seed)
        # Two queries of the same words have different answers, and are one question.
        queries = tuple({query.query: query for query in queries}.values())
        answered = answer_all(model, queries, relations, new_tokens=layers.new_tokens, progress=progress)
        patched = tuple(one for one in answered if choices.get("every") or all(one.knows_hops))
        if len({one.query.first.subject for one in patched}) < 2:
            raise UsageError(
                f"of {len(answered)} queries the model answers both hops alone of {len(patched)}",
                "a cell is chosen on one half of them and scored on the other",
                "--queries all, --every, or a larger model",
            )
        return cls(model, queries, answered, patched, layers, choices)

    def others(self) -> tuple[TwoHop | None, ...]:
        """For each patched query another with the same second hop and another answer, itself patched if possible."""
        among = [*(one.query for one in self.patched), *self.queries]
        found = []
        for place, one in enumerate(self.patched):
            turned = [*among[place + 1 : len(self.patched)], *among[:place], *among[len(self.patched) :]]
            query = one.query
            fitting = (
                other
                for other in turned
                if other.hop2 == query.hop2 and not one.right(other.answer) and other.hop1 != query.hop1
            )
            found.append(next(fitting, None))
        return tuple(found)

    def groups(self) -> list[list[PatchPortion | ControlPortion]]:
        """Portions that are measured together: those of one second hop, whose target they share."""
        own = [one.query for one in self.patched]
        sources = {query.query: query for query in (*own, *(other for other in self.others() if other))}
        portions: dict[str, list[PatchPortion | ControlPortion]] = {}
        for query in sources.values():
            of_hop = portions.setdefault(query.hop2, [])
            of_hop += [PatchPortion(self.model, number, query, self.layers) for number in CONFIGURATIONS]
        for query in own:
            portions[query.hop2].append(ControlPortion(self.model, query, self.layers))
        return [group for them in portions.values() for group in _parts(them)]

    def spec(self) -> dict[str, Any]:
        """What was asked, as JSON values."""
        names = dict.fromkeys((one.query.first_relation, one.query.second_relation) for one in self.answered)
        return {
            "study": "multihop",
            "text": {"name": "two-hop queries"},
            "joins": [list(name) for name in names],
            "queries": len(self.queries),
            "patched": [one.query.query for one in self.patched],
            "every": bool(self.choices.get("every")),
            "layers": list(self.layers.sources),
            "target_layers": list(self.layers.targets),
            "new_tokens": self.layers.new_tokens,
            "seed": self.layers.seed,
            "match": "normalized (NFKC, case folded, letters and digits), at the borders of words",
            "decoding": "greedy",
        }


def multihop(
    model: Model,
    relations: Sequence[Relation],
    *,
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    stop: Stop | None = None,
    **choices: Unpack[MultihopChoices],
) -> MultihopResult:
    """Measure how many two-hop answers are corrected, and broken, by moving the first hop's representation.

    Args:
        model: the model.
        relations: joined to queries; those with `hop1_template` and `hop2_template` are.
        store: where finished cells are kept. What the model says of itself is asked anew, which is quick.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do, of the model's own answers and then of the patches.
        stop: looked at after every batch.
        choices: see `MultihopChoices`.

    Returns:
        A record for each of the two configurations, counts by pair of relations, and a grid of counts.

    Raises:
        UsageError: no query can be made, or the model answers both hops of fewer than two.
        CancelledError: `stop` said so; with a store, the same call goes on from there.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies import multihop
        >>> joined = [own_relation("city-country"), own_relation("country-language")]
        >>> found = multihop(bathyscope.load(), joined, queries=4, layers="5", new_tokens=2, every=True)
        >>> [record["n"] for record in found.rows()]
        [4, 4]
    """
    asked = _Asked.of(model, relations, choices, progress)
    measuring, spec = Measuring(model, asked.groups(), budget, progress, stop), asked.spec()
    began = time.perf_counter()
    done = measuring.run() if store is None else measuring.run_stored(store, kind=MultihopResult.kind, spec=spec)
    seconds = time.perf_counter() - began
    measured = _measured(asked, [one for group in measuring.groups for one in group], done.values)
    return MultihopResult(
        records=tuple(multihop_table.records(measured, asked.layers)),
        provenance=provenance([model.provenance()], spec),
        notes=tuple(_notes(asked)),
        plans={f"first of {len(measuring.groups)} parts": measuring.plan(measuring.groups[0]).to_dict()},
        timing={
            "seconds": round(seconds, 4),
            "cells": measuring.n_cells,
            "computed": done.computed,
            "cells_per_second": round(measuring.n_cells / seconds, 2),
        },
        run=done.run,
        joins=tuple(multihop_table.joins(asked.answered, measured)),
        grids={str(number): measured.grid(number).sum(0).tolist() for number in CONFIGURATIONS},
    )


def plan_multihop(
    model: Model,
    relations: Sequence[Relation],
    *,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    **choices: Unpack[MultihopChoices],
) -> list[Plan]:
    """What `multihop` would patch, a plan for each group of cells that is kept together.

    Which queries are patched depends on the model's own answers, so these are asked first.

    Args:
        model: the model.
        relations: joined to queries.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done of the model's own answers.
        choices: see `MultihopChoices`.

    Example:
        >>> import bathyscope
        >>> from bathyscope.facts import own_relation
        >>> from bathyscope.studies import plan_multihop
        >>> joined = [own_relation("city-country"), own_relation("country-language")]
        >>> plans = plan_multihop(bathyscope.load(), joined, queries=4, layers="5", new_tokens=2, every=True)
        >>> len(plans)
        1
    """
    asked = _Asked.of(model, relations, choices, progress)
    measuring = Measuring(model, asked.groups(), budget)
    return [measuring.plan(group) for group in measuring.groups]


def _parts(portions: Sequence[PatchPortion | ControlPortion]) -> Iterator[list[PatchPortion | ControlPortion]]:
    """Portions in order, as many together as are about `CELLS_AT_ONCE`."""
    part: list[PatchPortion | ControlPortion] = []
    for portion in portions:
        if part and sum(one.n_cells for one in part) + portion.n_cells > CELLS_AT_ONCE:
            yield part
            part = []
        part.append(portion)
    yield part


def _measured(asked: _Asked, portions: Sequence[PatchPortion | ControlPortion], values: Sequence[Any]) -> Measured:
    patches, controls = {}, {}
    for portion, found in zip(portions, values, strict=True):
        if isinstance(portion, PatchPortion):
            patches[portion.configuration, portion.query.query] = found
        else:
            controls[portion.query.query] = found
    return Measured(asked.patched, asked.others(), patches, controls)


def _notes(asked: _Asked) -> Iterator[str]:
    n, layers = len(asked.queries), asked.layers
    hops = [one.knows_hops for one in asked.answered]
    cells = len(layers.sources) * len(layers.targets)
    yield (
        f"of {n} queries, seed {layers.seed}, the model answers the first hop alone of {sum(hop for hop, _ in hops)}, "
        f"the second of {sum(hop for _, hop in hops)}, both of {sum(all(one) for one in hops)}; "
        + ("all are patched" if asked.choices.get("every") else "only these are patched, as in the paper")
    )
    vanilla = sum(one.right(one.vanilla) for one in asked.answered)
    thought = sum(one.right(one.chain_of_thought) for one in asked.answered)
    yield f"of all {n} queries vanilla answers {vanilla}, chain of thought {thought}"
    yield (
        f"right: the answer stands in the {layers.new_tokens} tokens that the model writes greedily (20 in the paper), "
        "both normalized (NFKC, case folded, letters and digits only), at the borders of words"
    )
    yield (
        f"patchscope: at the one of {cells} cells that was best on the other half of the subjects; oracle: at any of "
        "them, as the paper counts, which grows with their number. corrected and broken are against vanilla; an oracle "
        "that also keeps what vanilla has would break none"
    )
    yield (
        "configuration 1: the whole query, its first hop's words hidden from its second's; 2: each hop's words as a "
        "prompt of its own. statement: the query with ' is' behind it, unpatched"
    )
    yield (
        "other: the same patch from a query with the same second hop and another answer; random: a Gaussian vector at "
        "the norm of what it replaces; both chosen alike; unpatched: the second hop's words alone"
    )
