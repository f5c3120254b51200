"""Circuits: which features cause a decision, proved on prompts that they were not found on, and put into words."""

from bathyscope.circuits.attribution_graphs import (
    AttributionGraph,
    Likeliest,
    attribution_graph,
    check_graph_json,
    to_neuronpedia,
)
from bathyscope.circuits.attributions import Attributions, feature_attributions
from bathyscope.circuits.checking import check_circuit
from bathyscope.circuits.circuit import Circuit, Stage, mean_parts
from bathyscope.circuits.circuit_result import CircuitResult, open_circuit
from bathyscope.circuits.edges import Edge, feature_edges
from bathyscope.circuits.edit_result import Change, EditResult
from bathyscope.circuits.editing import Editor, edit_features
from bathyscope.circuits.effects import Comparison, feature_effects
from bathyscope.circuits.ends import Ends
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Directions, Feature, Gates, Latents, Parts, Units
from bathyscope.circuits.finding import FindChoices, find_circuit
from bathyscope.circuits.labels import label_circuit
from bathyscope.circuits.masks import MaskSettings, learned_circuit, ranked_circuit
from bathyscope.circuits.nodes import Node, circuit_nodes
from bathyscope.circuits.pair_files import Asked, examples_of, read_examples
from bathyscope.circuits.sums import site_sums
from bathyscope.circuits.validation import Faithfulness, Judge

__all__ = [
    "Asked",
    "AttributionGraph",
    "Attributions",
    "Basis",
    "Change",
    "Circuit",
    "CircuitResult",
    "Comparison",
    "Directions",
    "Edge",
    "EditResult",
    "Editor",
    "Ends",
    "Examples",
    "Faithfulness",
    "Feature",
    "FindChoices",
    "Gates",
    "Judge",
    "Latents",
    "Likeliest",
    "MaskSettings",
    "Node",
    "Parts",
    "Stage",
    "Units",
    "attribution_graph",
    "check_circuit",
    "check_graph_json",
    "circuit_nodes",
    "edit_features",
    "examples_of",
    "feature_attributions",
    "feature_edges",
    "feature_effects",
    "find_circuit",
    "label_circuit",
    "learned_circuit",
    "mean_parts",
    "open_circuit",
    "ranked_circuit",
    "read_examples",
    "site_sums",
    "to_neuronpedia",
]
