"""Attribution graphs: what a prompt's features add to one another and to logits (Ameisen et al. 2025)."""

from bathyscope.circuits.attribution_graphs.graph import AttributionGraph, Node
from bathyscope.circuits.attribution_graphs.graph_file import check_graph_json
from bathyscope.circuits.attribution_graphs.logits import Likeliest
from bathyscope.circuits.attribution_graphs.neuronpedia import cantor_pair, cantor_unpair, to_neuronpedia
from bathyscope.circuits.attribution_graphs.scores import Explained
from bathyscope.circuits.attribution_graphs.tracing import attribution_graph

__all__ = [
    "AttributionGraph",
    "Explained",
    "Likeliest",
    "Node",
    "attribution_graph",
    "cantor_pair",
    "cantor_unpair",
    "check_graph_json",
    "to_neuronpedia",
]
