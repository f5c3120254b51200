"""Circuits: which features cause a decision, proved on prompts that they were not found on, and put into words."""

from bathyscope.circuits.attribution_graphs import (
    AttributionGraph,
    Likeliest,
    attribution_graph,
    check_graph_json,
    to_neuronpedia,
)
from bathyscope.circuits.circuit import Circuit, Stage, mean_parts
from bathyscope.circuits.edges import Edge, feature_edges
from bathyscope.circuits.effects import Comparison, Effects, effects_in, feature_effects, measured_effects
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Directions, Feature, Gates, Latents, Parts, Units
from bathyscope.circuits.masks import MaskSettings, learned_circuit, ranked_circuit
from bathyscope.circuits.validation import Faithfulness, Judge

__all__ = [
    "AttributionGraph",
    "Basis",
    "Circuit",
    "Comparison",
    "Directions",
    "Edge",
    "Effects",
    "Examples",
    "Faithfulness",
    "Feature",
    "Gates",
    "Judge",
    "Latents",
    "Likeliest",
    "MaskSettings",
    "Parts",
    "Stage",
    "Units",
    "attribution_graph",
    "check_graph_json",
    "effects_in",
    "feature_edges",
    "feature_effects",
    "learned_circuit",
    "mean_parts",
    "measured_effects",
    "ranked_circuit",
    "to_neuronpedia",
]
