"""The published file of a Jacobian lens, read and written: what torch saves, in anthropics/jacobian-lens' layout.

`J` holds for each block but the last a matrix (d_model, d_model) that is multiplied from the left, in float16 as a
rule; `source_layers`, `d_model` and `n_prompts` say what it holds. TransformerLens and vllm-lens write the same.
"""

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.sites import Site

NEEDED: Final = ("J", "source_layers", "d_model")
"""Keys without which a file is none of a Jacobian lens; `n_prompts` is missing from some tools' files."""

REMEDY: Final = "bathyscope mapping fit --method jacobian-lens --text FILE --out FILE"


def load_jacobian_lens(path: str | Path, model: Model) -> Affine:
    """Read a Jacobian lens that was fitted with another tool.

    Nothing in the file is executed: tensors, numbers and text are read, anything else is refused. The file does not
    say which model it is for, so that a lens of another model of the same size cannot be told.

    Args:
        path: a `.pt` file with the keys `J`, `source_layers` and `d_model`.
        model: the model that it was fitted on.

    Returns:
        A mapping from the layers that the file has, and from the last block (where J is the identity), to the last
        block's output.

    Raises:
        StorageError: the file is missing, damaged, holds code or is no Jacobian lens.
        UsageError: it is for a model of another width or with other layers.

    Example:
        >>> import bathyscope, tempfile, torch
        >>> from pathlib import Path
        >>> from bathyscope.fitting import load_jacobian_lens
        >>> model, path = bathyscope.load(), Path(tempfile.mkdtemp()) / "lens.pt"
        >>> jacobian = torch.eye(model.d_model, dtype=torch.float16)
        >>> torch.save({"J": {3: jacobian}, "source_layers": [3], "d_model": model.d_model, "n_prompts": 1}, path)
        >>> [str(source) for source, _ in load_jacobian_lens(path, model).terms]
        ['resid_post.3', 'resid_post.29']
    """
    path = Path(path)
    found = _checked(path, _read(path))
    jacobians: Mapping[int, Tensor] = found["J"]
    if found["d_model"] != model.d_model:
        raise UsageError(
            f"{path} is a lens of width {found['d_model']}", f"{model.name} has width {model.d_model}", "its own model"
        )
    if not 0 <= min(jacobians) <= max(jacobians) < model.n_layers - 1:
        raise UsageError(
            f"{path} has layers {min(jacobians)} to {max(jacobians)}",
            f"{model.name} has blocks 0 to {model.n_layers - 1}, and J of the last is known",
            "its own model",
        )
    last = Site("resid_post", model.n_layers - 1)
    terms = {
        (Site("resid_post", layer), last): Term(jacobians[layer].float().T.contiguous()) for layer in sorted(jacobians)
    }
    terms[last, last] = Term(torch.tensor(1.0))
    identity = model_identity(model)
    options = {"n_prompts": found.get("n_prompts"), "file": path.name}
    return Affine(terms, Fit("jacobian-lens", identity, identity, options=options))


def save_jacobian_lens(mapping: Affine, path: str | Path, *, dtype: torch.dtype = torch.float16) -> Path:
    """Write a Jacobian lens for other tools to read.

    The format has blocks below the last only: the terms of the embedding and of the last block are left out.

    Args:
        mapping: a Jacobian lens.
        path: the file, usually `.pt`.
        dtype: of the matrices; float16 as in the published files.

    Raises:
        UsageError: it is no Jacobian lens, has no such block, or a number that the dtype cannot hold.
        StorageError: it cannot be written; what was there is intact.
    """
    if mapping.fit.method != "jacobian-lens":
        raise UsageError(
            f"a {mapping.fit.method} was given", "only a Jacobian lens has such a file", "mapping.save(path)"
        )
    jacobians = {
        source.layer: term.weight.T.contiguous().to(dtype)
        for (source, _), term in mapping.terms.items()
        if source.component == "resid_post" and term.weight.ndim and source.layer is not None
    }
    if not jacobians:
        raise UsageError("a Jacobian lens without a block below the last was given", "at least one is written")
    if not all(torch.isfinite(one).all() for one in jacobians.values()):
        raise UsageError(f"the Jacobian has numbers that {dtype} cannot hold", "", "dtype=torch.float32")
    content = {
        "J": jacobians,
        "n_prompts": int(mapping.fit.options.get("n_prompts") or 0),
        "source_layers": sorted(jacobians),
        "d_model": len(next(iter(jacobians.values()))),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(Path(path), buffer.getvalue())
    return Path(path)


def _read(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old file's tensors are of a class that torch is about to drop
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its readers raise, of any kind
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"{path} could not be read ({type(error).__name__}: {reason})",
            "a file of tensors, numbers and text that torch saved; one with anything else in it is not opened",
            REMEDY,
        ) from error


def _checked(path: Path, found: Any) -> Mapping[str, Any]:
    """The content, having made sure that it is of the published form."""
    missing = [name for name in NEEDED if name not in found] if isinstance(found, dict) else list(NEEDED)
    if missing:
        has = ", ".join(map(str, list(found)[:8])) if isinstance(found, dict) else type(found).__name__
        raise StorageError(f"{path} has no {', '.join(missing)}; it has {has}", "a Jacobian lens is needed", REMEDY)
    jacobians, width = found["J"], found["d_model"]
    if not isinstance(width, int) or not isinstance(jacobians, dict) or not jacobians:
        raise StorageError(f"{path} has no matrices by layer, or no width", "a Jacobian lens is needed", REMEDY)
    for layer, jacobian in jacobians.items():
        if not (
            isinstance(layer, int)
            and isinstance(jacobian, Tensor)
            and jacobian.is_floating_point()
            and tuple(jacobian.shape) == (width, width)
            and bool(torch.isfinite(jacobian).all())
        ):
            raise StorageError(
                f"{path} has something else than a finite matrix ({width}, {width}) at layer {layer!r}",
                "a Jacobian lens is needed",
                REMEDY,
            )
    if sorted(found["source_layers"]) != sorted(jacobians):
        raise StorageError(f"{path} lists other layers than it holds", "a Jacobian lens is needed", REMEDY)
    return found
