"""Llama from its equations: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reference import Edit, Tape, attend, greedy


@dataclass(frozen=True)
class LlamaSizes:
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    rope_theta: float
    norm_eps: float

    @classmethod
    def read(cls, config: Any) -> "LlamaSizes":
        """From a Hugging Face configuration, whose defaults are the only thing taken from there."""
        return cls(
            n_layers=config.num_hidden_layers,
            n_heads=config.num_attention_heads,
            n_kv_heads=config.num_key_value_heads,
            d_head=config.head_dim,
            rope_theta=config.rope_parameters["rope_theta"],
            norm_eps=config.rms_norm_eps,
        )


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean() + eps) * weight


def rotate(x: Tensor, position: int, theta: float) -> Tensor:
    """Turn each pair (i, i + d_head / 2) of every head: Hugging Face's pairing, not the paper's neighbours."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = (position * frequency).cos().to(x.dtype), (position * frequency).sin().to(x.dtype)
    first, second = x[:, :half], x[:, half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=1)


def forward(
    weights: Mapping[str, Tensor],
    config: LlamaSizes,
    token_ids: list[int],
    edits: Sequence[Edit] = (),
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Every site of one pass: (position, ...), except pattern.l, which is (head, query, key)."""

    def linear(x: Tensor, name: str) -> Tensor:
        y = param(name + ".weight") @ x
        return y + param(name + ".bias") if name + ".bias" in weights else y

    def param(name: str) -> Tensor:
        return weights[name].to(dtype) if dtype is not None else weights[name]

    tape = Tape(edits, len(token_ids))
    embedding = param("model.embed_tokens.weight")
    residual = [tape.record("embed", embedding[token]) for token in token_ids]

    for layer in range(config.n_layers):
        block = f"model.layers.{layer}."
        residual = [tape.record(f"resid_pre.{layer}", x) for x in residual]

        queries, keys, values = [], [], []
        for position, stream in enumerate(residual):
            x = rms_norm(stream, param(block + "input_layernorm.weight"), config.norm_eps)
            q = linear(x, block + "self_attn.q_proj").reshape(config.n_heads, config.d_head)
            k = linear(x, block + "self_attn.k_proj").reshape(config.n_kv_heads, config.d_head)
            v = linear(x, block + "self_attn.v_proj").reshape(config.n_kv_heads, config.d_head)
            queries.append(rotate(tape.record(f"q.{layer}", q), position, config.rope_theta))
            keys.append(rotate(tape.record(f"k.{layer}", k), position, config.rope_theta))
            values.append(tape.record(f"v.{layer}", v))

        mixed = attend(tape, layer, queries, keys, values, scale=config.d_head**-0.5)
        for position, z in enumerate(mixed):
            attn_out = tape.record(f"attn_out.{layer}", linear(z.reshape(-1), block + "self_attn.o_proj"))
            middle = tape.record(f"resid_mid.{layer}", residual[position] + attn_out)

            x = rms_norm(middle, param(block + "post_attention_layernorm.weight"), config.norm_eps)
            gate = linear(x, block + "mlp.gate_proj")
            neurons = gate * torch.sigmoid(gate) * linear(x, block + "mlp.up_proj")
            neurons = tape.record(f"mlp_post.{layer}", neurons)
            mlp_out = tape.record(f"mlp_out.{layer}", linear(neurons, block + "mlp.down_proj"))
            residual[position] = tape.record(f"resid_post.{layer}", middle + mlp_out)

    # Tied models are saved without a head.
    head = param("lm_head.weight") if "lm_head.weight" in weights else embedding
    for x in residual:
        tape.record(
            "logits", head @ tape.record("final_norm", rms_norm(x, param("model.norm.weight"), config.norm_eps))
        )
    return tape.sites()


def generate_without_cache(
    weights: Mapping[str, Tensor], config: LlamaSizes, token_ids: list[int], edits: Sequence[Edit] = (), n: int = 1
) -> list[int]:
    return greedy(partial(forward, weights, config), token_ids, edits, n)
