"""Graphs in files, of whatever kind, as the views that pages and other tools are made of."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bathyscope.cli import choices, terminal
from bathyscope.errors import StorageError, UsageError

if TYPE_CHECKING:
    from bathyscope.circuits import CircuitResult
    from bathyscope.circuits.viewer import View

LARGEST = 1 << 30
"""Bytes of a file that is read: the largest public graphs are as large, and no page holds them."""


@dataclass(frozen=True)
class GraphFile:
    """What was in a file.

    Args:
        what: its kind, for people.
        circuit: where it is one.
        view: as it is drawn.
        public: in the public schema, whole.
    """

    what: str
    circuit: "CircuitResult | None"
    view: "View"
    public: dict[str, Any]


def read(path: Path, labels: Path | None = None, slug: str | None = None) -> GraphFile:
    """Read a graph and a person's own labels and groups.

    Args:
        path: of a circuit, a study, an attribution graph, or a graph in the public schema.
        labels: of a file of labels; FILE.labels.json beside FILE.json unless said.
        slug: what the graph is called; the file's name unless said.

    Raises:
        UsageError: it cannot be read, is of something else, or contradicts itself.
    """
    from bathyscope.circuits.own_labels import labels_file, read_words

    with choices.refusing():
        data = _json(path)
        beside = labels_file(path)
        own, groups = read_words(labels or beside) if labels is not None or beside.exists() else ({}, {})
        found = _opened(path, data, slug or path.stem, own)
    _warn(own, found.view)
    groups = groups or found.view.groups
    names = {one.key: one.public for one in found.view.nodes if one.public}
    told = {name: [names[key] for key in members if key in names] for name, members in groups.items()}
    found.public["qParams"]["supernodes"] = [[name, *members] for name, members in told.items() if members]
    return replace(found, view=replace(found.view, name=path.stem, labels=own, groups=groups))


def _warn(own: dict[str, str], view: "View") -> None:
    """Say which labels name nothing that is here."""
    known = {one.key for one in view.nodes}
    known |= {key.rpartition("@")[0] for key in known}
    if strange := [key for key in own if key not in known]:
        terminal.note(f"{len(strange)} of {len(own)} labels name no feature that is here, such as {strange[0]}")


def _json(path: Path) -> dict[str, Any]:
    """The file's JSON, whatever it is of."""
    try:
        if path.stat().st_size > LARGEST:
            raise StorageError(f"{path} has {path.stat().st_size:,} bytes", f"at most {LARGEST:,} are read")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise StorageError(f"{path} could not be read ({told})", "a JSON file of a graph is needed") from error
    if not isinstance(found, dict):
        raise StorageError(f"{path} holds no JSON object", "a JSON file of a graph is needed")
    return found


def _opened(path: Path, data: dict[str, Any], slug: str, own: dict[str, str]) -> GraphFile:
    from bathyscope.circuits import AttributionGraph, CircuitResult, check_graph_json, to_neuronpedia
    from bathyscope.circuits.viewer import graph_view
    from bathyscope.results import Result

    if "kind" not in data:
        what, public = "graph in the public schema", data
        try:
            check_graph_json(public)
        except StorageError as error:
            raise UsageError(f"in {path} {error.given}", error.expected) from error
        return GraphFile(what, None, graph_view(public, path.stem), public)
    result = Result.load(path)
    circuit = getattr(result, "found", result)
    if isinstance(circuit, CircuitResult):
        circuit = circuit.named(own)
        return GraphFile("circuit", circuit, circuit.view(slug), circuit.graph_json(slug))
    if isinstance(result, AttributionGraph):
        public = to_neuronpedia(result, slug)
        return GraphFile("attribution graph, pruned", None, graph_view(public, path.stem), public)
    raise StorageError(
        f"{path} is a result of kind {result.kind}", "a circuit or an attribution graph is needed", "another FILE"
    )
