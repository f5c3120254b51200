"""Mappings: what happens to a representation on its way from source to target (the paper's f).

`simple` needs no data, `affine` holds whatever was fitted (by `fitting`), `base` says what both are.
"""

from collections.abc import Mapping as AnyMapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from bathyscope.errors import UsageError
from bathyscope.mappings.affine import Affine, Fit, Term, model_identity
from bathyscope.mappings.base import Mapping
from bathyscope.mappings.simple import Identity, NormMatch, Scale

__all__ = [
    "MAPPINGS",
    "Affine",
    "Fit",
    "Identity",
    "Mapping",
    "NormMatch",
    "Scale",
    "Term",
    "mapping_of",
    "model_identity",
]

MAPPINGS: Final[dict[str, type[Mapping]]] = {kind.__name__: kind for kind in (Identity, Scale, NormMatch)}
"""The mappings without data, by name, as `Mapping.spec` names them."""


def mapping_of(spec: AnyMapping[str, Any]) -> Mapping:
    """The mapping that a run's spec describes; a fitted one is read from its file again.

    Raises:
        UsageError: no mapping has that name, or the file holds another one by now.
    """
    if spec["mapping"] == "Affine":
        return _reloaded(spec)
    kind = MAPPINGS.get(spec["mapping"])
    if kind is None:
        raise UsageError(f"no mapping is called {spec['mapping']!r}", f"mappings are {', '.join(MAPPINGS)}, Affine")
    return kind(**{entry.name: spec[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]


def _reloaded(spec: AnyMapping[str, Any]) -> Affine:
    path = spec.get("mapping_file")
    if path is None:
        raise UsageError(
            f"the run used a {spec['method']} that was in memory only", "", "the call in Python that made it"
        )
    found = Affine.load(Path(path))
    if found.fingerprint() != spec["mapping_fingerprint"]:
        raise UsageError(f"{path} holds another mapping than the run used", "the file must not have changed since")
    return found
