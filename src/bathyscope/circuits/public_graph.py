"""A circuit as JSON in the schema of public graph viewers, the one that `to_neuronpedia` writes for one prompt.

That schema is made for transcoders and one prompt, a circuit is found at any sites and on many pairs. So:

- A feature, whatever its basis, has the type of a transcoder's feature. Its layer is its site's block; where two sites
  share a block, or one is the embedding, all sites are numbered from below instead, and `info.description` says which.
- The error of a site at a position has the type of an MLP's error: what the features there leave unexplained.
- The logit difference is one target above the last position. It is no token, and so its probability is 0.
- Tokens are the prompt's, or how many different ones the pairs have there. They are no nodes: a circuit says nothing
  of what tokens add, and a token without links would look as if it added nothing.
- A link's weight is the edge's, in units of the logit difference. `influence` is the share of all absolute attribution
  that the nodes down to this one have; `activation` the mean in the clean prompts.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from bathyscope.circuits.attribution_graphs.neuronpedia import ERROR, FEATURE, LOGIT, cantor_pair
from bathyscope.circuits.edges import Edge, site_order
from bathyscope.circuits.features import Feature
from bathyscope.circuits.nodes import Node
from bathyscope.sites import Site

DIFFERENCE: Final = "right less wrong answer"


def circuit_graph_json(
    nodes: Sequence[Node], edges: Sequence[Edge], positions: Sequence[str], slug: str, source: Mapping[str, Any]
) -> dict[str, Any]:
    """A circuit as JSON values, in the order of its nodes and edges; the logit difference is the last node.

    Args:
        nodes: the circuit's.
        edges: between them, and to the logit difference.
        positions: what stands at each position.
        slug: what the graph is called.
        source: the provenance of the result.
    """
    sites = sorted({one.feature.site for one in nodes}, key=site_order)
    layers = _layers(sites)
    last = max((one.feature.position for one in nodes), default=0) if not positions else len(positions) - 1
    end = f"{max(layers.values(), default=0) + 1}_0_{last}"
    names = {one.feature: _name(one.feature, layers) for one in nodes}
    influences = _influences(nodes)
    shown = ", ".join(f"{number}: {site}" for site, number in layers.items())
    created = source.get("created")
    return {
        "metadata": {
            "slug": slug,
            "scan": str(source["models"][0]["model"]),
            "prompt": "".join(positions),
            "prompt_tokens": list(positions),
            "schema_version": 1,
            "info": {
                "description": f"a feature circuit; weights are shares of a logit difference; layers are {shown}",
                "generator": {"name": "bathyscope", "version": str(source.get("versions", {}).get("bathyscope"))},
                **({"create_time_ms": int(datetime.fromisoformat(created).timestamp() * 1000)} if created else {}),
            },
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [
            *(_node(one, names[one.feature], layers, influences[one.feature]) for one in nodes),
            _record(end, LOGIT, 0, f'Output "{DIFFERENCE}"') | {"is_target_logit": True},
        ],
        "links": [
            {
                "source": names[one.source],
                "target": end if one.target is None else names[one.target],
                "weight": one.weight,
            }
            for one in edges
        ],
    }


def _layers(sites: Sequence[str]) -> dict[str, int]:
    """The number that stands for each site."""
    blocks = [Site.parse(site).layer for site in sites]
    if len(set(blocks)) == len(blocks) and all(block is not None and block >= 0 for block in blocks):
        return {site: block for site, block in zip(sites, blocks, strict=True) if block is not None}
    return {site: number for number, site in enumerate(sites)}


def _name(one: Feature, layers: Mapping[str, int]) -> str:
    return f"{layers[one.site]}_{-1 if one.index is None else one.index}_{one.position}"


def _influences(nodes: Sequence[Node]) -> dict[Feature, float]:
    """The share of all absolute attribution that the nodes down to each have."""
    ordered = sorted(nodes, key=lambda one: -abs(one.attribution))
    total, so_far, found = sum(abs(one.attribution) for one in nodes) or 1.0, 0.0, {}
    for one in ordered:
        so_far += abs(one.attribution)
        found[one.feature] = min(1.0, so_far / total)
    return found


def _node(one: Node, name: str, layers: Mapping[str, int], influence: float) -> dict[str, Any]:
    feature = one.feature
    own = {"influence": influence, "activation": one.clean}
    if feature.index is None:
        return _record(name, ERROR, -1, f"error of {feature.site} at {one.token!r}") | own
    number = cantor_pair(layers[feature.site], feature.index)
    return _record(name, FEATURE, number, f"{one.label} ({feature.site}/{feature.index})") | own


def _record(name: str, kind: str, feature: int, label: str) -> dict[str, Any]:
    layer, index, position = name.split("_")
    return {
        "node_id": name,
        "layer": layer,
        "ctx_idx": int(position),
        "feature_type": kind,
        "feature": feature,
        "jsNodeId": f"{layer}_{index}-{position if kind != FEATURE else 0}",
        "clerp": label,
        "influence": None,
        "activation": None,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
    }
