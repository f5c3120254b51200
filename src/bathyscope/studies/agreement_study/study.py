"""agreement: the features that make a verb agree with its noun, found on some nouns and checked on others."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from bathyscope.circuits import (
    Basis,
    Circuit,
    Latents,
    MaskSettings,
    feature_attributions,
    feature_edges,
    ranked_circuit,
)
from bathyscope.circuits.circuit import Ablation, Errors
from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.facts.agreement import AGREEMENT_CASES, Case
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae import SparseCoder
from bathyscope.sites import Site
from bathyscope.studies.agreement_study.items import Items
from bathyscope.studies.agreement_study.nodes import node_records
from bathyscope.studies.agreement_study.result import AgreementResult
from bathyscope.studies.agreement_study.series import (
    NEURON_STEPS,
    Ground,
    coordinates,
    mean_directions,
    neurons,
)

SIZES: Final = (5, 10, 20, 50, 100, 200)
PENALTIES: Final = (0.03, 0.1, 0.3, 1.0)
WANTED: Final = (0.9, 1.1)
"""Where the faithfulness of the circuit that is shown has to lie, on the train pairs."""

ERRORS: Final = ("ablated", "nodes", "kept")
ABLATED: Final = {
    "mean": "its mean over the train pairs",
    "resample": "what it is in another pair's corrupted prompt",
    "zero": "zero",
}
Say = Callable[[str], Progress | None]
"""Called with what begins now; what it returns is told how far that is."""


@dataclass(frozen=True)
class AgreementChoices:
    """What is measured, besides the coders.

    Args:
        case: "simple", "nounpp", "within_rc" or "rc".
        train: pairs that circuits are found on.
        held_out: pairs of other nouns that they are checked on.
        errors: whether what no latent explains is ablated, counts as a feature ("nodes"), or is kept.
        ablation: what is put in the place of the rest: "mean", "resample" or "zero".
        sizes: of the circuits of largest attributions.
        penalties: of the learned masks.
        steps: points between the runs for integrated gradients.
        mask: how masks are learned.
        seed: decides what is drawn.
        compare: whether coordinates, neurons, random latents and directions are measured beside.
    """

    case: Case = "nounpp"
    train: int = 80
    held_out: int = 60
    errors: Errors = "ablated"
    ablation: Ablation = "mean"
    sizes: Sequence[int] = SIZES
    penalties: Sequence[float] = PENALTIES
    steps: int = 8
    mask: MaskSettings = field(default_factory=MaskSettings)
    seed: int = 0
    compare: bool = True

    def __post_init__(self) -> None:
        known = {"case": AGREEMENT_CASES, "errors": ERRORS, "ablation": tuple(ABLATED)}
        for name, values in known.items():
            if (given := vars(self)[name]) not in values:
                raise UsageError(f"{name}={given!r} was given", f"it is one of {', '.join(values)}", values[0])
        if not self.sizes or min(self.sizes) < 1 or any(one < 0 for one in self.penalties):
            raise UsageError(
                f"sizes={self.sizes} and penalties={self.penalties} were given", "sizes from 1, penalties from 0"
            )

    def spec(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **{name: value for name, value in vars(self).items() if name != "mask"},
            "sizes": list(self.sizes),
            "penalties": list(self.penalties),
            "mask": vars(self.mask),
        }


def agreement(
    model: Model,
    coders: Sequence[SparseCoder],
    choices: AgreementChoices | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    say: Say | None = None,
    stop: Stop | None = None,
) -> AgreementResult:
    """Find the circuit of an agreement in some sites' latents, and check it on nouns that it was not found on.

    Args:
        model: the model.
        coders: autoencoders of different sites, such as `resid_post.10` and `resid_post.19`; only these sites are cut.
        choices: what is measured.
        labels: a person's own labels, by feature ("resid_post.12/281@1", or without a position).
        say: called with each part of the work as it begins.
        stop: looked at between parts.

    Raises:
        UsageError: no coder, two of one site, a coder for other weights, or too few pairs that the model can be asked.
        CancelledError: `stop` said so.
    """
    began = time.perf_counter()
    choices, say = choices or AgreementChoices(), say or (lambda _: None)
    bases = _bases(model, coders)
    items = Items.of(model, choices.case, choices.train, choices.held_out, choices.seed)
    ground = Ground.of(
        "latents",
        items,
        bases,
        steps=choices.steps,
        ablation=choices.ablation,
        progress=say("attributions of latents"),
        stop=stop,
    )
    say("circuits of the largest attributions")
    records = [ground.everything()]
    for errors in ERRORS:
        records += ground.ranked(choices.sizes, errors)
    found: list[tuple[Circuit, dict[str, Any]]] = []
    for penalty in choices.penalties:
        say(f"a mask, penalty {penalty:g}")
        found += ground.learned([penalty], choices.errors, choices.mask, stop)
    records += [record for _, record in found]
    circuit, chosen = _chosen(ground, found, records, choices)
    if choices.compare:
        records += _compared(model, items, ground, choices, say, stop)
    say("edges and labels")
    nodes, compared = node_records(model, items, ground.attributions, circuit, labels or {})
    edges = (
        feature_edges(model, items.train, ground.attributions, sorted(circuit.features, key=str))
        if len(circuit)
        else ()
    )
    return AgreementResult(
        records=tuple(records),
        provenance=provenance(
            [model.provenance()],
            {**choices.spec(), "bases": {str(site): basis.spec() for site, basis in bases.items()}},
        ),
        notes=tuple(_notes(items, choices, compared.rank_correlation)),
        timing={"seconds": round(time.perf_counter() - began, 4)},
        nodes=tuple(nodes),
        edges=tuple(
            {"source": str(one.source), "target": None if one.target is None else str(one.target), "weight": one.weight}
            for one in edges
        ),
        sums=tuple(_sums(model, items, ground)),
        chosen=chosen,
        circuit=circuit.to_dict(),
        positions=items.train.positions(),
    )


def _bases(model: Model, coders: Sequence[SparseCoder]) -> dict[Site | str, Basis]:
    """A basis for each coder's site, from below to above."""
    found: dict[Site | str, Basis] = {}
    for coder in coders:
        site, _ = coder.check(model)
        if site in found:
            raise UsageError(f"two coders of {site} were given", "one for each site")
        found[site] = Latents(coder)
    if not found:
        raise UsageError("no coder was given", "at least one is needed", "bathyscope sae train")
    return dict(sorted(found.items(), key=lambda entry: (getattr(entry[0], "layer", 0), str(entry[0]))))


def _chosen(
    ground: Ground,
    learned: Sequence[tuple[Circuit, dict[str, Any]]],
    records: list[dict[str, Any]],
    choices: AgreementChoices,
) -> tuple[Circuit, dict[str, Any]]:
    """The smallest circuit that is faithful on the train pairs, else the one nearest to it; marked in its record."""
    candidates = [(circuit, record) for circuit, record in learned if len(circuit)]
    for record in records:
        if record["rule"] == "largest attributions" and record["errors"] == choices.errors:
            sites = ground.train.bases
            circuit = ranked_circuit(ground.attributions, record["size"], sites, errors=choices.errors)
            candidates.append((circuit, record))
    low, high = WANTED
    faithful = [one for one in candidates if low <= one[1]["train_faithfulness"] <= high]
    if faithful:
        found = min(faithful, key=lambda one: one[1]["size"])
    else:
        found = min(candidates, key=lambda one: abs(one[1]["train_faithfulness"] - 1))
    found[1]["shown"] = True
    return found


def _compared(
    model: Model, items: Items, ground: Ground, choices: AgreementChoices, say: Say, stop: Stop | None
) -> Iterator[dict[str, Any]]:
    """What the latents are compared with, at the same sizes and the same ablation."""
    say("random latents")
    yield from ground.drawn([size for size in choices.sizes if size <= 50], choices.seed)
    same: dict[str, Any] = {"ablation": choices.ablation, "stop": stop}
    sites = list(ground.train.bases)
    known: dict[str, Any] = {"steps": choices.steps, "known": ground.attributions, **same}
    say("coordinates and directions")
    raw = Ground.of("coordinates", items, coordinates(model, sites), **known)
    yield from raw.ranked(choices.sizes, "ablated")
    bases, features = mean_directions(model, items, ground.attributions)
    straight = Ground.of("directions", items, bases, **known)
    yield straight.record(Circuit(bases, features, "ablated"), "difference of means")
    units = Ground.of(
        "neurons", items, neurons(model, items.train), steps=NEURON_STEPS, progress=say("neurons"), **same
    )
    yield from units.ranked(choices.sizes, "ablated")


def _sums(model: Model, items: Items, ground: Ground) -> Iterator[dict[str, Any]]:
    """At each site what attributions add up to, and what one gradient alone would have said."""
    bases: dict[Site | str, Basis] = dict(ground.train.bases.items())
    single = feature_attributions(model, items.train, bases, method="attribution-patching")
    total = ground.attributions.totals
    for site in ground.attributions.by_site:
        sums = ground.attributions.sums(site)
        gaps = ((sums - total) / total.mean()).quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
        yield {
            "site": str(site),
            "total": float(total.mean()),
            "sum": float(sums.mean()),
            "gap": float(sums.mean() / total.mean() - 1),
            "gap_q10": float(gaps[0]),
            "gap_q50": float(gaps[1]),
            "gap_q90": float(gaps[2]),
            "one_gradient": float(single.sums(site).mean() / total.mean()),
            "error_share": ground.attributions.error_share(site),
        }


def _notes(items: Items, choices: AgreementChoices, rank: float | None) -> Iterator[str]:
    yield (
        f"{len(items.train)} pairs of train nouns, {len(items.held_out)} of held-out nouns ({choices.case}, seed "
        f"{choices.seed}); no noun of these stands in those. Figures are of the held-out pairs unless they say train."
    )
    yield (
        "faithfulness: (circuit - nothing) / (model - nothing), of mean logit differences; completeness: the same of "
        "all but the circuit. 1 and 0 are best; above 1 the circuit has lost what works against the answer."
    )
    yield (
        f"What is ablated becomes {ABLATED[choices.ablation]}; "
        "only the coders' sites are cut, and what lies between runs as it is."
    )
    if rank is not None:
        yield f"Rank correlation of attributions and effects of the shown circuit's features: {rank:.2f}."
    yield from items.left_out
