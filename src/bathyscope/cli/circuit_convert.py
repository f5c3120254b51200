"""`bathyscope circuit convert`: a circuit or a graph in the formats of other tools, or a graph of theirs, checked."""

import json
from collections import Counter

from bathyscope.cli import choices, circuit_files, options, terminal
from bathyscope.cli.options import circuit_show as own
from bathyscope.errors import UsageError

ENDINGS = (".json", ".dot")


def command(
    file: own.File,
    out: own.Converted = None,
    *,
    slug: own.Slug = None,
    labels: own.Labels = None,
    debug: options.Debug = False,
) -> None:
    """Write a graph for other tools, or check one of theirs.

    OUT.json has the schema that public graph viewers read, OUT.dot is for
    Graphviz. Without OUT the file is checked and told: names that contradict
    their fields, links to nowhere, numbers that are none.

    Examples:
      bathyscope circuit convert circuit.json boats.graph.json --slug boats-are
      bathyscope circuit convert circuit.json circuit.dot
      bathyscope circuit convert circuit.json
    """
    del debug  # its callback has done the work
    if slug == "":
        raise UsageError("an empty --slug was given", "a name for the graph", "--slug boats-are")
    if out is not None:
        choices.check_out(out, *ENDINGS, option="OUT")
        choices.check_writable(out.parent)
        if out.exists() and file.exists() and out.samefile(file):
            raise UsageError(f"OUT {str(out)!r} was given", "that is the file that is read", f"{out.stem}.graph.json")
    found = circuit_files.read(file, labels, slug)
    _tell(found)
    if out is None:
        return
    from bathyscope.circuits import check_graph_json
    from bathyscope.circuits.viewer import to_dot
    from bathyscope.files import write_atomically

    if out.suffix == ".dot":
        write_atomically(out, to_dot(found.view).encode())
    else:
        check_graph_json(found.public)
        write_atomically(out, json.dumps(found.public, allow_nan=False).encode())
    terminal.note(f"saved to {out}")


def _tell(found: circuit_files.GraphFile) -> None:
    """Print what is in the file."""
    kinds = Counter(one["feature_type"] for one in found.public["nodes"])
    metadata = found.public["metadata"]
    table = terminal.grid(found.what, texts=("",))
    rows = {
        "slug": metadata["slug"],
        "model": metadata["scan"],
        "prompt": metadata["prompt"],
        **{_kind(kind, whole=found.circuit is not None): f"{count:,}" for kind, count in kinds.items()},
        "links": f"{len(found.public['links']):,}",
    }
    for name, text in rows.items():
        table.add_row(terminal.cell(name), terminal.cell(text))
    terminal.out().print(table)


def _kind(name: str, *, whole: bool) -> str:
    """A kind of node; the public schema has none for a circuit's features, and calls them what transcoders have."""
    own = {"cross layer transcoder": "features", "mlp reconstruction error": "errors"}
    return f"{own[name]} (there: {name})" if whole and name in own else name
