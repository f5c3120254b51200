"""Result: what every public method returns, what is stored, and what the command line and web app read.

A result type stands beside its method and names its `kind`; here is what all share: provenance, JSON
with safetensors beside it, a frame, a page. Knows kinds, not methods, and no model.
"""

import json
import platform
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bathyscope.errors import BathyscopeError, StorageError, UsageError
from bathyscope.files import write_atomically

if TYPE_CHECKING:
    import pandas
    from torch import Tensor

SCHEMA_VERSION = 1
"""Version of the stored form; a file of a newer one is refused."""

_KINDS: dict[str, type["Result"]] = {}

_HOMES = {
    "patchscope": "bathyscope.patchscope_result",
    "lens": "bathyscope.lens_result",
    "attribution": "bathyscope.attribution.result",
    "completeness": "bathyscope.attribution.cuts",
    "edges": "bathyscope.attribution.edge_result",
    "direction": "bathyscope.steering.directions",
    "steering": "bathyscope.steering.result",
    "causal": "bathyscope.causal.result",
    "probing": "bathyscope.probing.result",
    "latent-readings": "bathyscope.sae.reading.result",
    "coder-evaluation": "bathyscope.sae.evaluation",
    "coder-evaluations": "bathyscope.sae.evaluation",
    "attribute-extraction": "bathyscope.studies.attribute_extraction_study.result",
    "multihop": "bathyscope.studies.multihop_study.result",
    "next-token": "bathyscope.studies.next_token_study.result",
    "cross-model": "bathyscope.studies.cross_model_study.result",
    "entity-resolution": "bathyscope.studies.entity_resolution_study.result",
    "tokenization": "bathyscope.studies.tokenization_study.result",
    "toy-agreement": "bathyscope.studies.toy_agreement_study.result",
    "agreement": "bathyscope.studies.agreement_study.result",
    "circuit": "bathyscope.circuits.circuit_result",
    "circuit-edit": "bathyscope.circuits.edit_result",
    "attribution-graph": "bathyscope.circuits.attribution_graphs.graph",
}
"""Where each kind is defined, for a file that is read before anything made a result of its kind."""


class Result(ABC):
    """A frozen dataclass that can be saved, loaded, tabulated and looked at.

    A member sets `kind` and implements `rows`, `to_dict`, `from_dict` and `page`; `provenance` is a field.
    """

    kind: ClassVar[str]
    provenance: Mapping[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            _KINDS[cls.kind] = cls

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The measurements as flat records, one a cell."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Everything but tensors, as JSON values; it names its `kind` and carries its `provenance`."""

    @abstractmethod
    def page(self) -> str:
        """The body of a self-contained page that shows the result."""

    @classmethod
    @abstractmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> Self:
        """The result that `to_dict` and `tensors` describe."""

    def tensors(self) -> "dict[str, Tensor]":
        """What is kept as tensors, by name."""
        return {}

    def to_json(self) -> str:
        """`to_dict` with the schema version, on one line.

        Example:
            >>> import bathyscope, json
            >>> result = bathyscope.patchscope(
            ...     bathyscope.Source(bathyscope.load(), "Barack Obama", layer=3), bathyscope.Target()
            ... )
            >>> json.loads(result.to_json())["kind"]
            'patchscope'
        """
        return json.dumps({"schema_version": SCHEMA_VERSION, **self.to_dict()}, ensure_ascii=False, allow_nan=False)

    def to_frame(self) -> "pandas.DataFrame":
        """The measurements as a pandas frame, one row a cell.

        Raises:
            UsageError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UsageError("to_frame needs pandas", "it is an extra", 'pip install "bathyscope[frames]"') from None
        return pandas.DataFrame(self.rows())

    def save(self, path: str | Path) -> Path:
        """Write FILE.json, and FILE.safetensors beside it where there are tensors; each whole or not at all.

        Args:
            path: a name that ends in .json, or .html for a page to look at and share.

        Raises:
            StorageError: it cannot be written; an earlier file of that name is intact.
            UsageError: another ending.
        """
        path = Path(path)
        if path.suffix == ".html":
            write_atomically(path, self.to_html().encode())
        elif path.suffix == ".json":
            if tensors := self.tensors():
                from safetensors.torch import save

                write_atomically(path.with_suffix(".safetensors"), save(tensors))
            write_atomically(path, self.to_json().encode())
        else:
            raise UsageError(f"{str(path)!r} was given", "results are written as .json or .html", f"{path.stem}.json")
        return path

    @staticmethod
    def load(path: str | Path) -> "Result":
        """Read what `save` wrote, whatever its kind.

        Raises:
            StorageError: the file is missing, damaged, of an unknown kind or a newer version.
        """
        path = Path(path)
        try:
            data = json.loads(path.read_text("utf-8"))
            beside = path.with_suffix(".safetensors")
            tensors: dict[str, Tensor] = {}
            if beside.exists():
                from safetensors.torch import load_file

                tensors = load_file(beside)
            if data["schema_version"] > SCHEMA_VERSION:
                raise StorageError(
                    f"{path} has schema version {data['schema_version']}",
                    f"this bathyscope reads up to {SCHEMA_VERSION}",
                    "pip install --upgrade bathyscope",
                )
            if data["kind"] in _HOMES:
                import_module(_HOMES[data["kind"]])
            return _KINDS[data["kind"]].from_dict(data, tensors)
        except (BathyscopeError, MemoryError):
            raise
        except Exception as error:
            raise StorageError(
                f"{path} could not be read as a result ({type(error).__name__}: {error})",
                "a JSON file that bathyscope saved, with --out or `Result.save`",
            ) from error

    def to_html(self) -> str:
        """A whole page: no network, no script from elsewhere, every text escaped."""
        from bathyscope.pages import document

        return document(f"bathyscope: {self.title}", self.page())

    @property
    def title(self) -> str:
        """What a page is called."""
        return self.kind

    def _repr_html_(self) -> str:
        return self.page()


def provenance(models: Sequence[Mapping[str, Any]], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Where a result comes from: models, what was asked, versions, time.

    Args:
        models: `Model.provenance` of each model, source first.
        spec: what was asked, as JSON values.
    """
    packages = ("bathyscope", "torch", "transformers", "tokenizers", "safetensors", "numpy")
    return {
        "models": [dict(model) for model in models],
        "spec": dict(spec),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "platform": platform.platform(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
