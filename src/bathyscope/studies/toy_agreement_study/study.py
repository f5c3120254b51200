"""The toy of the feature-circuit post: a network that lets the verb agree, its sparse coder, and the graph of both.

The post (Formulation of Feature Circuits with Sparse Autoencoders in LLM, Towards Data Science, February 2025) draws
edges by how active their nodes are. Here an edge carries what it does to the verb.
"""

import time
from collections.abc import Iterator
from typing import Final

import torch

from bathyscope.errors import UsageError
from bathyscope.results import provenance
from bathyscope.studies.toy_agreement_study.building import agreement_graph
from bathyscope.studies.toy_agreement_study.graph import FAINT, Graph
from bathyscope.studies.toy_agreement_study.ranking import rankings
from bathyscope.studies.toy_agreement_study.result import ToyAgreementResult
from bathyscope.studies.toy_agreement_study.sentences import NOISE, VERBS, drawn_sentences
from bathyscope.studies.toy_agreement_study.toy import Toy

LATENTS, MOST_LATENTS = 6, 64
POOR: Final = 0.1
"""FVU from which on a note warns of the coder."""


def toy_agreement(
    *,
    seed: int = 0,
    latents: int | None = None,
    verb: str = "run",
    clean: str = "singular",
    corrupted: str = "plural",
    steps: int = 100,
    by_hand: bool = False,
) -> ToyAgreementResult:
    """Train the toy's network and its sparse coder, and measure their graph for a pair of inputs.

    Args:
        seed: draws sentences' noise, held-out nouns and first weights.
        latents: how many the coder has; 6 unless given.
        verb: "runs" or "run": the metric is its logit less the other's.
        clean: "singular" or "plural" (without noise), or one of the sentences.
        corrupted: the same, whose activations are written into the clean run.
        steps: points between both for integrated gradients.
        by_hand: take the worked example, whose weights were set by hand, and train nothing.

    Raises:
        UsageError: another verb, input or number of latents.

    Example:
        >>> from bathyscope.studies import toy_agreement
        >>> result = toy_agreement(by_hand=True)
        >>> [(node.name, node.effect) for node in result.graph.column("latents")]
        [('F0', 4.0), ('F1', 2.0), ('F2', 0.0), ('error', 0.0)]
    """
    if verb not in VERBS:
        raise UsageError(f"the verb {verb!r} was given", "the network knows runs and run", "--verb run")
    if by_hand and latents is not None:
        raise UsageError(
            f"{latents} latents were given", "the coder that was made by hand has three", "one or the other"
        )
    n_latents = LATENTS if latents is None else latents
    if not 1 <= n_latents <= MOST_LATENTS:
        raise UsageError(f"{latents} latents were given", f"from 1 to {MOST_LATENTS}", "--latents 6")
    if steps < 1:
        raise UsageError(f"{steps} steps were given", "at least one", "steps=100")
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    sentences = drawn_sentences(generator)
    inputs = [sentences.given(one) for one in (clean, corrupted)]
    toy = Toy.by_hand(sentences) if by_hand else Toy.trained(sentences, n_latents, generator)
    graph = agreement_graph(toy.network, toy.coder, *inputs, verb=verb, steps=steps)
    asked = {"seed": seed, "latents": toy.coder.n_latents, "verb": verb, "clean": clean, "corrupted": corrupted}
    asked |= {"steps": steps, "by_hand": by_hand, "noise": NOISE}
    return ToyAgreementResult(
        records=tuple(edge.record() for edge in graph.edges),
        provenance=provenance([{"model": f"{toy.name}, seed {seed}", "dtype": "float64"}], asked),
        notes=tuple(_notes(graph, toy.quality["fvu"])),
        timing={"seconds": round(time.perf_counter() - began, 4)},
        nodes=tuple(node.record() for node in graph.nodes),
        metric={
            "verb": verb,
            "clean": graph.clean,
            "corrupted": graph.corrupted,
            "total": graph.total,
            "clean_input": clean,
            "corrupted_input": corrupted,
        },
        rankings=tuple(rankings(graph)),
        network=toy.accuracy,
        coder=toy.quality,
        weights=toy.weights(),
    )


def _notes(graph: Graph, fvu: float) -> Iterator[str]:
    yield (
        "An effect is exact: one activation (or what one edge carries of it) of the corrupted input written into the "
        "clean run, the metric then less the clean one. Activations stand apart, and are no effects."
    )
    yield f"Shown as without effect: less than {FAINT:.0%} of the total. All figures are in --json and --out."
    summed = sum(node.effect for node in graph.column("latents"))
    yield f"Effects of latents and error add up to {summed:+.4g}; the total effect is {graph.total:+.4g}."
    if fvu > POOR:
        yield f"The coder is poor (FVU {fvu:.2f}): look at the effect of its error before you read its latents."
