"""Checking: a circuit that was found, on pairs that it was not found on."""

from collections.abc import Mapping
from pathlib import Path

from bathyscope.circuits.circuit import Ablation, Stage, mean_parts
from bathyscope.circuits.circuit_result import CircuitResult
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.pair_files import examples_of
from bathyscope.circuits.placing import coder_site, latent_bases
from bathyscope.circuits.validation import Faithfulness, Judge
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sae import SparseCoder


def check_circuit(
    model: Model,
    found: CircuitResult,
    coders: Mapping[Path, SparseCoder],
    examples: Examples,
    *,
    ablation: Ablation = "mean",
    seed: int = 0,
) -> Faithfulness:
    """How a circuit does on other pairs. The mean that stands in for what is ablated is that of its own pairs.

    Args:
        model: the model that it was found in.
        found: the circuit.
        coders: those that it was found with.
        examples: pairs, as long as its own.
        ablation: what is put in the place of the rest: "mean", "resample" or "zero".
        seed: of what is drawn.

    Raises:
        UsageError: coders of other sites, or pairs of another length.
    """
    if examples.length != len(found.positions):
        raise UsageError(
            f"pairs of {examples.length} tokens were given ({examples.pairs[0].clean.numbered()})",
            f"the circuit was found on pairs of {len(found.positions)} ({', '.join(found.positions)})",
            "pairs of that length",
        )
    by_site = {coder_site(model, coder): coder for coder in coders.values()}
    missing = [site for site in found.circuit.sites if model.site(site) not in by_site]
    if missing:
        raise UsageError(
            f"coders of {', '.join(map(str, by_site))} were given", f"the circuit has features at {missing[0]}, too"
        )
    bases = latent_bases(model, [by_site[model.site(site)] for site in found.circuit.sites])
    means = mean_parts(examples_of(model, found.pairs), bases) if ablation != "resample" else None
    stage = Stage.of(examples, bases, ablation=ablation, means=means, seed=seed)
    return Judge.of(stage).judge(found.circuit, seed=seed)
