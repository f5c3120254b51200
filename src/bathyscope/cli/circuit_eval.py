"""`bathyscope circuit eval`: whether a circuit does what the model does, on pairs that it was not found on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from bathyscope.cli import choices, circuit_request, circuit_tables, options, terminal
from bathyscope.cli.options import agreement, circuit

if TYPE_CHECKING:
    from bathyscope.circuits import Asked, CircuitResult, Faithfulness

HOW = (
    "Faithfulness: (circuit - all ablated) / (model - all ablated), of mean logit differences; completeness: the same "
    "of the model without the circuit; distance: mean absolute difference from the model's pair, as a share of the "
    "model's from all ablated; accuracy: pairs whose right answer is likelier. Congruent: another noun has the same "
    "number."
)


def command(
    file: circuit.File,
    *,
    pairs: circuit.PairsFile,
    coders: circuit.ItsCoders = None,
    limit: circuit.Limit = None,
    ablation: agreement.Ablation = "mean",
    seed: circuit.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Measure a circuit on other pairs.

    Faithfulness is 1 where the circuit alone does what the model does on
    average, completeness 0 where the model without it does nothing. What is
    ablated becomes its mean over the pairs that the circuit was found on.

    Examples:
      bathyscope circuit eval circuit.json --pairs others.jsonl
      bathyscope circuit eval circuit.json --pairs others.jsonl --ablation resample --json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    circuit_request.check_pairs(pairs)
    found, theirs = circuit_request.opened(file, coders)
    shown = terminal.may_animate(as_json=as_json)
    read = circuit_request.open_its_model(
        found, model, revision=revision, dtype=dtype, attention=attention, shown=shown
    )
    from bathyscope.circuits import check_circuit, read_examples

    with choices.refusing():
        examples = read_examples(read, pairs, limit=limit, length=len(found.positions))
    for line in examples.left_out:
        terminal.note(f"left out: {line}")
    measured = check_circuit(
        read,
        found,
        theirs,
        examples.examples,
        ablation=ablation,  # type: ignore[arg-type]
        seed=seed,
    )
    if as_json:
        typer.echo(json.dumps(_told(found, measured, examples, ablation, pairs), ensure_ascii=False, allow_nan=False))
        return
    row: dict[str, Any] = {**measured.to_dict(), "rule": found.measured["rule"], "errors": found.circuit.errors}
    console = terminal.out()
    console.print(circuit_tables.tried([row]))
    console.print(circuit_tables.cases(measured))
    console.print(Text(HOW, "dim"), no_wrap=False)


def _told(
    found: "CircuitResult", measured: "Faithfulness", asked: "Asked", ablation: str, pairs: Path
) -> dict[str, Any]:
    """What other programs read: the names of the contract, and all else that was measured."""
    one = measured.to_dict()
    names = {"size": "nodes", "model": "metric_full", "nothing": "metric_empty", "circuit": "metric_circuit"}
    names |= {"rest": "metric_without"}
    return {
        "kind": "circuit-evaluation",
        **{names.get(name, name): value for name, value in one.items()},
        "errors": found.circuit.errors,
        "error_nodes": sum(feature.index is None for feature in found.circuit.features),
        "sites": list(found.circuit.sites),
        "ablation": ablation,
        "pairs": pairs.name,
        "left_out": list(asked.left_out),
    }
