"""Mappings: what happens to a representation on its way from source to target (the paper's f).

A mapping compiles to the intervention that writes it. Knows widths and sites, no prompts.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, fields
from typing import Any, Final

from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.interventions import Intervention, Replace
from bathyscope.sites import Site


class Mapping(ABC):
    """From a representation at a source site to the intervention at a target site; members are frozen dataclasses."""

    @abstractmethod
    def intervention(self, representation: Tensor, source: Site, target: Site) -> Intervention:
        """What to write at the target for a representation read at the source, (...site shape)."""

    def target_width(self, source_width: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is written for representations of a shape; the same unless a mapping changes it."""
        return source_width

    def spec(self) -> dict[str, Any]:
        """Name and parameters, as JSON values, for provenance."""
        parameters = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"mapping": type(self).__name__, **parameters}

    def check_widths(self, source_width: tuple[int, ...], target_width: tuple[int, ...]) -> None:
        """Refuse a source and a target whose widths this mapping does not join.

        Raises:
            UsageError: naming both widths.
        """
        if self.target_width(source_width) != target_width:
            raise UsageError(
                f"representations of width {source_width} were to be written where the width is {target_width}",
                f"the mapping {type(self).__name__} keeps the width",
                "models of one width, or a mapping that changes it",
            )


@dataclass(frozen=True)
class Identity(Mapping):
    """The representation as it is.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Identity
        >>> from bathyscope.sites import Site
        >>> Identity().intervention(torch.ones(2), Site("embed"), Site("embed")).value.tolist()
        [1.0, 1.0]
    """

    @override
    def intervention(self, representation: Tensor, source: Site, target: Site) -> Intervention:
        del source, target
        return Replace(representation)


@dataclass(frozen=True)
class Scale(Mapping):
    """The representation times a factor.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Scale
        >>> from bathyscope.sites import Site
        >>> Scale(3.0).intervention(torch.ones(2), Site("embed"), Site("embed")).value.tolist()
        [3.0, 3.0]
    """

    factor: float

    @override
    def intervention(self, representation: Tensor, source: Site, target: Site) -> Intervention:
        del source, target
        return Replace(representation * self.factor)


@dataclass(frozen=True)
class NormMatch(Mapping):
    """The representation's direction at the norm of what it replaces.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import NormMatch
        >>> from bathyscope.sites import Site
        >>> write = NormMatch().intervention(torch.tensor([3.0, 4.0]), Site("embed"), Site("embed"))
        >>> write.apply(torch.tensor([[0.0, 10.0]])).tolist()
        [[6.0, 8.0]]
    """

    @override
    def intervention(self, representation: Tensor, source: Site, target: Site) -> Intervention:
        del source, target
        return Replace(representation, match_norm=True)


MAPPINGS: Final[dict[str, type[Mapping]]] = {kind.__name__: kind for kind in (Identity, Scale, NormMatch)}
"""The mappings by name, as `Mapping.spec` names them."""


def mapping_of(spec: AnyMapping[str, Any]) -> Mapping:
    """The mapping that a spec describes.

    Raises:
        UsageError: no mapping has that name.
    """
    kind = MAPPINGS.get(spec["mapping"])
    if kind is None:
        raise UsageError(f"no mapping is called {spec['mapping']!r}", f"mappings are {', '.join(MAPPINGS)}")
    return kind(**{entry.name: spec[entry.name] for entry in fields(kind)})  # type: ignore[arg-type]
