"""Circuits that nobody found: a few features with made-up figures, for tests that need no model."""

import random
from collections.abc import Sequence
from typing import Any

from bathyscope.circuits import Circuit, CircuitResult, Edge, Feature, Node

SITES = ("resid_post.2", "resid_post.5", "resid_post.9")
TOKENS = ("<s>", "The", " (16 tokens)", " near", " the", " (9 tokens)")
SOURCE = {
    "models": [{"model": "a/model", "n_layers": 12}],
    "spec": {},
    "versions": {"bathyscope": "0.1.0"},
    "created": "2026-01-01T00:00:00+00:00",
}
READING = {
    "rule": "after a plural noun",
    "precision": 0.9,
    "recall": 0.7,
    "f1": 0.79,
    "control_f1": 0.1,
    "density": 0.012,
    "label_from": "rule",
    "promoted": [[" are", 1.5], [" were", 1.25]],
    "suppressed": [[" is", -1.5]],
    "examples": [{"tokens": ["the", " old", " dogs"], "activations": [0, 0.5, 3.0], "peak": 2}],
    "description": {"text": "many things", "score": 0.6, "control": 0.2, "n_controls": 9, "says_something": True},
}


def circuit_by_hand(
    n_nodes: int = 12, n_edges: int = 24, *, sites: Sequence[str] = SITES, word: str = " dogs", **parts: Any
) -> CircuitResult:
    """A circuit in which errors, both signs, nodes with and without readings, and edges to the metric all are.

    Args:
        n_nodes: how many features.
        n_edges: how many edges at most.
        sites: from below.
        word: what each latent promotes, and its label ends with.
        parts: fields that are given.
    """
    draw = random.Random(n_nodes)
    features = [Feature(sites[0], 2, None), Feature(sites[-1], 5, 7)]
    while len(features) < n_nodes:
        one = Feature(draw.choice(sites), draw.choice((2, 5)), draw.randrange(4608))
        features += [one] if one not in features else []
    nodes = [_node(one, number, draw, word) for number, one in enumerate(features)]
    nodes.sort(key=lambda one: -abs(one.attribution))
    pairs = [
        (one, other)
        for one in features
        for other in features
        if sites.index(one.site) < sites.index(other.site) and one.position <= other.position
    ]
    ends = [
        *draw.sample(pairs, min(len(pairs), n_edges - min(len(features), n_edges // 4))),
        *((one, None) for one in features),
    ]
    measured = {
        "rule": "largest attributions", "pairs": "the same pairs", "faithfulness": 1.0, "low": 0.9, "high": 1.1,
        "accuracy": 1.0, "completeness": 0.1, "n": 60, "errors": "nodes", "size": n_nodes, "distance": 0.3,
    }  # fmt: skip
    fields: dict[str, Any] = {
        "circuit": Circuit(sites, features),
        "nodes": tuple(nodes),
        "edges": tuple(Edge(one, other, draw.gauss(0.3, 1)) for one, other in ends[:n_edges]),
        "positions": TOKENS,
        "measured": measured,
        "tried": (),
        "sums": (),
        "pairs": (),
        "coders": {},
        "provenance": SOURCE,
    }
    return CircuitResult(**fields | parts)


def _node(one: Feature, number: int, draw: random.Random, word: str) -> Node:
    attribution = draw.choice((1, -1)) * (0.1 + draw.random())
    promotes = () if one.index is None else (word, " were", " have")
    return Node(
        feature=one,
        token=TOKENS[one.position],
        attribution=attribution,
        effect=0.8 * attribution,
        clean=draw.random(),
        corrupted=draw.random(),
        by_kind={"singular": draw.random(), "plural": draw.random()},
        separates=0.5 + draw.random() / 2,
        promotes=promotes,
        suppresses=promotes[::-1],
        label=f"promotes {word!r}" if promotes else "what no feature explains",
        reading=READING if number % 2 and promotes else {},
    )
