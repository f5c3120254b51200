"""Finding: the smallest circuit that does what the model does, of those that several rules propose.

Rules are the largest attributions, in several sizes, and learned masks, with several penalties. What is kept of the
search is everything: each circuit that was tried has its figures, and the one that is returned says why it is that one.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, get_args

from bathyscope.circuits.attributions import Attributions, Method, feature_attributions
from bathyscope.circuits.circuit import Ablation, Circuit, Errors, Stage
from bathyscope.circuits.circuit_result import CircuitResult
from bathyscope.circuits.edges import feature_edges
from bathyscope.circuits.ends import Baseline
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.masks import MaskSettings, learned_circuit, ranked_circuit
from bathyscope.circuits.nodes import circuit_nodes
from bathyscope.circuits.pair_files import Asked
from bathyscope.circuits.placing import coder_records, latent_bases
from bathyscope.circuits.sums import site_sums
from bathyscope.circuits.validation import Judge
from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae import SparseCoder

SIZES: Final = (5, 10, 20, 50, 100, 200)
PENALTIES: Final = (0.3, 1.0, 3.0)
"""Of learned masks: smaller ones leave hundreds of features in the agreement study, larger ones too few."""
FAITHFUL: Final = (0.9, 1.1)
"""Where the faithfulness of a circuit has to lie that is preferred for being small."""
RANKED: Final = "largest attributions"
ABLATED: Final = {
    "mean": "its mean over the corrupted prompts of the pairs that it was found on",
    "resample": "what it is in another pair's corrupted prompt",
    "zero": "zero",
}

HOW_FAITHFUL: Final = (
    "faithfulness: (circuit - nothing) / (model - nothing), of mean logit differences; completeness: the same of all "
    "but the circuit. 1 and 0 are best; above 1 the circuit has lost what works against the answer."
)

Say = Callable[[str], Progress | None]
"""Called with what begins now; what it returns is told how far that is."""


@dataclass(frozen=True)
class FindChoices:
    """How a circuit is looked for.

    Args:
        nodes: at most so many features; as few as are faithful unless said.
        errors: whether what no latent explains is ablated, counts as a feature ("nodes"), or is kept.
        ablation: what is put in the place of the rest: "mean", "resample" or "zero".
        sizes: of the circuits of largest attributions; those above `nodes` are left out, and `nodes` is among them.
        penalties: of the learned masks; none learns none.
        method: of the attributions.
        baseline: what attributions and effects compare the clean run with: "corrupted", "mean" or "zero".
        effects: of how many of the largest attributions of each site effects are measured, to tell how well they rank.
        steps: points between the runs for integrated gradients.
        mask: how masks are learned.
        seed: decides what is drawn.
    """

    nodes: int | None = None
    errors: Errors = "nodes"
    ablation: Ablation = "mean"
    sizes: Sequence[int] = SIZES
    penalties: Sequence[float] = PENALTIES
    method: Method = "integrated-gradients"
    baseline: Baseline = "corrupted"
    effects: int = 0
    steps: int = 8
    mask: MaskSettings = field(default_factory=MaskSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        known = {"errors": Errors, "ablation": Ablation, "method": Method, "baseline": Baseline}
        for name, values in ((name, get_args(one)) for name, one in known.items()):
            if (given := vars(self)[name]) not in values:
                raise UsageError(f"{name}={given!r} was given", f"it is one of {', '.join(values)}", values[0])
        if self.nodes is not None and self.nodes < 1:
            raise UsageError(f"nodes={self.nodes} was given", "at least 1", "nodes=20")
        if not self.sizes or min(self.sizes) < 1 or any(one < 0 for one in self.penalties):
            raise UsageError(
                f"sizes={self.sizes} and penalties={self.penalties} were given", "sizes from 1, penalties from 0"
            )

    def wanted_sizes(self) -> tuple[int, ...]:
        """The sizes of ranked circuits, with `nodes` for the largest."""
        if self.nodes is None:
            return tuple(sorted(set(self.sizes)))
        return tuple(sorted({size for size in self.sizes if size < self.nodes} | {self.nodes}))

    def spec(self) -> dict[str, Any]:
        """As JSON values."""
        lists = {"sizes": list(self.sizes), "penalties": list(self.penalties), "mask": vars(self.mask)}
        return {**vars(self), **lists}


def find_circuit(
    model: Model,
    asked: Asked,
    coders: Mapping[Path, SparseCoder],
    choices: FindChoices | None = None,
    *,
    kept: Path | None = None,
    say: Say | None = None,
    stop: Stop | None = None,
) -> CircuitResult:
    """Find the circuit of what tells the pairs' answers apart, in the latents of some sites.

    Args:
        model: the model.
        asked: the pairs (`read_examples`).
        coders: autoencoders of different sites, by where they lie; only these sites are cut.
        choices: how it is looked for.
        kept: a folder for what is finished; with the same choices, a search that was stopped goes on from there.
        say: called with each part of the work as it begins.
        stop: looked at between parts.

    Raises:
        UsageError: no coder, two of one site, or a coder for other weights.
        CancelledError: `stop` said so; what is finished is kept.

    Example:
        >>> import json, pathlib, tempfile, bathyscope, torch
        >>> from bathyscope.circuits import FindChoices, find_circuit, read_examples
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> model, path = bathyscope.load(), pathlib.Path(tempfile.mkdtemp()) / "pairs.jsonl"
        >>> pair = {"clean": "The boats", "corrupted": "The boat", "answer": " they", "wrong_answer": " it"}
        >>> _ = path.write_text(json.dumps(pair))
        >>> eye, zeros = torch.eye(model.d_model), torch.zeros(model.d_model)
        >>> site = model.site("resid_post.20")
        >>> coder = SparseCoder(eye, zeros, eye, zeros, KeepTop(300), site=site, target=site)
        >>> choices = FindChoices(nodes=30, penalties=(), steps=2)
        >>> found = find_circuit(model, read_examples(model, path), {pathlib.Path("eye"): coder}, choices)
        >>> len(found.nodes) <= 30, found.measured["n"]
        (True, 1)
    """
    began = time.perf_counter()
    choices, say = choices or FindChoices(), say or (lambda _: None)
    bases = latent_bases(model, coders.values())
    spec = {**choices.spec(), "bases": {str(site): basis.spec() for site, basis in bases.items()}}
    parts = Kept(kept, {**spec, "model": dict(model.provenance()), "pairs": list(asked.records())})
    attributions = feature_attributions(
        asked.examples,
        bases,
        method=choices.method,
        baseline=choices.baseline,
        steps=choices.steps,
        kept=parts,
        progress=say("attributions"),
        stop=stop,
    )
    stage = Stage.of(asked.examples, bases, ablation=choices.ablation, seed=choices.seed)
    judge = Judge.of(stage)
    found = []
    for rule, circuit in proposed(stage, attributions, choices, kept=parts, say=say, stop=stop):
        found.append((circuit, {"rule": rule, "errors": circuit.errors, **judge.judge(circuit).to_dict()}))
    circuit, measured = smallest_faithful(found, "faithfulness", most=choices.nodes)
    nodes, compared = circuit_nodes(attributions, sorted(circuit.features, key=str), progress=say("effects"))
    edges = feature_edges(attributions, list(circuit.features), progress=say("edges"))
    rank = None if compared is None else compared.rank_correlation
    return CircuitResult(
        circuit=circuit,
        nodes=nodes,
        edges=edges,
        positions=asked.examples.positions(),
        measured={**measured, "pairs": "the pairs that it was found on"},
        tried=tuple(record for _, record in found),
        sums=tuple(site_sums(attributions, effects=choices.effects, progress=say("sums"))),
        pairs=asked.records(),
        coders=coder_records(model, coders),
        provenance=provenance([model.provenance()], spec),
        notes=tuple(_notes(asked, choices, rank)),
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


def proposed(
    stage: Stage,
    attributions: Attributions,
    choices: FindChoices,
    *,
    kept: Kept | None = None,
    say: Say | None = None,
    stop: Stop | None = None,
) -> Iterator[tuple[str, Circuit]]:
    """Circuits of every rule, each with its rule in words."""
    for size in choices.wanted_sizes():
        circuit = ranked_circuit(attributions, size, stage.bases, errors=choices.errors)
        if len(circuit) == size:
            yield RANKED, circuit
    for penalty in choices.penalties:
        name = f"learned mask, penalty {penalty:g}"
        yield (
            name,
            learned_circuit(
                stage,
                attributions,
                penalty,
                choices.mask,
                errors=choices.errors,
                kept=kept,
                progress=say(name) if say else None,
                stop=stop,
            ),
        )


def smallest_faithful(
    candidates: Sequence[tuple[Circuit, dict[str, Any]]], name: str, *, most: int | None = None
) -> tuple[Circuit, dict[str, Any]]:
    """The smallest circuit that is faithful, else the one nearest to it.

    Args:
        candidates: circuits with their figures.
        name: which figure says how faithful they are.
        most: features that it may have.

    Raises:
        UsageError: none has so few, or any at all.
    """
    there = [one for one in candidates if len(one[0]) and (most is None or len(one[0]) <= most)]
    if not there:
        raise UsageError(
            f"no circuit of {'1' if most is None else f'1 to {most}'} features or more was found",
            "features change between the runs, or penalties leave some",
            "other sites, or a smaller penalty",
        )
    low, high = FAITHFUL
    if faithful := [one for one in there if low <= one[1][name] <= high]:
        return min(faithful, key=lambda one: len(one[0]))
    return min(there, key=lambda one: abs(one[1][name] - 1))


def _notes(asked: Asked, choices: FindChoices, rank: float | None) -> Iterator[str]:
    yield f"{HOW_FAITHFUL} Measure it on other pairs than it was found on: bathyscope circuit eval."
    low, high = FAITHFUL
    yield f"Kept is the smallest circuit whose faithfulness is {low} to {high} on these pairs, else the one nearest 1."
    yield f"What is ablated becomes {ABLATED[choices.ablation]}; only the coders' sites are cut."
    if rank is not None:
        yield f"Rank correlation of attributions and effects of the circuit's features: {rank:.2f}."
    yield from asked.left_out
