"""Activation patching on TransformerLens: its own generic patching of the residual stream before each block.

Runs in an environment of its own, so that it knows nothing of bathyscope: a job comes as a JSON file,
what was measured goes into another. 3.x is measured as HookedTransformer, its deprecated default of
years, 4.x as the TransformerBridge that replaced it; no weight is folded or centred.
"""

import json
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas
import torch
from transformer_lens import patching
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(folder: str) -> Any:
    """The model of a local folder, whatever TransformerLens calls it in this version."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if metadata.version("transformer-lens").startswith("3."):
        return _hooked(folder, hf, tokenizer)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(folder, hf_model=hf, tokenizer=tokenizer, device="cpu").eval()


def _hooked(folder: str, hf: Any, tokenizer: Any) -> Any:
    """What HookedTransformer.from_pretrained_no_processing does, which knows registered names only."""
    from transformer_lens import HookedTransformer, loading_from_pretrained

    config = loading_from_pretrained.get_pretrained_model_config(
        folder, hf_cfg=hf.config.to_dict(), device="cpu", default_prepend_bos=False
    )
    model = HookedTransformer(config, tokenizer, move_to_device=False)
    model.load_and_process_state_dict(
        loading_from_pretrained.get_pretrained_state_dict(folder, config, hf),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    model.move_model_modules_to_device()
    return model.eval()


def run(model: Any, job: dict[str, Any]) -> tuple[list[float], float]:
    """The logit difference of every (layer, position) cell, and seconds, the clean run included."""
    clean, corrupted = (torch.tensor([job[name]]) for name in ("clean_ids", "corrupted_ids"))
    right, wrong = job["answers"]

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, right] - logits[0, -1, wrong]

    started = time.perf_counter()
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        values = patching.generic_activation_patch(
            model,
            corrupted,
            cache,
            difference,
            patching.layer_pos_patch_setter,
            "resid_pre",
            index_df=pandas.DataFrame(job["cells"], columns=["layer", "pos"]),
        )
    return values.tolist(), time.perf_counter() - started


def main() -> None:
    """Carry out the job named by the first argument; write the measurements to the second."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    torch.set_num_threads(job["threads"])
    model = load(job["folder"])
    seconds = []
    values: list[float] = []
    for repeat in range(job["repeats"]):
        print(f"bench: run {repeat + 1} of {job['repeats']}", file=sys.stderr, flush=True)
        values, took = run(model, job)
        seconds.append(took)
    packages = ("transformer-lens", "torch", "transformers")
    found = {
        "values": values,
        "seconds": seconds,
        "class": type(model).__name__,
        "versions": {name: metadata.version(name) for name in packages},
    }
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main()
