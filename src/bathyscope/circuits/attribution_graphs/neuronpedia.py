"""Attribution graphs as JSON that Neuronpedia and circuit-tracer's page show, and a check of such files.

The schema is Neuronpedia's `graph-schema.json` (version 1, features numbered by Cantor pairing). Errors are named
`{layer}_-1_{position}`: with circuit-tracer 0.4.1's `0_{layer}_{position}` an error had the name of a feature.
Constants have no kind there, and are left out.
"""

import math
from datetime import datetime
from typing import Any, Final

import torch

from bathyscope.circuits.attribution_graphs.graph import CONSTANTS, AttributionGraph, Node
from bathyscope.errors import UsageError

FEATURE, ERROR, EMBEDDING, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
TYPES: Final = {"feature": FEATURE, "error": ERROR, "token": EMBEDDING, "position": EMBEDDING, "logit": LOGIT}
"""What each kind of node is called there; transcoders of one layer are called as those of several."""


def cantor_pair(layer: int, latent: int) -> int:
    """One number for two from 0.

    Example:
        >>> from bathyscope.circuits.attribution_graphs import cantor_pair
        >>> cantor_pair(23, 5458)
        15028879
    """
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def cantor_unpair(number: int) -> tuple[int, int]:
    """The two numbers of `cantor_pair`, exactly, however large.

    Example:
        >>> from bathyscope.circuits.attribution_graphs import cantor_unpair
        >>> cantor_unpair(15028879)
        (23, 5458)
    """
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    latent = number - diagonal * (diagonal + 1) // 2
    return diagonal - latent, latent


def to_neuronpedia(
    graph: AttributionGraph,
    slug: str,
    *,
    scan: str | None = None,
    source_set: str | None = None,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> dict[str, Any]:
    """A graph as JSON values in Neuronpedia's schema, pruned.

    Args:
        graph: the graph, whole.
        slug: what it is called there.
        scan: the model's id there, such as "gemma-2-2b"; the model's own name unless said.
        source_set: where Neuronpedia has dashboards of these features, if it has.
        node_threshold: of all nodes' influence, as `AttributionGraph.prune` has it.
        edge_threshold: of the influence along edges, as there.

    Returns:
        Nodes with their cumulative influence: the share of all influence that the nodes down to this one have.

    Raises:
        UsageError: no name, or a threshold that is no share.

    Example:
        >>> import json, torch
        >>> from bathyscope.circuits.attribution_graphs import AttributionGraph, Node, check_graph_json, to_neuronpedia
        >>> nodes = Node("token", None, 0, 65, label="A"), Node("logit", None, 0, 66, 0.5, "B")
        >>> one = torch.tensor([0.0, 2.0])
        >>> edges = torch.tensor([0, 0, 1]), torch.tensor([0]), torch.tensor([2.0])
        >>> source = {"models": [{"model": "a", "n_layers": 4}], "spec": {}, "created": "2025-01-01T00:00:00+00:00"}
        >>> graph = AttributionGraph("A", ("A",), nodes, *edges, one * 0, one, one, source, {})
        >>> data = to_neuronpedia(graph, "small")
        >>> check_graph_json(json.loads(json.dumps(data)))
        >>> data["links"]
        [{'source': 'E_65_0', 'target': '5_66_0', 'weight': 2.0}]
    """
    if not slug:
        raise UsageError("an empty slug was given", "a name for the graph", 'slug="capital-of-france"')
    pruned = graph.prune(node_threshold, edge_threshold)
    model, asked = graph.provenance["models"][0], graph.provenance["spec"]
    version = str(graph.provenance.get("versions", {}).get("bathyscope"))
    kept = [index for index, node in enumerate(pruned.nodes) if node.kind not in CONSTANTS]
    names = {index: _node_id(pruned.nodes[index], model["n_layers"]) for index in kept}
    cumulative = _cumulative(graph, pruned)
    edges = zip(pruned.sources.tolist(), pruned.targets.tolist(), pruned.weights.tolist(), strict=True)
    return {
        "metadata": {
            "slug": slug,
            "scan": scan or str(model["model"]),
            "prompt": graph.prompt,
            "prompt_tokens": list(graph.tokens),
            "transcoder_list": [str(one["fingerprint"]) for one in asked.get("coders", ())],
            "node_threshold": node_threshold,
            "schema_version": 1,
            "info": {
                "generator": {"name": "bathyscope", "version": version},
                "create_time_ms": int(datetime.fromisoformat(graph.provenance["created"]).timestamp() * 1000),
            },
            "generation_settings": {"max_feature_nodes": asked.get("max_features")},
            "pruning_settings": {"node_threshold": node_threshold, "edge_threshold": edge_threshold},
            **({"feature_details": {"neuronpedia_source_set": source_set}} if source_set else {}),
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_node(pruned.nodes[index], names[index], cumulative[index]) for index in kept],
        "links": [
            {"source": names[source], "target": names[target], "weight": weight}
            for source, target, weight in edges
            if source in names and target in names
        ],
    }


def _cumulative(graph: AttributionGraph, pruned: AttributionGraph) -> list[float]:
    """For each node that is left the share of all influence that the nodes down to it have."""
    ordered, order = graph.influence.sort(descending=True, stable=True)
    sums = ordered.cumsum(0) / ordered.sum().clamp_min(torch.finfo(torch.float64).tiny)
    found = torch.zeros_like(sums).scatter_(0, order, sums)
    by_name = dict(zip(graph.nodes, found.tolist(), strict=True))
    return [min(by_name[node], 1.0) for node in pruned.nodes]


def _node_id(node: Node, n_layers: int) -> str:
    layer = {"logit": str(n_layers + 1), "token": "E", "position": "E"}.get(node.kind, str(node.layer))
    return f"{layer}_{-1 if node.index is None else node.index}_{node.position}"


def _node(node: Node, name: str, cumulative: float) -> dict[str, Any]:
    assert node.position is not None
    layer = name.split("_")[0]
    found: dict[str, Any] = {
        "node_id": name,
        "layer": layer,
        "ctx_idx": node.position,
        "feature_type": TYPES[node.kind],
        "feature": -1,
        "jsNodeId": f"{layer}_{-1 if node.index is None else node.index}-{node.position}",
        "clerp": "",
        "influence": cumulative,
        "activation": None,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
    }
    if node.kind == "feature":
        assert node.layer is not None and node.index is not None
        own = {"feature": cantor_pair(node.layer, node.index), "activation": node.value}
        return found | own | {"jsNodeId": f"{layer}_{node.index}-0"}
    if node.kind == "logit":
        # A difference is no token, and has no probability.
        shown = f'Output "{node.label}"' + ("" if node.value is None else f" (p={node.value:.3f})")
        own = {"feature": node.index, "clerp": shown, "token_prob": node.value or 0.0, "is_target_logit": True}
        return found | own | {"influence": None, "jsNodeId": f"L_{node.index}-{node.position}"}
    if node.kind == "error":
        return found | {"clerp": f"error of MLP {node.layer} at {node.label!r}"}
    label = f"position {node.position}" if node.kind == "position" else node.label
    return found | {"feature": node.position, "clerp": label}
