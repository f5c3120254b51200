"""Pairs: a second model made from a loaded one, whose relation to it is known beforehand.

A mapping between two models can be judged only where it is known what there is to find. `rotated` is
the same function in another basis, `sliced` (in `slicing`) nearly the same in a narrower one, `truncated` the same
up to a block. The given model keeps every weight.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.errors import StorageError, UsageError
from bathyscope.loading import wrap
from bathyscope.model import Model

LLAMA_TYPE: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose blocks are an RMSNorm without a mean and linear maps, all named as Llama's."""

READERS: Final = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
"""The norms of a block, and the linear maps that read what each of them makes of the residual stream."""

WRITERS: Final = ("self_attn.o_proj", "mlp.down_proj")
"""The linear maps of a block that add to the residual stream."""

Weights = Mapping[str, Tensor]


def rotated(model: Model, *, seed: int = 0) -> Model:
    """The same function in another basis: every residual vector h becomes h Q, and the logits stay.

    An RMSNorm commutes with a rotation once its weights are folded into the maps that read it. So
    representations of the two models are equal in what they say and unlike in every coordinate: writing
    them across unchanged must fail, and a linear map that was fitted well must be Q.

    Args:
        model: a model of Llama's type.
        seed: decides Q, which is `rotation(model.d_model, seed)`.

    Raises:
        UsageError: the model is of another type.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.studies.cross_model_study.pairs import rotated, rotation
        >>> model = bathyscope.load()
        >>> other = rotated(model)
        >>> ours, theirs = (bathyscope.run(one, "One two", reads=["resid_post.5"]) for one in (model, other))
        >>> bool((ours.logits[0] - theirs.logits[0]).abs().max() < 1e-2)
        True
        >>> turned = ours.activations["resid_post.5"][0] @ rotation(model.d_model).float()
        >>> torch.allclose(turned, theirs.activations["resid_post.5"][0], rtol=1e-2, atol=1e-2)
        True
    """
    weights = in_basis(folded(model), rotation(model.d_model, seed), model.n_layers)
    return made(model, weights, f"{model.name} rotated", tie_word_embeddings=False)


def truncated(model: Model, n_layers: int) -> Model:
    """The model's first blocks with its final norm and unembedding.

    What stands at a layer that both have is the same; what is said of it is another matter.

    Args:
        model: a model of Llama's type.
        n_layers: how many blocks are kept.

    Raises:
        UsageError: the model is of another type, or has not so many blocks.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies.cross_model_study.pairs import truncated
        >>> truncated(bathyscope.load(), 24)
        Model('SmolLM2-135M-Instruct first 24 blocks', llama, 24 layers, d_model 576)
    """
    check_type(model)
    if not 0 < n_layers <= model.n_layers:
        raise UsageError(f"{n_layers} blocks were to be kept", f"{model.name} has {model.n_layers}, at least 1 is kept")
    gone = tuple(f"{model.architecture.blocks}.{layer}." for layer in range(n_layers, model.n_layers))
    weights: dict[str, Tensor] = {
        name: weight for name, weight in model.hf.state_dict().items() if not name.startswith(gone)
    }
    settings: dict[str, Any] = {"num_hidden_layers": n_layers}
    if kinds := getattr(model.hf.config, "layer_types", None):
        settings["layer_types"] = kinds[:n_layers]
    return made(model, weights, f"{model.name} first {n_layers} blocks", **settings)


def save_pair(model: Model, folder: str | Path) -> Path:
    """Keep a model that was made as a checkpoint, which `load` and every command open.

    Args:
        model: from `rotated`, `truncated` or `sliced`.
        folder: made if it is not there.

    Raises:
        StorageError: it cannot be written.
    """
    folder = Path(folder)
    try:
        model.hf.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise StorageError(
            f"{model.name} could not be kept in {folder} ({error.strerror or error})", "", "another folder"
        ) from error
    return folder


def rotation(width: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix, uniform among all, (width, width), float64.

    Example:
        >>> from bathyscope.studies.cross_model_study.pairs import rotation
        >>> bool((rotation(4) @ rotation(4).T).trace().round() == 4)
        True
    """
    generator = torch.Generator().manual_seed(seed)
    basis, upper = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return basis * upper.diagonal().sign()


def check_type(model: Model) -> None:
    """Refuse a model whose blocks are not known to be a norm and linear maps.

    Raises:
        UsageError: naming the families that are.
    """
    family = model.architecture.family
    if family not in LLAMA_TYPE:
        raise UsageError(
            f"a second model was to be made from {model.name}, of family {family}",
            "its norms must be RMSNorms that can be folded into the linear maps behind them, as in "
            + ", ".join(LLAMA_TYPE),
            "the embedded model",
        )


def folded(model: Model) -> dict[str, Tensor]:
    """A model's weights in float64, each norm's folded into the linear maps behind it and then 1.

    Raises:
        UsageError: the model is of another type.
    """
    check_type(model)
    weights = {name: weight.double() for name, weight in model.hf.state_dict().items()}
    behind = {"model.norm": ["lm_head"]}
    for layer in range(model.n_layers):
        for norm, readers in READERS.items():
            behind[f"{_block(layer)}.{norm}"] = [f"{_block(layer)}.{reader}" for reader in readers]
    for norm, readers in behind.items():
        for reader in readers:
            weights[f"{reader}.weight"] = weights[f"{reader}.weight"] * weights[f"{norm}.weight"]
        weights[f"{norm}.weight"] = torch.ones_like(weights[f"{norm}.weight"])
    return weights


def in_basis(weights: Weights, basis: Tensor, n_layers: int) -> dict[str, Tensor]:
    """Folded weights with every residual vector h become h times a basis, whose columns are orthonormal.

    Where there are fewer columns than h is wide, a norm divides by the length of what is left of h, over
    the square root of fewer numbers; its weight puts the latter right.

    Args:
        weights: from `folded`.
        basis: (d_model, new width), float64.
        n_layers: number of blocks.
    """
    width = basis.shape[1]
    found = dict(weights)
    readers = [f"{_block(layer)}.{one}" for layer in range(n_layers) for part in READERS.values() for one in part]
    for name in ("model.embed_tokens", "lm_head", *readers):
        found[f"{name}.weight"] = weights[f"{name}.weight"] @ basis
    for name in (f"{_block(layer)}.{one}" for layer in range(n_layers) for one in WRITERS):
        found[f"{name}.weight"] = basis.T @ weights[f"{name}.weight"]
        if (bias := weights.get(f"{name}.bias")) is not None:
            found[f"{name}.bias"] = bias @ basis
    norms = ["model.norm", *(f"{_block(layer)}.{norm}" for layer in range(n_layers) for norm in READERS)]
    gain = torch.full((width,), (basis.shape[0] / width) ** 0.5, dtype=torch.float64)
    return found | {f"{norm}.weight": gain for norm in norms}


def made(model: Model, weights: Weights, name: str, **settings: Any) -> Model:
    """A model of the same class and tokenizer with other weights, which are copied, and other settings.

    Args:
        model: whose class, tokenizer, dtype and device it has.
        weights: by the names of its state.
        name: what it is called.
        settings: what differs in its config.
    """
    config = copy.deepcopy(model.hf.config)
    for setting, value in settings.items():
        setattr(config, setting, value)
    with torch.random.fork_rng(devices=[]):
        hf: Any = type(model.hf)(config)  # its random weights are replaced, its buffers stay in float32
    own = {key: weight.to(model.device, model.dtype, copy=True) for key, weight in weights.items()}
    hf.load_state_dict(own, assign=True)
    hf.tie_weights()
    hf.generation_config = copy.deepcopy(model.hf.generation_config)
    return wrap(hf.to(model.device), model.tokenizer, name=name)


def _block(layer: int) -> str:
    return f"model.layers.{layer}"
