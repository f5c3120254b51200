"""Attributions: what gradients, and the last linear step, say of each part of a model, beside what is measured."""

from bathyscope.attribution.cuts import CompletenessResult, PairSum, completeness
from bathyscope.attribution.direct import direct_logit_attribution
from bathyscope.attribution.edge_result import Edge, EdgeResult
from bathyscope.attribution.edges import edge_attribution
from bathyscope.attribution.integrated import integrated_gradients
from bathyscope.attribution.linearised import LinearisedPath, linearised_path_patching
from bathyscope.attribution.options import AttributionOptions
from bathyscope.attribution.patching import attribution_patching
from bathyscope.attribution.result import AttributionResult, Node
from bathyscope.causal.pairs import Pair, Pairs, load_pairs, pair

__all__ = [
    "AttributionOptions",
    "AttributionResult",
    "CompletenessResult",
    "Edge",
    "EdgeResult",
    "LinearisedPath",
    "Node",
    "Pair",
    "PairSum",
    "Pairs",
    "attribution_patching",
    "completeness",
    "direct_logit_attribution",
    "edge_attribution",
    "integrated_gradients",
    "linearised_path_patching",
    "load_pairs",
    "pair",
]
