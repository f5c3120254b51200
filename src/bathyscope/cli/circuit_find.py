"""`bathyscope circuit find`: the features that a decision goes through."""

from bathyscope.cli import choices, circuit_request, circuit_tables, options, terminal
from bathyscope.cli.opening import open_model
from bathyscope.cli.options import agreement, circuit
from bathyscope.cli.showing import show_or_save
from bathyscope.cli.stopping import stoppable


def command(
    *,
    pairs: circuit.PairsFile,
    coders: circuit.Coders,
    out: circuit.CircuitOut,
    nodes: circuit.Nodes = None,
    sites: circuit.Sites = None,
    limit: circuit.Limit = None,
    errors: agreement.Errors = "nodes",
    ablation: agreement.Ablation = "mean",
    sizes: agreement.Sizes = "5,10,20,50,100,200",
    penalties: agreement.Penalties = "0.3,1,3",
    method: circuit.Method = "integrated-gradients",
    baseline: circuit.Baseline = "corrupted",
    steps: agreement.Steps = 8,
    effects: circuit.Effects = 0,
    seed: circuit.Seed = 0,
    model: options.ModelName = None,
    revision: options.Revision = None,
    dtype: options.Dtype = None,
    attention: options.Attention = None,
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Find the features that tell two answers apart, in the latents of sparse coders.

    Each pair is two prompts that differ in one thing, and the answer that is
    right for each. Circuits of the largest attributions and of learned masks
    are tried; the smallest is kept that does what the model does, all else at
    its mean. Stopped, the same command goes on from what is finished: each
    site's attributions, and each mask.

    Examples:
      bathyscope circuit find --pairs pairs.jsonl --coders coders --out circuit.json
      bathyscope circuit find --pairs pairs.jsonl --coders coders --nodes 20 --errors ablated --out circuit.json
    """
    del debug  # its callback has done the work
    choices.check_revision(revision, model)
    choices.check_out(out, ".json")
    choices.check_writable(out.parent)
    from bathyscope.circuits import find_circuit, read_examples

    asked = circuit_request.find_choices(
        sizes,
        penalties,
        nodes=nodes,
        errors=errors,
        ablation=ablation,
        method=method,
        baseline=baseline,
        steps=steps,
        effects=effects,
        seed=seed,
    )
    circuit_request.check_pairs(pairs)
    found = circuit_request.coders(coders, None if sites is None else [one.strip() for one in sites.split(",")])
    shown = terminal.may_animate(as_json=as_json)
    read = open_model(model, revision=revision, dtype=dtype, attention=attention, shown=shown)
    with choices.refusing():
        examples = read_examples(read, pairs, limit=limit)
    for line in examples.left_out:
        terminal.note(f"left out: {line}")
    kept = circuit_request.parts_beside(out)
    with stoppable() as stop, circuit_request.saying(shown) as say:
        result = find_circuit(read, examples, found, asked, kept=kept, say=say, stop=stop)
    show_or_save(result, as_json=as_json, out=out, show=circuit_tables.show)
    circuit_request.forget(kept)
