"""agreement: the features that make a verb agree with its noun, found on some nouns and checked on others."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

from bathyscope.circuits import (
    Circuit,
    CircuitResult,
    FindChoices,
    circuit_nodes,
    feature_attributions,
    feature_edges,
    ranked_circuit,
)
from bathyscope.circuits.attributions import Method
from bathyscope.circuits.circuit import Errors
from bathyscope.circuits.finding import ABLATED, HOW_FAITHFUL, RANKED, Say, smallest_faithful
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.placing import coder_records, latent_bases
from bathyscope.circuits.sums import site_sums
from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.facts.agreement import AGREEMENT_CASES, Case
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae import SparseCoder
from bathyscope.studies.agreement_study.items import Items
from bathyscope.studies.agreement_study.result import AgreementResult
from bathyscope.studies.agreement_study.series import (
    Ground,
    coordinates,
    mean_directions,
    neurons,
)

CHALLENGERS: Final[tuple[Method, ...]] = ("relp", "attribution-patching")
"""Attributions of one pass, beside those of several steps."""


@dataclass(frozen=True)
class AgreementChoices:
    """What is measured, besides the coders.

    Args:
        case: "simple", "nounpp", "within_rc" or "rc".
        train: pairs that circuits are found on.
        held_out: pairs of other nouns that they are checked on.
        compare: whether other attributions, coordinates, neurons, random latents and directions are measured beside.
        find: how circuits are looked for.
    """

    case: Case = "nounpp"
    train: int = 80
    held_out: int = 60
    compare: bool = True
    find: FindChoices = field(default_factory=lambda: FindChoices(errors="ablated"))

    def __post_init__(self) -> None:
        if self.case not in AGREEMENT_CASES:
            known = ", ".join(AGREEMENT_CASES)
            raise UsageError(f"case={self.case!r} was given", f"it is one of {known}", AGREEMENT_CASES[0])

    def spec(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.find.spec(), **{name: value for name, value in vars(self).items() if name != "find"}}


def agreement(
    model: Model,
    coders: Mapping[Path, SparseCoder],
    choices: AgreementChoices | None = None,
    *,
    kept: Path | None = None,
    say: Say | None = None,
    stop: Stop | None = None,
) -> AgreementResult:
    """Find the circuit of an agreement in some sites' latents, and check it on nouns that it was not found on.

    Args:
        model: the model.
        coders: autoencoders of different sites, such as `resid_post.10` and `resid_post.19`, by where they lie; only
            these sites are cut.
        choices: what is measured.
        kept: a folder for attributions and masks that are finished; with the same choices, a study that was stopped
            goes on from there.
        say: called with each part of the work as it begins.
        stop: looked at between parts.

    Raises:
        UsageError: no coder, two of one site, a coder for other weights, or too few pairs that the model can be asked.
        CancelledError: `stop` said so.
    """
    began = time.perf_counter()
    choices, say = choices or AgreementChoices(), say or (lambda _: None)
    bases = latent_bases(model, coders.values())
    find = choices.find
    items = Items.of(model, choices.case, choices.train, choices.held_out, find.seed)
    spec = {**choices.spec(), "bases": {str(site): basis.spec() for site, basis in bases.items()}}
    parts = Kept(kept, {**spec, "model": dict(model.provenance()), "pairs": list(items.records)})
    ground = Ground.of(
        "latents",
        items,
        bases,
        find,
        kept=parts,
        progress=say("attributions of latents"),
        stop=stop,
    )
    say("circuits of the largest attributions")
    records = [ground.everything()]
    for errors in get_args(Errors):
        records += ground.ranked(find.wanted_sizes(), errors)
    found: list[tuple[Circuit, dict[str, Any]]] = []
    for penalty in find.penalties:
        say(f"a mask, penalty {penalty:g}")
        found.append(ground.learned(penalty, find.errors, find.mask, parts, stop))
    records += [record for _, record in found]
    circuit, chosen = _chosen(ground, found, records, choices)
    if choices.compare:
        records += _compared(model, items, ground, choices, say, stop)
    whence = provenance([model.provenance()], spec)
    nodes, compared = circuit_nodes(
        ground.attributions, list(circuit.features), seen=items.held_out, progress=say("effects of features")
    )
    notes = tuple(_notes(items, choices, None if compared is None else compared.rank_correlation))
    timing = {"seconds": round(time.perf_counter() - began, 4)}
    shown = CircuitResult(
        circuit=circuit,
        nodes=nodes,
        edges=feature_edges(ground.attributions, list(circuit.features), progress=say("edges")),
        positions=items.train.positions(),
        measured={**chosen, "pairs": "held-out nouns"},
        tried=tuple(record for record in records if record["basis"] == ground.name),
        sums=tuple(site_sums(ground.attributions, effects=find.effects, progress=say("sums"))),
        pairs=items.records,
        coders=coder_records(model, coders),
        provenance=whence,
        notes=notes,
        timing=timing,
    )
    return AgreementResult(records=tuple(records), provenance=whence, notes=notes, timing=timing, found=shown)


def _chosen(
    ground: Ground,
    learned: Sequence[tuple[Circuit, dict[str, Any]]],
    records: Sequence[dict[str, Any]],
    choices: AgreementChoices,
) -> tuple[Circuit, dict[str, Any]]:
    """The smallest circuit that is faithful on the train pairs, else the one nearest to it; marked in its record."""
    candidates = list(learned)
    for record in records:
        if record["rule"] == RANKED and record["errors"] == choices.find.errors:
            sites = ground.train.bases
            circuit = ranked_circuit(ground.attributions, record["size"], sites, errors=choices.find.errors)
            candidates.append((circuit, record))
    for one, record in candidates:
        record["train_faithfulness"] = ground.train_faithfulness(one)
    found = smallest_faithful(candidates, "train_faithfulness", most=choices.find.nodes)
    found[1]["shown"] = True
    return found


def _compared(
    model: Model, items: Items, ground: Ground, choices: AgreementChoices, say: Say, stop: Stop | None
) -> Iterator[dict[str, Any]]:
    """What the latents are compared with, at the same sizes and the same ablation."""
    find, sizes = choices.find, choices.find.wanted_sizes()
    for method in CHALLENGERS:
        other = feature_attributions(
            items.train,
            ground.train.bases,
            method=method,
            baseline=find.baseline,
            progress=say(method),
            stop=stop,
        )
        yield from ground.ranked(sizes, find.errors, other)
    say("random latents")
    yield from ground.drawn([size for size in sizes if size <= 50], find.seed)
    sites, known = list(ground.train.bases), ground.attributions
    say("coordinates and directions")
    raw = Ground.of("coordinates", items, coordinates(model, sites), find, known=known, stop=stop)
    yield from raw.ranked(sizes, "ablated")
    bases, features = mean_directions(ground.attributions)
    straight = Ground.of("directions", items, bases, find, known=known, stop=stop)
    yield straight.record(Circuit(bases, features, "ablated"), "difference of means")
    # RelP ranks neurons at least as well as integrated gradients do, in one pass for the sites of all blocks.
    quick = replace(find, method="relp")
    units = Ground.of("neurons", items, neurons(model, items.train), quick, progress=say("neurons"), stop=stop)
    yield from units.ranked(sizes, "ablated", units.attributions)


def _notes(items: Items, choices: AgreementChoices, rank: float | None) -> Iterator[str]:
    yield (
        f"{len(items.train)} pairs of train nouns, {len(items.held_out)} of held-out nouns ({choices.case}, seed "
        f"{choices.find.seed}); no noun of these stands in those. Figures are of the held-out pairs unless they say "
        "train."
    )
    yield HOW_FAITHFUL
    yield (
        f"What is ablated becomes {ABLATED[choices.find.ablation]}; "
        "only the coders' sites are cut, and what lies between runs as it is."
    )
    if rank is not None:
        yield f"Rank correlation of attributions and effects of the shown circuit's features: {rank:.2f}."
    yield from items.left_out
