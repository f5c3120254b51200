"""What a mapping is: from representations at a source site to what is written at a target site (the paper's f)."""

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.interventions import Intervention, Replace
from bathyscope.model import Model
from bathyscope.sites import Site


class Mapping(ABC):
    """From representations at a source site to the interventions at a target site; members are frozen dataclasses."""

    looks_at_target: ClassVar[bool] = False
    """Whether what is written depends on what it replaces, which must then be computed."""

    @abstractmethod
    def apply(self, representations: Tensor, source: Site, target: Site) -> Tensor:
        """Values for the target, (rows, ...its shape), from what was read at the source, (rows, ...its shape)."""

    def intervention(self, value: Tensor) -> Intervention:
        """What writes one value, (...site shape)."""
        return Replace(value)

    def target_width(self, source_width: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of what is written for representations of a shape; the same unless a mapping changes it."""
        return source_width

    def spec(self) -> dict[str, Any]:
        """Name and parameters, as JSON values, for keys and provenance."""
        parameters = {entry.name: getattr(self, entry.name) for entry in fields(self)}  # type: ignore[arg-type]
        return {"mapping": type(self).__name__, **parameters}

    def check(self, source: Model, target: Model, sites: set[tuple[Site, Site]]) -> None:
        """Refuse models or pairs of source and target sites that this mapping is not for.

        Raises:
            UsageError: saying which it is for.
        """
        for source_site, target_site in sites:
            widths = source.architecture.width(source_site.component), target.architecture.width(target_site.component)
            if self.target_width(widths[0]) != widths[1]:
                raise UsageError(
                    f"representations of width {widths[0]} were to be written where the width is {widths[1]}",
                    f"the mapping {type(self).__name__} keeps the width",
                    "models of one width, or a mapping that changes it (bathyscope mapping fit)",
                )
