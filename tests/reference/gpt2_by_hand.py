"""GPT-2 from its equations: learned positions, LayerNorm, one projection for q, k and v, tanh GELU."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reference import Edit, Tape, attend, greedy


@dataclass(frozen=True)
class Gpt2Sizes:
    n_layers: int
    n_heads: int
    norm_eps: float

    @classmethod
    def read(cls, config: Any) -> "Gpt2Sizes":
        """From a Hugging Face configuration, whose defaults are the only thing taken from there."""
        return cls(n_layers=config.n_layer, n_heads=config.n_head, norm_eps=config.layer_norm_epsilon)


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def forward(
    weights: Mapping[str, Tensor],
    config: Gpt2Sizes,
    token_ids: list[int],
    edits: Sequence[Edit] = (),
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Every site of one pass: (position, ...), except pattern.l, which is (head, query, key)."""

    def param(name: str) -> Tensor:
        return weights[name].to(dtype) if dtype is not None else weights[name]

    def project(x: Tensor, name: str) -> Tensor:
        # GPT-2 keeps its projections as (in, out), the transpose of torch's Linear.
        return x @ param(name + ".weight") + param(name + ".bias")

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean()
        spread = torch.sqrt((centred * centred).mean() + config.norm_eps)
        return centred / spread * param(name + ".weight") + param(name + ".bias")

    tape = Tape(edits, len(token_ids))
    embedding, positions = param("transformer.wte.weight"), param("transformer.wpe.weight")
    residual = [tape.record("embed", embedding[token]) + positions[place] for place, token in enumerate(token_ids)]

    for layer in range(config.n_layers):
        block = f"transformer.h.{layer}."
        residual = [tape.record(f"resid_pre.{layer}", x) for x in residual]

        queries, keys, values = [], [], []
        for x in residual:
            fused = project(layer_norm(x, block + "ln_1"), block + "attn.c_attn")
            q, k, v = (part.reshape(config.n_heads, -1) for part in fused.split(len(x)))
            queries.append(tape.record(f"q.{layer}", q))
            keys.append(tape.record(f"k.{layer}", k))
            values.append(tape.record(f"v.{layer}", v))

        mixed = attend(tape, layer, queries, keys, values, scale=queries[0].shape[-1] ** -0.5)
        for position, z in enumerate(mixed):
            attn_out = tape.record(f"attn_out.{layer}", project(z.reshape(-1), block + "attn.c_proj"))
            middle = tape.record(f"resid_mid.{layer}", residual[position] + attn_out)

            neurons = gelu_tanh(project(layer_norm(middle, block + "ln_2"), block + "mlp.c_fc"))
            neurons = tape.record(f"mlp_post.{layer}", neurons)
            mlp_out = tape.record(f"mlp_out.{layer}", project(neurons, block + "mlp.c_proj"))
            residual[position] = tape.record(f"resid_post.{layer}", middle + mlp_out)

    # Tied models are saved without a head.
    head = param("lm_head.weight") if "lm_head.weight" in weights else embedding
    for x in residual:
        normed = tape.record("final_norm", layer_norm(x, "transformer.ln_f"))
        tape.record("logits", head @ normed)
    return tape.sites()


def generate_without_cache(
    weights: Mapping[str, Tensor], config: Gpt2Sizes, token_ids: list[int], edits: Sequence[Edit] = (), n: int = 1
) -> list[int]:
    return greedy(partial(forward, weights, config), token_ids, edits, n)
