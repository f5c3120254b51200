"""Mappings without data behind them: identity, a factor, and the norm of what is replaced."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from bathyscope.interventions import Intervention, Replace
from bathyscope.mappings.base import Mapping
from bathyscope.sites import Site


@dataclass(frozen=True)
class Identity(Mapping):
    """The representation as it is.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Identity
        >>> from bathyscope.sites import Site
        >>> Identity().apply(torch.ones(1, 2), Site("embed"), Site("embed")).tolist()
        [[1.0, 1.0]]
    """

    @override
    def apply(self, representations: Tensor, source: Site, target: Site) -> Tensor:
        del source, target
        return representations


@dataclass(frozen=True)
class Scale(Mapping):
    """The representation times a factor.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Scale
        >>> from bathyscope.sites import Site
        >>> Scale(3.0).apply(torch.ones(1, 2), Site("embed"), Site("embed")).tolist()
        [[3.0, 3.0]]
    """

    factor: float

    @override
    def apply(self, representations: Tensor, source: Site, target: Site) -> Tensor:
        del source, target
        return representations * self.factor


@dataclass(frozen=True)
class NormMatch(Mapping):
    """The representation's direction at the norm of what it replaces.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import NormMatch
        >>> NormMatch().intervention(torch.tensor([3.0, 4.0])).apply(torch.tensor([[0.0, 10.0]])).tolist()
        [[6.0, 8.0]]
    """

    looks_at_target: ClassVar[bool] = True

    @override
    def apply(self, representations: Tensor, source: Site, target: Site) -> Tensor:
        del source, target
        return representations

    @override
    def intervention(self, value: Tensor) -> Intervention:
        return Replace(value, match_norm=True)
