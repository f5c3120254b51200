"""Tiny random models of every supported family, with the facts that tests compare against.

Weights are drawn again after construction: transformers' own (std 0.02) make every block nearly the
identity and the logits nearly uniform, so that a site off by one layer or position would pass unseen.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from tokenizers_for_tests import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE, tiny_tokenizer

N_LAYERS = 4
D_MODEL = 48
D_MLP = 80
N_HEADS = 4
MAX_POSITIONS = 128
SLIDING_WINDOW = 5

# Large enough for every block to show in the logits, small enough for float32 to agree with float64 within 1e-5.
HEAD_GAIN = 2.0
TIED_STD = 0.3
POSITION_STD = 0.5


@dataclass(frozen=True)
class TinyFamily:
    """One family, or one variant of it, at the smallest size that keeps its structure.

    Attributes:
        name: key in FAMILIES or VARIANTS.
        config_class: name of the configuration class in transformers.
        settings: the configuration's arguments beyond the ones that every family shares.
        family: `config.model_type`.
        parallel: attention and MLP read the same residual, so no resid_mid exists.
        n_heads: query heads.
        n_kv_heads: key and value heads.
        d_head: width of one head.
        d_mlp: neurons of a dense MLP (of one expert, where mlp_post does not exist).
        positions: how the model knows positions.
        rms_final_norm: the final norm is an RMSNorm (no mean is subtracted).
        final_norm: a final norm exists.
        sdpa: transformers lets the model run with attn_implementation="sdpa".
        sdpa_equals_eager: False where transformers' two attentions compute different numbers.
        moe_layers: layers whose MLP is fused experts, where mlp_post does not exist.
        sliding_layers: layers that attend to SLIDING_WINDOW positions only.
        embedding_scale: what the model multiplies an embedding by on its way into the residual stream.
        linear_gain: spread of a linear map's output for inputs of spread 1.
        query_gain: extra factor on the query weights of a family that does not divide its scores by sqrt(d_head).
    """

    name: str
    config_class: str
    settings: Mapping[str, Any] = field(repr=False, compare=False)
    family: str
    parallel: bool = False
    n_heads: int = N_HEADS
    n_kv_heads: int = N_HEADS
    d_head: int = D_MODEL // N_HEADS
    d_mlp: int = D_MLP
    positions: Literal["rotary", "learned", "alibi"] = "rotary"
    rms_final_norm: bool = True
    final_norm: bool = True
    sdpa: bool = True
    sdpa_equals_eager: bool = True
    moe_layers: tuple[int, ...] = ()
    sliding_layers: tuple[int, ...] = ()
    embedding_scale: float = 1.0
    linear_gain: float = 1.2
    query_gain: float = 1.0
    n_layers: int = N_LAYERS
    d_model: int = D_MODEL
    vocab_size: int = VOCAB_SIZE

    @property
    def mlp_post_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer in range(self.n_layers) if layer not in self.moe_layers)

    @property
    def has_mlp_post(self) -> bool:
        """True if every layer has mlp_post; `mlp_post_layers` says which ones do in a mixed model."""
        return not self.moe_layers

    def config(self) -> PreTrainedConfig:
        arguments = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": D_MODEL,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS,
            "max_position_embeddings": MAX_POSITIONS,
            "pad_token_id": PAD_ID,
            "eos_token_id": EOS_ID,
            "bos_token_id": BOS_ID,
        }
        return getattr(transformers, self.config_class)(**(arguments | dict(self.settings)))

    def build(self, attention: str = "eager", dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
        """The model in eval mode; the same seed gives the same weights for every attention and dtype."""
        with torch.random.fork_rng(devices=[]):
            # Given here and not by `.to` afterwards, which would round the rotary frequencies as no loaded model does.
            model = AutoModelForCausalLM.from_config(self.config(), attn_implementation=attention, dtype=dtype)
        if self.moe_layers and dtype == torch.float64:
            # The default, one grouped product for all experts, has no double form.
            model.set_experts_implementation("eager")
        self._draw_weights(model, torch.Generator().manual_seed(seed))
        return model.eval()

    def __str__(self) -> str:
        return self.name

    @torch.no_grad()
    def _draw_weights(self, model: PreTrainedModel, generator: torch.Generator) -> None:
        input_embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        final_norm = [module for module in model.modules() if _is_norm(module)][-1]
        tied = head.weight is input_embedding.weight
        # Smaller when tied, or the model mostly repeats its last token.
        embedding_std = (TIED_STD if tied else 1.0) / self.embedding_scale
        # A tied head is not multiplied by the embedding's scale, and would leave the logits nearly uniform.
        final_norm_gain = self.embedding_scale if tied else 1.0
        drawn: set[int] = set()
        for path, module in model.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                if id(weight) in drawn:
                    continue
                drawn.add(id(weight))
                noise = torch.randn(weight.shape, generator=generator)
                if _is_norm(module) and "weight" in name:
                    # Added, since a fresh weight is 0 in Gemma's norms, which multiply by 1 + w, and 1 in the others.
                    gain = final_norm_gain if module is final_norm else 1.0
                    weight.copy_(weight.float() + (gain - 1.0) + 0.1 * noise)
                elif weight.dim() == 1:
                    weight.copy_(0.1 * noise)
                elif isinstance(module, nn.Embedding):
                    weight.copy_(noise * (embedding_std if module is input_embedding else POSITION_STD))
                else:
                    fan_in = weight.shape[0] if type(module).__name__ == "Conv1D" else weight.shape[-1]
                    gain = HEAD_GAIN if module is head else self.linear_gain
                    if path.endswith("q_proj"):
                        gain *= self.query_gain
                    weight.copy_(noise * gain / fan_in**0.5)
        # A logit of exactly 0 is never the largest of 512, so no generation stops before a test wants it to.
        head.weight[EOS_ID] = 0.0
        if head.bias is not None:
            head.bias[EOS_ID] = 0.0


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


_GATED = {"intermediate_size": D_MLP}
_GQA = {**_GATED, "num_key_value_heads": 2}
# 4 * 16 is not D_MODEL, which catches code that takes one for the other.
_WIDE_HEADS = {**_GQA, "head_dim": 16}
_ALTERNATING = {
    "sliding_window": SLIDING_WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * (N_LAYERS // 2),
}
_GEMMA_SCALE = D_MODEL**0.5
_PARTIAL_ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}}
_GPT2_NAMES = {"n_positions": MAX_POSITIONS, "n_embd": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS}
_UNTIED_FALCON = {"ffn_hidden_size": D_MLP, "tie_word_embeddings": False}
_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4}
_ALL_LAYERS = tuple(range(N_LAYERS))


def _llama_like(name: str, family: str, config_class: str, settings: dict[str, Any], **facts: Any) -> TinyFamily:
    d_head = settings.get("head_dim", D_MODEL // N_HEADS)
    facts.setdefault("n_kv_heads", settings.get("num_key_value_heads", N_HEADS))
    return TinyFamily(name, config_class, settings, family, d_head=d_head, **facts)


def _by_name(*families: TinyFamily) -> dict[str, TinyFamily]:
    return {family.name: family for family in families}


FAMILIES: dict[str, TinyFamily] = _by_name(
    _llama_like("llama", "llama", "LlamaConfig", _WIDE_HEADS | {"tie_word_embeddings": True}),
    _llama_like("mistral", "mistral", "MistralConfig", _WIDE_HEADS | {"sliding_window": None}),
    _llama_like("qwen2", "qwen2", "Qwen2Config", _GQA),
    _llama_like("qwen3", "qwen3", "Qwen3Config", _WIDE_HEADS),
    _llama_like("gemma", "gemma", "GemmaConfig", _WIDE_HEADS, embedding_scale=_GEMMA_SCALE),
    _llama_like(
        "gemma2",
        "gemma2",
        "Gemma2Config",
        _WIDE_HEADS | {"query_pre_attn_scalar": 24, "sliding_window": MAX_POSITIONS},
        sdpa=False,
        embedding_scale=_GEMMA_SCALE,
    ),
    _llama_like(
        "gemma3",
        "gemma3_text",
        "Gemma3TextConfig",
        _WIDE_HEADS | {"query_pre_attn_scalar": 24, **_ALTERNATING, "sliding_window": MAX_POSITIONS},
        embedding_scale=_GEMMA_SCALE,
    ),
    _llama_like("phi", "phi", "PhiConfig", _GQA | _PARTIAL_ROTARY, parallel=True, rms_final_norm=False),
    _llama_like("phi3", "phi3", "Phi3Config", _GQA),
    TinyFamily(
        "gpt2", "GPT2Config", _GPT2_NAMES | {"n_inner": D_MLP}, "gpt2", positions="learned", rms_final_norm=False
    ),
    TinyFamily(
        "gpt_neo",
        "GPTNeoConfig",
        _GATED | {"attention_types": [[["global"], N_LAYERS]]},
        "gpt_neo",
        positions="learned",
        rms_final_norm=False,
        sdpa=False,
        linear_gain=1.6,
        query_gain=(D_MODEL / N_HEADS) ** -0.5,
    ),
    TinyFamily("gpt_neox", "GPTNeoXConfig", _GATED | _PARTIAL_ROTARY, "gpt_neox", parallel=True, rms_final_norm=False),
    TinyFamily(
        "gptj",
        "GPTJConfig",
        _GPT2_NAMES | {"n_inner": D_MLP, "rotary_dim": 6},
        "gptj",
        parallel=True,
        rms_final_norm=False,
        sdpa=False,
    ),
    TinyFamily("opt", "OPTConfig", {"ffn_dim": D_MLP}, "opt", positions="learned", rms_final_norm=False),
    TinyFamily(
        "bloom",
        "BloomConfig",
        {},
        "bloom",
        d_mlp=4 * D_MODEL,
        positions="alibi",
        rms_final_norm=False,
        sdpa=False,
        linear_gain=1.6,
    ),
    TinyFamily(
        "falcon",
        "FalconConfig",
        {"ffn_hidden_size": D_MLP},
        "falcon",
        parallel=True,
        n_kv_heads=1,
        rms_final_norm=False,
    ),
    _llama_like("olmo2", "olmo2", "Olmo2Config", _GQA),
    _llama_like("granite", "granite", "GraniteConfig", _GQA | {"attention_multiplier": (D_MODEL / N_HEADS) ** -0.5}),
    _llama_like("cohere", "cohere", "CohereConfig", _GQA | {"logit_scale": 1.0}, parallel=True, rms_final_norm=False),
    _llama_like("stablelm", "stablelm", "StableLmConfig", _GQA | _PARTIAL_ROTARY, rms_final_norm=False),
    _llama_like("starcoder2", "starcoder2", "Starcoder2Config", _GQA, rms_final_norm=False),
    _llama_like("mixtral", "mixtral", "MixtralConfig", _WIDE_HEADS | _EXPERTS, moe_layers=_ALL_LAYERS),
    _llama_like(
        "qwen3_moe",
        "qwen3_moe",
        "Qwen3MoeConfig",
        _WIDE_HEADS | _EXPERTS | {"moe_intermediate_size": 40},
        d_mlp=40,
        moe_layers=_ALL_LAYERS,
    ),
)
"""One of each family, in the form that most published checkpoints of it have."""

VARIANTS: dict[str, TinyFamily] = _by_name(
    _llama_like(
        "llama_untied_biased", "llama", "LlamaConfig", _WIDE_HEADS | {"attention_bias": True, "mlp_bias": True}
    ),
    _llama_like(
        "mistral_sliding",
        "mistral",
        "MistralConfig",
        _WIDE_HEADS | {"sliding_window": SLIDING_WINDOW},
        sliding_layers=_ALL_LAYERS,
    ),
    _llama_like(
        "gemma2_sliding",
        "gemma2",
        "Gemma2Config",
        _WIDE_HEADS | {"query_pre_attn_scalar": 24, **_ALTERNATING},
        sdpa=False,
        sliding_layers=_ALL_LAYERS[::2],
        embedding_scale=_GEMMA_SCALE,
    ),
    # The published caps, 50 and 30, would hardly touch numbers as small as these.
    _llama_like(
        "gemma2_soft_caps",
        "gemma2",
        "Gemma2Config",
        _WIDE_HEADS | {"sliding_window": MAX_POSITIONS, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        sdpa=False,
        embedding_scale=_GEMMA_SCALE,
    ),
    _llama_like(
        "gemma3_sliding",
        "gemma3_text",
        "Gemma3TextConfig",
        _WIDE_HEADS | {"query_pre_attn_scalar": 24, **_ALTERNATING},
        sliding_layers=_ALL_LAYERS[::2],
        embedding_scale=_GEMMA_SCALE,
    ),
    _llama_like(
        "phi_qk_layernorm",
        "phi",
        "PhiConfig",
        _GQA | _PARTIAL_ROTARY | {"qk_layernorm": True},
        parallel=True,
        rms_final_norm=False,
    ),
    TinyFamily(
        "gpt_neo_local",
        "GPTNeoConfig",
        _GATED | {"attention_types": [[["global", "local", "global", "global"], 1]], "window_size": SLIDING_WINDOW},
        "gpt_neo",
        positions="learned",
        rms_final_norm=False,
        sdpa=False,
        linear_gain=1.6,
        query_gain=(D_MODEL / N_HEADS) ** -0.5,
        sliding_layers=(1,),
    ),
    TinyFamily(
        "gpt_neox_sequential",
        "GPTNeoXConfig",
        _GATED | _PARTIAL_ROTARY | {"use_parallel_residual": False},
        "gpt_neox",
        rms_final_norm=False,
    ),
    TinyFamily(
        "opt_post_norm",
        "OPTConfig",
        {"ffn_dim": D_MLP, "do_layer_norm_before": False, "word_embed_proj_dim": 32, "tie_word_embeddings": False},
        "opt",
        positions="learned",
        rms_final_norm=False,
        final_norm=False,
    ),
    TinyFamily(
        "falcon_40b",
        "FalconConfig",
        _UNTIED_FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
        "falcon",
        parallel=True,
        n_kv_heads=2,
        rms_final_norm=False,
    ),
    TinyFamily(
        "falcon_11b",
        "FalconConfig",
        _UNTIED_FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        "falcon",
        parallel=True,
        n_kv_heads=2,
        rms_final_norm=False,
    ),
    TinyFamily(
        "falcon_rw",
        "FalconConfig",
        _UNTIED_FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        "falcon",
        positions="alibi",
        # transformers 5.23 adds alibi twice under eager: in the mask, as sdpa needs it, and again to the scores.
        sdpa_equals_eager=False,
        rms_final_norm=False,
    ),
    _llama_like(
        "granite_multipliers",
        "granite",
        "GraniteConfig",
        _GQA
        | {
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.5,
            "attention_multiplier": 0.4,
            "logits_scaling": 0.7,
        },
        embedding_scale=6.0,
    ),
    _llama_like(
        "cohere_qk_norm",
        "cohere",
        "CohereConfig",
        _GQA | {"use_qk_norm": True, "logit_scale": 1.0},
        parallel=True,
        rms_final_norm=False,
    ),
    _llama_like(
        "cohere_logit_scale",
        "cohere",
        "CohereConfig",
        _GQA | {"logit_scale": 1.25},
        parallel=True,
        rms_final_norm=False,
    ),
    _llama_like(
        "stablelm_parallel",
        "stablelm",
        "StableLmConfig",
        _GQA | _PARTIAL_ROTARY | {"use_parallel_residual": True, "use_qkv_bias": True},
        parallel=True,
        rms_final_norm=False,
    ),
    _llama_like(
        "stablelm_qk_layernorm",
        "stablelm",
        "StableLmConfig",
        _GQA | _PARTIAL_ROTARY | {"qk_layernorm": True},
        rms_final_norm=False,
    ),
    _llama_like(
        "qwen3_moe_one_dense",
        "qwen3_moe",
        "Qwen3MoeConfig",
        _WIDE_HEADS | _EXPERTS | {"moe_intermediate_size": 40, "mlp_only_layers": [1]},
        moe_layers=(0, 2, 3),
    ),
)
"""Forms of the same families whose blocks are built differently."""

ALL: dict[str, TinyFamily] = FAMILIES | VARIANTS


def save_tiny(name: str, folder: str | Path, seed: int = 0, bos: bool = False) -> Path:
    """Save a model and the byte-level tokenizer where `from_pretrained` finds them; returns the folder."""
    folder = Path(folder)
    ALL[name].build(seed=seed).save_pretrained(folder)
    tiny_tokenizer(bos).save_pretrained(folder)
    return folder
