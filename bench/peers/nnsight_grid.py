"""The grid of patchscopes on nnsight: the source traced once, one invoke a cell, one generate call.

Runs in an environment of its own, so that it knows nothing of bathyscope: a job comes as a JSON file,
what was measured goes into another.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def run(model: Any, job: dict[str, Any]) -> tuple[list[list[int]], float]:
    """Tokens of every cell, without the prompt, and seconds."""
    source, target = (torch.tensor([job[name]]) for name in ("source_ids", "target_ids"))
    layers = sorted({layer for layer, _ in job["cells"]})
    slot = job["placeholder"]
    started = time.perf_counter()
    read: dict[int, torch.Tensor] = {}
    with torch.no_grad(), model.trace(source):
        for layer in layers:
            read[layer] = (model.model.embed_tokens if layer < 0 else model.model.layers[layer]).output.save()
    vectors = [read[layer][0, position] for layer, position in job["cells"]]
    with model.generate(max_new_tokens=job["new_tokens"], do_sample=False) as tracer:
        for (layer, _), vector in zip(job["cells"], vectors, strict=True):
            with tracer.invoke(target):
                (model.model.embed_tokens if layer < 0 else model.model.layers[layer]).output[:, slot] = vector
        with tracer.invoke():
            ids = tracer.result.save()
    seconds = time.perf_counter() - started
    return ids[:, target.shape[1] :].tolist(), seconds


def main() -> None:
    """Carry out the job named by the first argument; write the measurements to the second."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    tokenizer = AutoTokenizer.from_pretrained(job["folder"])
    hf = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
    model = TransformersModel(hf, tokenizer=tokenizer, task="text-generation")
    seconds = []
    ids: list[list[int]] = []
    for repeat in range(job["repeats"]):
        print(f"bench: run {repeat + 1} of {job['repeats']}", file=sys.stderr, flush=True)
        ids, took = run(model, job)
        seconds.append(took)
    packages = ("nnsight", "torch", "transformers")
    found = {"ids": ids, "seconds": seconds, "versions": {name: metadata.version(name) for name in packages}}
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
