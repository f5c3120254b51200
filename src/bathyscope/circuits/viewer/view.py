"""View: a graph as it is drawn, be it a circuit, an attribution graph or another tool's. Knows no model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bathyscope.circuits.attribution_graphs.neuronpedia import EMBEDDING, ERROR, FEATURE, LOGIT
from bathyscope.circuits.drawing import halves
from bathyscope.circuits.edges import Edge, site_order
from bathyscope.circuits.nodes import Node
from bathyscope.circuits.viewer.layout import Layout, placed

KINDS: Final = {FEATURE: "feature", "lorsa": "feature", ERROR: "error", "lorsa error": "error"}
KINDS.update({EMBEDDING: "token", LOGIT: "output"})
MOST_NODES, MOST_EDGES = 1_000, 10_000
"""More can neither be read nor moved about; the largest are drawn, and a caption says so."""
MOST_TOKENS: Final = 40
"""Of a longer prompt only tokens with nodes are shown."""


@dataclass(frozen=True)
class Drawn:
    """One node of a picture.

    Args:
        key: what it is called in files: in labels, groups and addresses.
        kind: "feature", "error", "token" or "output".
        name: what stands beside it.
        label: what it is said to stand for.
        row, column: counted from below and from the left.
        size: what the threshold is compared with; None for what is always there.
        value: with its sign: more or less of what is explained; None where the sign is not known.
        halves: what its two halves are filled for, by name.
        facts: its figures by name.
        promotes, suppresses: tokens.
        reading: what a text says of it.
        public: its name in the public schema, empty where it has none.
    """

    key: str
    kind: str
    name: str
    label: str
    row: int
    column: int
    size: float | None = None
    value: float | None = None
    halves: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float | str] = field(default_factory=dict)
    promotes: tuple[str, ...] = ()
    suppresses: tuple[str, ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)
    public: str = ""


@dataclass(frozen=True)
class View:
    """A graph as it is drawn.

    Args:
        name: of the file that it comes from, for the names of those that the page writes.
        captions: a heading, and smaller lines.
        rows: names of the rows, from below.
        columns: names of the columns.
        nodes: the nodes.
        edges: from one number of a node to another, with a weight; the strongest first.
        measure: what `size` and `value` of nodes are.
        public: the same graph in the public schema, its links left out.
        labels: a person's own, by key.
        groups: keys of nodes that are drawn as one, by the group's name.
    """

    name: str
    captions: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    nodes: tuple[Drawn, ...]
    edges: tuple[tuple[int, int, float], ...]
    measure: str
    public: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """Where the nodes stand."""
        return placed([(one.row, one.column) for one in self.nodes], len(self.rows), len(self.columns))


def circuit_view(
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    positions: Sequence[str],
    captions: Sequence[str],
    public: Mapping[str, Any],
) -> View:
    """A circuit.

    Args:
        nodes: the circuit's, the largest attributions first.
        edges: between their features, and to the logit difference.
        positions: what stands at each position.
        captions: a heading, and smaller lines.
        public: `circuit_graph_json` of it, whose slug names the view.
    """
    kept = nodes[:MOST_NODES]
    sites = sorted({one.feature.site for one in kept}, key=site_order)
    shown = _positions([one.feature.position for one in kept], len(positions))
    column = {position: number for number, position in enumerate(shown)}
    names = [one["node_id"] for one in public["nodes"]]
    drawn = [
        _drawn(one, 1 + sites.index(one.feature.site), column[one.feature.position], name)
        for one, name in zip(kept, names, strict=False)
    ]
    drawn += [_token(positions[position], position, column[position]) for position in shown]
    last = len(shown) - 1
    drawn.append(Drawn("output", "output", "logit difference", "", len(sites) + 1, max(0, last), public=names[-1]))
    number = {one.feature: place for place, one in enumerate(kept)}
    links = [
        (number[one.source], len(drawn) - 1 if one.target is None else number[one.target], one.weight)
        for one in edges
        if one.source in number and (one.target is None or one.target in number)
    ]
    links.sort(key=lambda link: -abs(link[2]))
    return View(
        name=public["metadata"]["slug"],
        captions=(*captions, *_left_out(len(kept), len(nodes), min(len(links), MOST_EDGES), len(edges))),
        rows=("tokens", *sites, "output"),
        columns=tuple(f"{position}: {positions[position]}" for position in shown),
        nodes=tuple(drawn),
        edges=tuple(links[:MOST_EDGES]),
        measure="attribution",
        public={**public, "links": []},
    )


def graph_view(data: Mapping[str, Any], name: str) -> View:
    """A graph in the public schema, which `check_graph_json` has passed.

    Args:
        data: its JSON values.
        name: of its file.
    """
    by_size = sorted(data["nodes"], key=lambda one: (_size(one) is not None, -(_size(one) or 0.0)))
    kept = by_size[:MOST_NODES]
    layers = sorted({str(one["layer"]) for one in kept if KINDS[one["feature_type"]] in ("feature", "error")}, key=int)
    tokens = data["metadata"]["prompt_tokens"]
    shown = _positions([one["ctx_idx"] for one in kept], len(tokens))
    column = {position: number for number, position in enumerate(shown)}
    row = {"token": 0, "output": len(layers) + 1}
    drawn = []
    for one in kept:
        kind = KINDS[one["feature_type"]]
        place = row[kind] if kind in row else 1 + layers.index(str(one["layer"]))
        drawn.append(_public_drawn(one, kind, place, column[one["ctx_idx"]]))
    there = {one.column for one in drawn if one.kind == "token"}
    drawn += [_token(tokens[at], at, column[at]) for at in shown if column[at] not in there]
    number = {one.key: place for place, one in enumerate(drawn)}
    links = [
        (number[one["source"]], number[one["target"]], one["weight"])
        for one in data["links"]
        if one["source"] in number and one["target"] in number
    ]
    links.sort(key=lambda link: -abs(link[2]))
    left_out = _left_out(len(kept), len(by_size), min(len(links), MOST_EDGES), len(data["links"]))
    metadata = data["metadata"]
    groups = {
        str(one[0]): [str(key) for key in one[1:]] for one in (data["qParams"].get("supernodes") or ()) if len(one) > 1
    }
    return View(
        name=name,
        captions=(f"{metadata['slug']}: {metadata['scan']}", metadata["prompt"], *left_out),
        rows=("tokens", *(f"layer {layer}" for layer in layers), "output"),
        columns=tuple(f"{position}: {tokens[position]}" for position in shown),
        nodes=tuple(drawn),
        edges=tuple(links[:MOST_EDGES]),
        measure="1 - cumulative influence",
        public={**data, "nodes": kept, "links": []},
        groups=groups,
    )


def _drawn(one: Node, row: int, column: int, public: str) -> Drawn:
    feature, is_error = one.feature, one.feature.index is None
    facts: dict[str, float | str] = {
        "attribution": one.attribution,
        "measured effect": one.effect,
        "activation, clean": one.clean,
        "activation, corrupted": one.corrupted,
        **{f"activation, {kind}": value for kind, value in one.by_kind.items() if len(one.by_kind) > 1},
        **({} if one.separates is None else {"tells kinds apart": one.separates}),
    }
    return Drawn(
        key=str(feature),
        kind="error" if is_error else "feature",
        name="error" if is_error else str(feature.index),
        label=one.label,
        row=row,
        column=column,
        size=abs(one.attribution),
        value=one.attribution,
        halves=halves(one),
        facts=facts,
        promotes=one.promotes,
        suppresses=one.suppresses,
        reading=one.reading,
        public=public,
    )


def _public_drawn(one: Mapping[str, Any], kind: str, row: int, column: int) -> Drawn:
    label = str(one["clerp"])
    facts = {name: one[name] for name in ("activation", "influence", "token_prob") if one.get(name)}
    facts = {name.replace("influence", "cumulative influence"): value for name, value in facts.items()}
    name = {"feature": one["node_id"].split("_")[1:2] or [one["node_id"]]}.get(kind, [kind])[0]
    return Drawn(
        key=one["node_id"],
        kind=kind,
        name=label if kind in ("token", "output") else name,
        label="" if kind in ("token", "output") else label,
        row=row,
        column=column,
        size=_size(one),
        facts=facts,
        public=one["node_id"],
    )


def _token(text: str, position: int, column: int) -> Drawn:
    return Drawn(f"token@{position}", "token", text, "", 0, column)


def _size(one: Mapping[str, Any]) -> float | None:
    """How influential a node of the public schema is; None for tokens, outputs and where it is not said."""
    if KINDS[one["feature_type"]] in ("token", "output"):
        return None
    influence = one.get("influence")
    return None if influence is None else 1.0 - min(1.0, influence)


def _positions(with_nodes: Sequence[int], n: int) -> list[int]:
    return list(range(n)) if n <= MOST_TOKENS else sorted(set(with_nodes))


def _left_out(nodes: int, of_nodes: int, edges: int, of_edges: int) -> tuple[str, ...]:
    if nodes == of_nodes and edges == of_edges:
        return ()
    return (f"drawn are the largest: {nodes:,} of {of_nodes:,} nodes, {edges:,} of {of_edges:,} edges",)
