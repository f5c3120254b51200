"""Where each model family keeps each component: one row a family, checked when a model loads.

A row is a function from a Hugging Face config to an `Architecture`, because the shape of a block
often depends on the config (parallel or sequential, fused or split heads, query norms). Adding a
family is adding a row to `FAMILIES` at the end of this file, and a tiny model to the tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch import Tensor

from bathyscope.architectures import Architecture, Axes, Tap
from bathyscope.errors import ModelError


def describe(config: Any) -> Architecture:
    """The architecture of a Hugging Face config.

    Raises:
        ModelError: the family is not supported.
    """
    family = getattr(config, "model_type", None)
    if family not in FAMILIES:
        raise ModelError(
            f"models of family {family!r} are not supported",
            f"supported families are {', '.join(sorted(FAMILIES))}",
            "bathyscope models",
        )
    return FAMILIES[family](config)


PARALLEL = "attention and MLP read the same residual stream, so nothing lies between them"
FUSED_EXPERTS = "the experts of this block are fused into one module, which keeps its neurons to itself"
POST_NORM = "each sum is normed after it is made, so no part of it is added to the residual stream as it is"

_RESIDUAL: dict[str, Tap | str] = {
    "resid_pre": Tap("", "in"),
    "resid_post": Tap("", "out"),
    "logits": Tap("", "out"),
}


class _Sizes(TypedDict):
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int


def _sizes(config: Any, n_kv_heads: int | None = None) -> _Sizes:
    n_heads = config.num_attention_heads
    return {
        "n_layers": config.num_hidden_layers,
        "d_model": config.hidden_size,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads or getattr(config, "num_key_value_heads", None) or n_heads,
        "d_head": getattr(config, "head_dim", None) or config.hidden_size // n_heads,
    }


def _heads(n_heads: int, d_head: int, offset: int = 0) -> Tensor:
    """Columns of heads that lie one after another."""
    return torch.arange(offset, offset + n_heads * d_head).view(n_heads, d_head)


def _fused(n_groups: int, per_group: int, d_head: int) -> Tensor:
    """Columns of a fused projection, (n_groups, per_group, d_head)."""
    return torch.arange(n_groups * per_group * d_head).view(n_groups, per_group, d_head)


def _split_heads(sizes: _Sizes, attention: str) -> dict[str, Tap | str]:
    """Queries, keys and values from three projections."""
    counts = {"q": sizes["n_heads"], "k": sizes["n_kv_heads"], "v": sizes["n_kv_heads"]}
    return {
        name: Tap(f"{attention}.{name}_proj", columns=_heads(count, sizes["d_head"])) for name, count in counts.items()
    }


def _stacked_heads(sizes: _Sizes, module: str) -> dict[str, Tap | str]:
    """Queries, then keys, then values from one projection."""
    d_head, taps, offset = sizes["d_head"], {}, 0
    for name, count in (("q", sizes["n_heads"]), ("k", sizes["n_kv_heads"]), ("v", sizes["n_kv_heads"])):
        taps[name] = Tap(module, columns=_heads(count, d_head, offset))
        offset += count * d_head
    return taps


def _interleaved_heads(sizes: _Sizes, module: str) -> dict[str, Tap | str]:
    """Query, key and value of one head after another from one projection."""
    columns = _fused(sizes["n_heads"], 3, sizes["d_head"])
    return {name: Tap(module, columns=columns[:, index]) for index, name in enumerate("qkv")}


def _mixed(sizes: _Sizes, attention: str, output: str) -> dict[str, Tap | str]:
    """What attention mixes: per-head values before its output projection, and the pattern."""
    return {
        "z": Tap(f"{attention}.{output}", "in", columns=_heads(sizes["n_heads"], sizes["d_head"])),
        "pattern": Tap(attention, item=1, axes="batch head pos key"),
    }


def _between(module: str, parallel: bool = False, axes: Axes = "batch pos width") -> dict[str, Tap | str]:
    """The residual stream between attention and MLP, met where `module` receives it."""
    return {"resid_mid": PARALLEL if parallel else Tap(module, "in", in_place=True, axes=axes)}


def _llama(config: Any) -> Architecture:
    sizes = _sizes(config)
    return Architecture(
        family=config.model_type,
        blocks="model.layers",
        norm="model.norm",
        taps={
            **_RESIDUAL,
            "embed": Tap("model.embed_tokens"),
            "final_norm": Tap("model.norm"),
            **_between("post_attention_layernorm"),
            "attn_out": Tap("self_attn"),
            "mlp_out": Tap("mlp"),
            **_split_heads(sizes, "self_attn"),
            **_mixed(sizes, "self_attn", "o_proj"),
            "mlp_post": Tap("mlp.down_proj", "in"),
        },
        **sizes,
    )


def _change(architecture: Architecture, taps: Mapping[str, Tap | str] | None = None, **fields: Any) -> Architecture:
    return replace(architecture, taps={**architecture.taps, **(taps or {})}, **fields)


def _query_norm(architecture: Architecture, axes: Axes, suffix: str = "norm") -> Architecture:
    """Queries and keys are met after their own norm."""
    flat = axes == "batch pos width"
    return _change(
        architecture,
        {
            name: Tap(f"self_attn.{name}_{suffix}", axes=axes, columns=_columns(architecture, name) if flat else None)
            for name in ("q", "k")
        },
    )


def _columns(architecture: Architecture, component: str) -> Tensor | None:
    tap = architecture.taps[component]
    return None if isinstance(tap, str) else tap.columns


def _qwen3(config: Any) -> Architecture:
    return _query_norm(_llama(config), "batch pos head width")


def _gemma2(config: Any) -> Architecture:
    return _change(
        _llama(config),
        {
            **_between("pre_feedforward_layernorm"),
            "attn_out": Tap("post_attention_layernorm"),
            "mlp_out": Tap("post_feedforward_layernorm"),
        },
        logit_softcap=config.final_logit_softcapping,
    )


def _gemma3(config: Any) -> Architecture:
    return _query_norm(_gemma2(config), "batch head pos width")


def _olmo2(config: Any) -> Architecture:
    taps = {
        **_between("mlp"),
        "attn_out": Tap("post_attention_layernorm"),
        "mlp_out": Tap("post_feedforward_layernorm"),
    }
    return _query_norm(_change(_llama(config), taps), "batch pos width")


def _granite(config: Any) -> Architecture:
    return _change(
        _llama(config),
        {
            "embed": Tap("model.embed_tokens", multiplier=config.embedding_multiplier),
            "attn_out": Tap("self_attn", multiplier=config.residual_multiplier),
            "mlp_out": Tap("mlp", multiplier=config.residual_multiplier),
        },
        logit_divisor=config.logits_scaling,
    )


def _cohere(config: Any) -> Architecture:
    architecture = _change(_llama(config), {"resid_mid": PARALLEL}, logit_multiplier=config.logit_scale)
    return _query_norm(architecture, "batch pos head width") if config.use_qk_norm else architecture


def _stablelm(config: Any) -> Architecture:
    parallel = config.use_parallel_residual
    architecture = _change(_llama(config), _between("post_attention_layernorm", parallel))
    return _query_norm(architecture, "batch head pos width", "layernorm") if config.qk_layernorm else architecture


def _starcoder2(config: Any) -> Architecture:
    return _change(_llama(config), {"mlp_post": Tap("mlp.c_proj", "in")})


def _phi(config: Any) -> Architecture:
    taps = {
        "resid_mid": PARALLEL,
        **_mixed(_sizes(config), "self_attn", "dense"),
        "mlp_post": Tap("mlp.fc2", "in"),
        "final_norm": Tap("model.final_layernorm"),
    }
    architecture = _change(_llama(config), taps, norm="model.final_layernorm")
    return _query_norm(architecture, "batch head pos width", "layernorm") if config.qk_layernorm else architecture


def _phi3(config: Any) -> Architecture:
    return _change(_llama(config), _stacked_heads(_sizes(config), "self_attn.qkv_proj"))


def _mixtral(config: Any) -> Architecture:
    return _change(_llama(config), {"mlp_post": FUSED_EXPERTS})


def _qwen3_moe(config: Any) -> Architecture:
    return _change(_qwen3(config), {"mlp_post": Tap("mlp.down_proj", "in", absent=FUSED_EXPERTS)})


def _gpt2(config: Any) -> Architecture:
    sizes = _sizes(config)
    return Architecture(
        family=config.model_type,
        blocks="transformer.h",
        norm="transformer.ln_f",
        taps={
            **_RESIDUAL,
            "embed": Tap("transformer.wte"),
            "final_norm": Tap("transformer.ln_f"),
            **_between("ln_2"),
            "attn_out": Tap("attn"),
            "mlp_out": Tap("mlp"),
            **_stacked_heads(sizes, "attn.c_attn"),
            **_mixed(sizes, "attn", "c_proj"),
            "mlp_post": Tap("mlp.c_proj", "in"),
        },
        **sizes,
    )


def _gpt_neo(config: Any) -> Architecture:
    sizes = _sizes(config)
    taps = {**_split_heads(sizes, "attn.attention"), **_mixed(sizes, "attn.attention", "out_proj")}
    return _change(_gpt2(config), taps, attention_interface=False)


def _gptj(config: Any) -> Architecture:
    sizes = _sizes(config)
    taps = {
        "resid_mid": PARALLEL,
        **_split_heads(sizes, "attn"),
        **_mixed(sizes, "attn", "out_proj"),
        "mlp_post": Tap("mlp.fc_out", "in"),
    }
    return _change(_gpt2(config), taps, attention_interface=False)


def _gpt_neox(config: Any) -> Architecture:
    sizes = _sizes(config)
    return Architecture(
        family=config.model_type,
        blocks="gpt_neox.layers",
        norm="gpt_neox.final_layer_norm",
        taps={
            **_RESIDUAL,
            "embed": Tap("gpt_neox.embed_in"),
            "final_norm": Tap("gpt_neox.final_layer_norm"),
            **_between("post_attention_layernorm", parallel=config.use_parallel_residual),
            "attn_out": Tap("attention"),
            "mlp_out": Tap("mlp"),
            **_interleaved_heads(sizes, "attention.query_key_value"),
            **_mixed(sizes, "attention", "dense"),
            "mlp_post": Tap("mlp.dense_4h_to_h", "in"),
        },
        **sizes,
    )


def _bloom(config: Any) -> Architecture:
    sizes = _sizes(config)
    # Attention and MLP add the residual inside themselves: what they contribute is met one module deeper.
    return Architecture(
        family=config.model_type,
        blocks="transformer.h",
        norm="transformer.ln_f",
        taps={
            **_RESIDUAL,
            "embed": Tap("transformer.word_embeddings_layernorm"),
            "final_norm": Tap("transformer.ln_f"),
            **_between("post_attention_layernorm"),
            "attn_out": Tap("self_attention.dense"),
            "mlp_out": Tap("mlp.dense_4h_to_h"),
            **_interleaved_heads(sizes, "self_attention.query_key_value"),
            **_mixed(sizes, "self_attention", "dense"),
            "mlp_post": Tap("mlp.dense_4h_to_h", "in"),
        },
        attention_interface=False,
        **sizes,
    )


def _falcon(config: Any) -> Architecture:
    grouped, single = config.new_decoder_architecture, config.multi_query
    sizes = _sizes(config, config.num_kv_heads if grouped or not single else 1)
    n_heads, d_head = sizes["n_heads"], sizes["d_head"]
    if grouped or single:
        columns = _fused(sizes["n_kv_heads"], n_heads // sizes["n_kv_heads"] + 2, d_head)
        split = {"q": columns[:, :-2].reshape(n_heads, d_head), "k": columns[:, -2], "v": columns[:, -1]}
        heads: dict[str, Tap | str] = {n: Tap("self_attention.query_key_value", columns=c) for n, c in split.items()}
    else:
        heads = _interleaved_heads(sizes, "self_attention.query_key_value")
    taps = {
        **_bloom(config).taps,
        **_between("post_attention_layernorm", parallel=config.parallel_attn or grouped),
        **heads,
        "embed": Tap("transformer.word_embeddings"),
        "attn_out": Tap("self_attention"),
        "mlp_out": Tap("mlp"),
    }
    return replace(_bloom(config), taps=taps, **sizes)


def _opt(config: Any) -> Architecture:
    sizes = _sizes(config)
    projected = config.word_embed_proj_dim != config.hidden_size
    normed = config.do_layer_norm_before and not config._remove_final_layer_norm
    taps = {
        **_RESIDUAL,
        "embed": Tap("model.decoder.project_in" if projected else "model.decoder.embed_tokens"),
        "final_norm": Tap("model.decoder.final_layer_norm") if normed else "this checkpoint has no final norm",
        **_between("final_layer_norm", axes="rows width"),
        "attn_out": Tap("self_attn"),
        "mlp_out": Tap("fc2", axes="rows width"),
        **_split_heads(sizes, "self_attn"),
        **_mixed(sizes, "self_attn", "out_proj"),
        "mlp_post": Tap("fc2", "in", axes="rows width"),
    }
    if not config.do_layer_norm_before:
        taps |= dict.fromkeys(("resid_mid", "attn_out", "mlp_out"), POST_NORM)
    return Architecture(
        family=config.model_type,
        blocks="model.decoder.layers",
        norm="model.decoder.final_layer_norm" if normed else None,
        project_out="model.decoder.project_out" if projected else None,
        taps=taps,
        **sizes,
    )


FAMILIES: dict[str, Callable[[Any], Architecture]] = {
    "bloom": _bloom,
    "cohere": _cohere,
    "falcon": _falcon,
    "gemma": _llama,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "gptj": _gptj,
    "granite": _granite,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _mixtral,
    "olmo2": _olmo2,
    "opt": _opt,
    "phi": _phi,
    "phi3": _phi3,
    "qwen2": _llama,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "stablelm": _stablelm,
    "starcoder2": _starcoder2,
}
"""Every supported `model_type`."""
