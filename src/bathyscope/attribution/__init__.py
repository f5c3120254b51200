"""Attributions: what gradients, and the last linear step, say of each part of a model, beside what is measured."""

from bathyscope.attribution.cuts import CompletenessResult, PairSum, completeness
from bathyscope.attribution.direct import direct_logit_attribution
from bathyscope.attribution.edge_result import Edge, EdgeResult
from bathyscope.attribution.edges import edge_attribution
from bathyscope.attribution.integrated import integrated_gradients
from bathyscope.attribution.options import AttributionOptions
from bathyscope.attribution.pairs import Pair, Pairs, load_pairs, pair
from bathyscope.attribution.patching import attribution_patching
from bathyscope.attribution.result import AttributionResult, Node

__all__ = [
    "AttributionOptions",
    "AttributionResult",
    "CompletenessResult",
    "Edge",
    "EdgeResult",
    "Node",
    "Pair",
    "PairSum",
    "Pairs",
    "attribution_patching",
    "completeness",
    "direct_logit_attribution",
    "edge_attribution",
    "integrated_gradients",
    "load_pairs",
    "pair",
]
