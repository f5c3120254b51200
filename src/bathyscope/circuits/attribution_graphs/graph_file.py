"""A check of graph files in Neuronpedia's schema: what is missing, of the wrong kind, or at odds with the rest."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from bathyscope.circuits.attribution_graphs.neuronpedia import EMBEDDING, ERROR, FEATURE, LOGIT, cantor_pair
from bathyscope.errors import StorageError

FEATURE_TYPES: Final = (FEATURE, ERROR, EMBEDDING, LOGIT, "lorsa", "lorsa error")
REQUIRED: Final[dict[str, dict[str, type | tuple[type, ...]]]] = {
    "": {"metadata": dict, "qParams": dict, "nodes": list, "links": list},
    "metadata": {"slug": str, "scan": str, "prompt": str, "prompt_tokens": list},
    "nodes": {
        "node_id": str,
        "layer": (str, int),
        "ctx_idx": int,
        "feature_type": str,
        "jsNodeId": str,
        "clerp": str,
        "feature": (int, type(None)),
    },
    "links": {"source": str, "target": str, "weight": (int, float)},
}


def check_graph_json(data: Any) -> None:
    """Refuse a graph file that is not in Neuronpedia's schema, or that says two things at once.

    Besides the schema: names are unique and say what the node's fields say, every link and every pinned node leads to
    a node, links lead from earlier layers to later ones, no two join the same nodes, and numbers are finite.

    Args:
        data: what the file holds, as JSON values.

    Raises:
        StorageError: naming the field, such as `links[3].source`.

    Example:
        >>> from bathyscope.circuits.attribution_graphs import check_graph_json
        >>> check_graph_json({"metadata": {}, "qParams": {}, "nodes": []})
        Traceback (most recent call last):
        ...
        bathyscope.errors.StorageError: links is missing; a graph file has a list there
    """
    _has("", "", data)
    metadata = data["metadata"]
    _has("metadata", "metadata", metadata)
    tokens = metadata["prompt_tokens"]
    for at, token in enumerate(tokens):
        if not isinstance(token, str):
            _refuse(f"metadata.prompt_tokens[{at}]", token, "a token's text")
    layers: dict[str, float] = {}
    for at, node in enumerate(data["nodes"]):
        where = f"nodes[{at}]"
        _has("nodes", where, node)
        name = node["node_id"]
        if name in layers:
            _refuse(f"{where}.node_id", name, "a name that no other node has")
        _check_node(where, node, len(tokens), metadata.get("schema_version"))
        layers[name] = _layer(where, node)
    _check_links(data["links"], layers)
    _check_pinned(data["qParams"], layers)


def _check_node(where: str, node: Mapping[str, Any], n_tokens: int, version: Any) -> None:
    kind, position, name = node["feature_type"], node["ctx_idx"], node["node_id"]
    if kind not in FEATURE_TYPES:
        _refuse(f"{where}.feature_type", kind, f"one of {', '.join(FEATURE_TYPES)}")
    if not 0 <= position < n_tokens:
        _refuse(f"{where}.ctx_idx", position, f"a position of the {n_tokens} prompt_tokens")
    for field, least, most in (("influence", 0.0, 1.0 + 1e-6), ("token_prob", 0.0, 1.0 + 1e-6)):
        value = node.get(field)
        if value is not None and not (_is_number(value) and least <= value <= most):
            _refuse(f"{where}.{field}", value, "a number from 0 to 1")
    if (value := node.get("activation")) is not None and not _is_number(value):
        _refuse(f"{where}.activation", value, "a finite number")
    if kind in (FEATURE, ERROR, EMBEDDING, LOGIT):
        _check_name(where, node)
    if kind == FEATURE and version == 1:
        layer, latent = (int(part) for part in name.split("_")[:2])
        if node["feature"] != cantor_pair(layer, latent):
            _refuse(
                f"{where}.feature", node["feature"], f"{cantor_pair(layer, latent)}, which pairs {layer} and {latent}"
            )


def _check_name(where: str, node: Mapping[str, Any]) -> None:
    name, kind = node["node_id"], node["feature_type"]
    match = re.fullmatch(r"(E|\d+)_(-?\d+)_(\d+)", name)
    if match is None:
        _refuse(f"{where}.node_id", name, "layer_number_position")
    layer, number, position = match.groups()
    if layer != str(node["layer"]) or int(position) != node["ctx_idx"]:
        # Before schema version 1 an error's name began with 0, and could be that of a feature.
        _refuse(f"{where}.node_id", name, f"{node['layer']}_..._{node['ctx_idx']}, as its layer and ctx_idx say")
    if (layer == "E") != (kind == EMBEDDING):
        _refuse(f"{where}.layer", node["layer"], '"E" for embeddings, and for nothing else')
    if (number == "-1") != (kind == ERROR) and kind != EMBEDDING:
        _refuse(f"{where}.node_id", name, "-1 in the place of the feature for errors, and for nothing else")


def _layer(where: str, node: Mapping[str, Any]) -> float:
    """Where in the order of layers a node stands."""
    kind, layer = node["feature_type"], str(node["layer"])
    if kind == EMBEDDING:
        return -1.0
    if kind == LOGIT:
        return math.inf
    if not layer.isdecimal():
        _refuse(f"{where}.layer", node["layer"], "a layer's number")
    return float(layer)


def _check_links(links: list[Any], layers: Mapping[str, float]) -> None:
    seen: set[tuple[str, str]] = set()
    for at, link in enumerate(links):
        where = f"links[{at}]"
        _has("links", where, link)
        for end in ("source", "target"):
            if link[end] not in layers:
                _refuse(f"{where}.{end}", link[end], "a node_id of nodes")
        if not _is_number(link["weight"]):
            _refuse(f"{where}.weight", link["weight"], "a finite number")
        ends = link["source"], link["target"]
        # Attention features of a layer write before its transcoder reads: layers may be equal there.
        if ends[0] == ends[1] or layers[ends[0]] > layers[ends[1]]:
            _refuse(f"{where}", " to ".join(ends), "a link from an earlier layer to a later one")
        if ends in seen:
            _refuse(f"{where}", " to ".join(ends), "one link between two nodes")
        seen.add(ends)


def _check_pinned(asked: Mapping[str, Any], layers: Mapping[str, float]) -> None:
    named = {f"qParams.pinnedIds[{at}]": one for at, one in enumerate(asked.get("pinnedIds") or ())}
    for group, members in enumerate(asked.get("supernodes") or ()):
        named |= {f"qParams.supernodes[{group}][{at}]": one for at, one in enumerate(members) if at}
    if asked.get("clickedId"):
        named["qParams.clickedId"] = asked["clickedId"]
    for where, one in named.items():
        if one not in layers:
            _refuse(where, one, "a node_id of nodes")


def _has(kind: str, where: str, value: Any) -> None:
    """Refuse what lacks a field that is required, or has another type there."""
    if not isinstance(value, dict):
        _refuse(where or "the file", value, "an object")
    for name, types in REQUIRED[kind].items():
        path = f"{where}.{name}" if where else name
        if name not in value:
            what = {list: "a list", dict: "an object"}.get(types, "a value") if isinstance(types, type) else "a value"
            raise StorageError(f"{path} is missing", f"a graph file has {what} there")
        if not isinstance(value[name], types) or isinstance(value[name], bool):
            shown = types if isinstance(types, tuple) else (types,)
            _refuse(path, value[name], " or ".join("null" if one is type(None) else one.__name__ for one in shown))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _refuse(where: str, value: Any, expected: str) -> NoReturn:
    shown = repr(value)
    raise StorageError(f"{where} is {shown if len(shown) <= 80 else shown[:77] + '...'}", expected)
