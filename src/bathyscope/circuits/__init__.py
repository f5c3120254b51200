"""Circuits: which features cause a decision, proved on prompts that they were not found on, and put into words."""

from bathyscope.circuits.attribution_graphs import (
    AttributionGraph,
    Likeliest,
    attribution_graph,
    check_graph_json,
    to_neuronpedia,
)
from bathyscope.circuits.attributions import Attributions, attributions_in, feature_attributions
from bathyscope.circuits.circuit import Circuit, Stage, mean_parts
from bathyscope.circuits.edges import Edge, feature_edges
from bathyscope.circuits.effects import Comparison, feature_effects
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Directions, Feature, Gates, Latents, Parts, Units
from bathyscope.circuits.masks import MaskSettings, learned_circuit, ranked_circuit
from bathyscope.circuits.validation import Faithfulness, Judge

__all__ = [
    "AttributionGraph",
    "Attributions",
    "Basis",
    "Circuit",
    "Comparison",
    "Directions",
    "Edge",
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
    "attributions_in",
    "check_graph_json",
    "feature_attributions",
    "feature_edges",
    "feature_effects",
    "learned_circuit",
    "mean_parts",
    "ranked_circuit",
    "to_neuronpedia",
]
