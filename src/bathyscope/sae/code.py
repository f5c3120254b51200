"""Code: what a sparse coder makes of activations, and which of its pre-activations it keeps.

A code holds the few latents that are active, not the thousands that are not. Knows no weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.largest import largest


@dataclass(frozen=True, eq=False)
class Code:
    """The active latents of some rows.

    Args:
        indices: which latents, (rows, width), int64; anything where the value is 0.
        values: how active each is, (rows, width), from 0; 0 where a row has fewer than `width`.
        n_latents: how many latents the coder has.
        frame: mean and deviation that a coder with normed inputs took out of each row, (rows, 2); else None.

    Example:
        >>> import torch
        >>> from bathyscope.sae import Code
        >>> code = Code(torch.tensor([[2, 0]]), torch.tensor([[1.5, 0.0]]), n_latents=4)
        >>> code.dense().tolist(), code.l0().tolist()
        ([[0.0, 0.0, 1.5, 0.0]], [1])
    """

    indices: Tensor
    values: Tensor
    n_latents: int
    frame: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def dense(self) -> Tensor:
        """All latents, (rows, n_latents)."""
        # Added, since the place of a value of 0 may be that of another one.
        return self.values.new_zeros(len(self), self.n_latents).scatter_add_(1, self.indices, self.values)

    def l0(self) -> Tensor:
        """How many latents are active in each row, (rows,)."""
        return (self.values != 0).sum(-1)

    def counts(self) -> Tensor:
        """In how many rows each latent is active, (n_latents,)."""
        return torch.bincount(self.indices[self.values != 0], minlength=self.n_latents)

    @classmethod
    def of(cls, latents: Tensor, frame: Tensor | None = None) -> "Code":
        """The code of dense latents, (rows, n_latents), as wide as its fullest row."""
        width = max(1, int((latents != 0).sum(-1).max())) if len(latents) else 1
        values, indices = latents.topk(width, dim=-1)
        return cls(indices, values, latents.shape[-1], frame)


class Selection(ABC):
    """Which pre-activations become latents."""

    @abstractmethod
    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Indices and values of what is kept, each (rows, width), of pre-activations, (rows, n_latents)."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Its name and its numbers, as JSON values; tensors are kept with the weights."""


@dataclass(frozen=True)
class KeepTop(Selection):
    """The k largest of each row, where they are positive (arXiv 2406.04093).

    Example:
        >>> import torch
        >>> from bathyscope.sae import KeepTop
        >>> indices, values = KeepTop(2).select(torch.tensor([[3.0, -1.0, 1.0]]))
        >>> sorted(zip(indices[0].tolist(), values[0].tolist()))
        [(0, 3.0), (2, 1.0)]
    """

    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"k={self.k} was given", "at least one latent is kept", "k=32")

    @override
    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        indices, values = largest(pre, self.k)
        return indices, values.relu_()

    @override
    def spec(self) -> dict[str, Any]:
        return {"selection": "top", "k": self.k}


@dataclass(frozen=True, eq=False)
class KeepAbove(Selection):
    """Those above a threshold from 0: ReLU with threshold 0, JumpReLU with one a latent (arXiv 2407.14435).

    Args:
        threshold: for each latent, (n_latents,), or one for all, ().

    Example:
        >>> import torch
        >>> from bathyscope.sae import KeepAbove
        >>> KeepAbove(torch.tensor(1.0)).select(torch.tensor([[3.0, 0.5, -2.0]]))[1].tolist()
        [[3.0]]
    """

    threshold: Tensor

    def __post_init__(self) -> None:
        if self.threshold.ndim > 1 or not bool((self.threshold >= 0).all()):
            raise UsageError(
                f"a threshold of shape {tuple(self.threshold.shape)} with least value "
                f"{float(self.threshold.min()) if self.threshold.numel() else None} was given",
                "one from 0 for all latents, or one each",
            )

    @override
    def select(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        code = Code.of(torch.where(pre > self.threshold.to(pre), pre, 0))
        return code.indices, code.values

    @override
    def spec(self) -> dict[str, Any]:
        return {"selection": "above"}
