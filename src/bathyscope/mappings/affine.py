"""Affine: every linear mapping, however it was fitted, with what it was fitted on, and its file.

Ridge and least squares, Procrustes, a mean shift, tuned lens, Jacobian lens and relation Jacobians are
all one matrix (or one factor) and one bias for each pair of sites. How they come about is in `fitting`.
"""

import hashlib
import json
from collections.abc import Mapping as AnyMapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.mappings.base import Mapping
from bathyscope.model import Model
from bathyscope.sites import Site

FORMAT = 1
"""Version of the file; one of a newer version is refused."""

HEADER = "bathyscope_mapping"
"""Where the file's metadata keeps what is not a tensor."""


@dataclass(frozen=True, eq=False)
class Term:
    """What happens between one pair of sites: h times a weight, plus a bias.

    Args:
        weight: a matrix, (source width, target width), or one factor, ().
        bias: (target width,), or None for none.

    Raises:
        UsageError: other shapes, or a number that is not finite.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Term
        >>> Term(torch.tensor(2.0), torch.ones(3)).apply(torch.ones(1, 3)).tolist()
        [[3.0, 3.0, 3.0]]
    """

    weight: Tensor
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        weight, bias = tuple(self.weight.shape), None if self.bias is None else tuple(self.bias.shape)
        fitting = bias is None or (len(bias) == 1 and weight[1:] in ((), bias))
        if len(weight) not in (0, 2) or not fitting:
            raise UsageError(
                f"a weight of shape {weight} and a bias of shape {bias} were given",
                "the weight is (source width, target width) or (), and the bias (target width,)",
            )
        for name in ("weight", "bias"):
            value = getattr(self, name)
            if value is not None and not torch.isfinite(value).all():
                raise UsageError(f"a mapping whose {name} is not finite was given", "finite numbers are needed")
            if value is not None:  # nobody's later change of the tensor changes the mapping
                object.__setattr__(self, name, value.detach().clone())

    def apply(self, representations: Tensor) -> Tensor:
        """(rows, source width) to (rows, target width), in the finer of the two dtypes."""
        dtype = torch.promote_types(representations.dtype, self.weight.dtype)
        weight, rows = self.weight.to(representations.device, dtype), representations.to(dtype)
        mapped = rows @ weight if weight.ndim else rows * weight
        return mapped if self.bias is None else mapped + self.bias.to(mapped)


@dataclass(frozen=True)
class Fit:
    """What a mapping was fitted on.

    Args:
        method: how, such as "ridge" or "tuned-lens".
        source, target: the two models: `model_identity` of each.
        text: what was read (`Texts.describe`).
        n_samples: positions that went into it.
        held_out: for each pair of sites, "SOURCE>TARGET", errors on text that it was not fitted on.
        options: the method's own parameters.
    """

    method: str
    source: AnyMapping[str, Any]
    target: AnyMapping[str, Any]
    text: AnyMapping[str, Any] = field(default_factory=dict)
    n_samples: int = 0
    held_out: AnyMapping[str, AnyMapping[str, float]] = field(default_factory=dict)
    options: AnyMapping[str, Any] = field(default_factory=dict)


def model_identity(model: Model) -> dict[str, Any]:
    """What a fitted mapping remembers of a model, and refuses others by."""
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
    }


@dataclass(frozen=True, eq=False)
class Affine(Mapping):
    """A linear map and a bias for each pair of sites that it was fitted for.

    Two are equal when their terms are, to the last bit. It refuses models that it was not fitted on.

    Args:
        terms: for each pair of source and target site what happens between them.
        fit: what it was fitted on.
        path: the file that it was loaded from, if any.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Affine, Fit, Term
        >>> from bathyscope.sites import Site
        >>> pair = Site("resid_post", 3), Site("resid_post", 5)
        >>> shift = Affine({pair: Term(torch.tensor(1.0), torch.ones(2))}, Fit("mean-shift", {}, {}))
        >>> shift.apply(torch.zeros(1, 2), *pair).tolist()
        [[1.0, 1.0]]
    """

    terms: AnyMapping[tuple[Site, Site], Term]
    fit: Fit
    path: Path | None = None

    @override
    def apply(self, representations: Tensor, source: Site, target: Site) -> Tensor:
        return self.term(source, target).apply(representations)

    def term(self, source: Site, target: Site) -> Term:
        """The term of a pair of sites.

        Raises:
            UsageError: it was not fitted for this pair; those that it was fitted for are named.
        """
        if (source, target) not in self.terms:
            known = sorted(f"{one} to {other}" for one, other in self.terms)
            listed = ", ".join(known[:6]) + (f" and {len(known) - 6} more" if len(known) > 6 else "")
            raise UsageError(
                f"a mapping from {source} to {target} is needed", f"this {self.fit.method} has {listed}", "those layers"
            )
        return self.terms[source, target]

    @override
    def spec(self) -> dict[str, Any]:
        return {"mapping": "Affine", "method": self.fit.method, "mapping_fingerprint": self.fingerprint()}

    @override
    def check(self, source: Model, target: Model, sites: set[tuple[Site, Site]]) -> None:
        for role, model, identity in (("source", source, self.fit.source), ("target", target, self.fit.target)):
            if model.fingerprint != identity.get("fingerprint"):
                raise UsageError(
                    f"this {self.fit.method} was fitted with {identity.get('model')!r} as its {role}, "
                    f"and {model.name!r} ({model.dtype}) was given",
                    "a mapping belongs to the very weights that it was fitted on, dtype included",
                    "bathyscope mapping fit with this model",
                )
        for pair in sorted(sites, key=str):
            self.term(*pair)

    def fingerprint(self) -> str:
        """SHA-256 of the terms: sites, dtypes, shapes and bytes."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # Found once: it is in the key of every cell, and a plan has a hundred thousand of them.
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Affine) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all, with all of `fit` in its header.

        Raises:
            StorageError: it cannot be written; what was there is intact.
        """
        header = json.dumps(
            {"format": FORMAT, "terms": self.fingerprint(), **asdict(self.fit)}, sort_keys=True, allow_nan=False
        )
        # Terms may share memory, which the format has no way to say.
        tensors = {name: tensor.clone() for name, tensor in self._tensors().items()}
        write_atomically(Path(path), save(tensors, {HEADER: header}))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            StorageError: the file is missing, damaged, no mapping, or of a newer version.
        """
        path = Path(path)
        remedy = "bathyscope mapping fit --text FILE --out FILE"
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            if header.pop("format") > FORMAT:
                raise StorageError(f"{path} was written by a newer bathyscope", f"format up to {FORMAT}", remedy)
            wanted = header.pop("terms")
            found = cls(_terms(tensors), Fit(**header), path)
            if found.fingerprint() != wanted:
                raise ValueError("its numbers are not those that were written")
            return found
        except (OSError, SafetensorError, UsageError, AttributeError, KeyError, TypeError, ValueError) as error:
            given = f"{path} could not be read as a mapping ({type(error).__name__}: {error})"
            raise StorageError(given, "a file that `bathyscope mapping fit` wrote", remedy) from error

    def _tensors(self) -> dict[str, Tensor]:
        found = {}
        for (source, target), term in self.terms.items():
            found[f"{source}>{target}.weight"] = term.weight.contiguous()
            if term.bias is not None:
                found[f"{source}>{target}.bias"] = term.bias.contiguous()
        return found


def _terms(tensors: AnyMapping[str, Tensor]) -> dict[tuple[Site, Site], Term]:
    found = {}
    for name, weight in tensors.items():
        pair, _, part = name.rpartition(".")
        if part == "weight":
            source, target = (Site.parse(site) for site in pair.split(">"))
            found[source, target] = Term(weight, tensors.get(f"{pair}.bias"))
    if not found:
        raise ValueError("it holds no weights")
    return found
