"""The plain way: one cell after another with stock transformers and a forward hook, no bathyscope in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import say
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class Generated:
    """What one cell of a grid gave.

    Args:
        ids: new tokens, the one that stopped it included.
        gaps: at each step, how far the best logit stood above the second.
        seconds: source pass and generation.
    """

    ids: tuple[int, ...]
    gaps: tuple[float, ...]
    seconds: float


def load(folder: Path, dtype: torch.dtype) -> Any:
    """The stock model."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def grid(model: Any, job: dict[str, Any]) -> list[Generated]:
    """One `generate` a cell, greedy, with the source read anew for each."""
    source, target = (torch.tensor([job[name]]) for name in ("source_ids", "target_ids"))
    found = []
    for index, (layer, position) in enumerate(job["cells"]):
        if index % 31 == 0:
            say(f"    cell {index} of {len(job['cells'])}")
        started = time.perf_counter()
        with torch.no_grad():
            with _reading(_module(model, layer)) as read:
                model(input_ids=source)
            with _writing(_module(model, layer), read[0][0, position], job["placeholder"]):
                out = model.generate(
                    target,
                    attention_mask=torch.ones_like(target),
                    max_new_tokens=job["new_tokens"],
                    do_sample=False,
                    return_dict_in_generate=True,
                    output_logits=True,
                )
        seconds = time.perf_counter() - started
        best = torch.stack(out.logits)[:, 0].float().topk(2).values
        ids = tuple(out.sequences[0, target.shape[1] :].tolist())
        found.append(Generated(ids, tuple((best[:, 0] - best[:, 1]).tolist()), seconds))
    return found


def patching(model: Any, job: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Logit differences of (layer, position) cells, written before each block, and the seconds of each.

    The clean prompt is run once, before the clock of the first cell starts: only the corrupted runs differ.
    """
    clean, corrupted = (torch.tensor([job[name]]) for name in ("clean_ids", "corrupted_ids"))
    right, wrong = job["answers"]
    values, seconds = [], []
    with torch.no_grad():
        states = model(input_ids=clean, use_cache=False, output_hidden_states=True).hidden_states
        for index, (layer, position) in enumerate(job["cells"]):
            if index % 120 == 0:
                say(f"    cell {index} of {len(job['cells'])}")
            started = time.perf_counter()
            # What enters a block is what the module before it returned.
            with _writing(_module(model, layer - 1), states[layer][0, position], position):
                logits = model(input_ids=corrupted, use_cache=False).logits[0, -1]
            values.append(float(logits[right] - logits[wrong]))
            seconds.append(time.perf_counter() - started)
    return values, seconds


def _module(model: Any, layer: int) -> nn.Module:
    """The module that returns the residual stream of a layer; -1 is the embedding."""
    return model.model.embed_tokens if layer < 0 else model.model.layers[layer]


@contextmanager
def _reading(module: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _writing(module: nn.Module, vector: Tensor, position: int) -> Iterator[None]:
    def write(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        if output.shape[1] == 1:  # a generated token: the prompt has been read, and what was written is in the cache
            return output
        output = output.clone()
        output[:, position] = vector
        return output

    handle = module.register_forward_hook(write)
    try:
        yield
    finally:
        handle.remove()
