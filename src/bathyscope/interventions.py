"""Interventions: what can be written at a site, as values that can be printed, compared and hashed.

Knows nothing of models: `apply` sees the activations at the written positions and returns new ones.
Where and when a write happens is a `Write`; `hooks` carries it out.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import InterventionError, PositionError, UsageError
from bathyscope.sites import Site

When = Literal["prompt", "generated", "always"]


class Intervention(ABC):
    """What is written in place of an activation.

    A new kind is a frozen dataclass (`eq=False`) with `apply`; its fields are its content. Two
    interventions are equal when their content is, to the last bit.
    """

    @abstractmethod
    def apply(self, activation: Tensor) -> Tensor:
        """New activations for old ones, both (n_positions, ...site shape)."""

    @property
    def reads(self) -> Site | None:
        """A site that is met earlier in the same pass, and on which what is written depends; None for most kinds."""
        return None

    together: ClassVar[bool] = False
    """Whether prompts that are written at the same positions are given at once, one after another."""

    def apply_given(self, activation: Tensor, read: Tensor) -> Tensor:
        """As `apply`, given what the same positions hold at `reads`, (n_positions, ...that site's shape)."""
        del read
        return self.apply(activation)

    def fingerprint(self) -> str:
        """SHA-256 of the kind and of every field: a tensor's dtype, shape and bytes, or a value's repr.

        Example:
            >>> from bathyscope.interventions import Scale
            >>> Scale(2.0).fingerprint() == Scale(2.0).fingerprint() != Scale(3.0).fingerprint()
            True
        """
        # Kept, since a plan compares the writes of thousands of cells, and content never changes.
        known = self.__dict__.get("_fingerprint")
        if known is None:
            known = self._digest()
            object.__setattr__(self, "_fingerprint", known)
        return known

    def _digest(self) -> str:
        digest = hashlib.sha256(type(self).__qualname__.encode())
        for entry in fields(self):  # type: ignore[arg-type]  # every kind is a dataclass
            value = getattr(self, entry.name)
            digest.update(f"|{entry.name}=".encode())
            if isinstance(value, Tensor):
                digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
                value = value.cpu().contiguous().reshape(-1)
                digest.update(value.view(torch.uint8).numpy().tobytes())
            else:
                digest.update(repr(value).encode())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash(self.fingerprint())


@dataclass(frozen=True, eq=False)
class Replace(Intervention):
    """Write a value: one for every position (site shape), or one each (n_positions, ...site shape).

    Args:
        value: copied on entry.
        match_norm: rescale the value to the norm of the activation that it replaces.

    Example:
        >>> import torch
        >>> from bathyscope.interventions import Replace
        >>> Replace(torch.ones(2)).apply(torch.zeros(3, 2)).sum().item()
        6.0
    """

    value: Tensor
    match_norm: bool = False

    def __post_init__(self) -> None:
        _own(self, "value")

    @override
    def apply(self, activation: Tensor) -> Tensor:
        value = _fit(self.value, activation)
        if self.match_norm:
            dims = tuple(range(1, activation.ndim))
            norm = torch.linalg.vector_norm(activation, dim=dims, keepdim=True)
            own = torch.linalg.vector_norm(value, dim=dims, keepdim=True)
            value = value * (norm / own.clamp_min(torch.finfo(value.dtype).tiny))
        return value


@dataclass(frozen=True, eq=False)
class Add(Intervention):
    """Add a direction, times a factor.

    Example:
        >>> import torch
        >>> from bathyscope.interventions import Add
        >>> Add(torch.ones(2), factor=3.0).apply(torch.zeros(1, 2)).tolist()
        [[3.0, 3.0]]
    """

    direction: Tensor
    factor: float = 1.0

    def __post_init__(self) -> None:
        _own(self, "direction")

    @override
    def apply(self, activation: Tensor) -> Tensor:
        return activation + self.factor * _fit(self.direction, activation)


@dataclass(frozen=True, eq=False)
class Scale(Intervention):
    """Multiply the activation by a factor.

    Example:
        >>> import torch
        >>> from bathyscope.interventions import Scale
        >>> Scale(0.5).apply(torch.ones(1, 2)).tolist()
        [[0.5, 0.5]]
    """

    factor: float

    @override
    def apply(self, activation: Tensor) -> Tensor:
        return activation * self.factor


@dataclass(frozen=True, eq=False)
class Ablate(Intervention):
    """Remove the activation: write zero, or the mean that is given (site shape).

    Example:
        >>> import torch
        >>> from bathyscope.interventions import Ablate
        >>> Ablate().apply(torch.ones(1, 2)).tolist()
        [[0.0, 0.0]]
    """

    mean: Tensor | None = None

    def __post_init__(self) -> None:
        if self.mean is not None:
            _own(self, "mean")

    @override
    def apply(self, activation: Tensor) -> Tensor:
        return torch.zeros_like(activation) if self.mean is None else _fit(self.mean, activation)


@dataclass(frozen=True, eq=False)
class Noise(Intervention):
    """Add noise; the same seed gives the same noise everywhere.

    Args:
        std: standard deviation of Gaussian noise; the bound on both sides of 0 of uniform noise.
        seed: of the draw.
        kind: "gaussian" or "uniform".

    Example:
        >>> import torch
        >>> from bathyscope.interventions import Noise
        >>> noise, at = Noise(1.0, seed=3), torch.zeros(2, 4)
        >>> bool((noise.apply(at) == noise.apply(at)).all())
        True
    """

    std: float
    seed: int = 0
    kind: Literal["gaussian", "uniform"] = "gaussian"

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "uniform"):
            raise UsageError(f"noise of kind {self.kind!r} was given", "it is 'gaussian' or 'uniform'")

    @override
    def apply(self, activation: Tensor) -> Tensor:
        # Drawn in float32 on the CPU, so that dtype and device do not change which noise it is.
        generator = torch.Generator().manual_seed(self.seed)
        if self.kind == "uniform":
            noise = torch.rand(activation.shape, generator=generator) * 2 - 1
        else:
            noise = torch.randn(activation.shape, generator=generator)
        return activation + self.std * noise.to(activation)


@dataclass(frozen=True, eq=False)
class CutEdges(Intervention):
    """Cut attention edges: the written positions, as queries, may not attend to some keys (arXiv 2304.14767).

    Written at `pattern.layer` for all heads, or at `pattern.layer.head` for one. The mask is changed, not the
    pattern, so that what attention is left sums to 1; it needs no eager attention.

    Args:
        keys: token indices of the prompt, from 0.
        missing_ok: whether a layer may have none of these edges, as one with a sliding window; otherwise that raises.

    Example:
        >>> import bathyscope
        >>> from bathyscope.interventions import CutEdges, Write
        >>> model = bathyscope.load()
        >>> cut = [Write(f"pattern.{layer}", CutEdges(range(4)), position=4) for layer in range(model.n_layers)]
        >>> alone = bathyscope.run(model, "The capital of France is", writes=cut).logits[0][-1]
        >>> bool((alone - bathyscope.run(model, " is").logits[0][-1]).abs().max() < 1e-3)
        True
    """

    keys: tuple[int, ...]
    missing_ok: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(dict.fromkeys(self.keys)))
        if not self.keys or min(self.keys) < 0:
            raise UsageError(f"CutEdges was given keys {self.keys}", "token indices from 0, at least one")

    @override
    def apply(self, activation: Tensor) -> Tensor:
        """Which edges stay open, (n_positions, keys), of those that are."""
        n_keys = activation.shape[-1]
        if max(self.keys) >= n_keys:
            raise PositionError(f"an edge to key {max(self.keys)} was cut", f"there are keys 0 to {n_keys - 1} here")
        after = activation.clone()
        after[..., list(self.keys)] = False
        return after


@dataclass(frozen=True)
class Write:
    """One intervention at one site: which prompt, which positions, when.

    Args:
        site: where.
        intervention: what.
        position: a token index of the prompt, several of them, or None for all. Negative ones count
            from the end of the prompt. Padding never shifts them.
        row: which prompt of the batch, or None for every one.
        when: "prompt" writes at `position` while the prompt is read, "generated" at every token
            generated after it, "always" at both.

    Example:
        >>> from bathyscope.interventions import Ablate, Write
        >>> Write("attn_out.3", Ablate(), position=-1).site
        Site('attn_out.3')
    """

    site: Site
    intervention: Intervention
    position: int | tuple[int, ...] | None = None
    row: int | None = None
    when: When = "prompt"

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", Site.parse(self.site))
        if self.when not in ("prompt", "generated", "always"):
            raise UsageError(f"when={self.when!r} was given", "writes happen at 'prompt', 'generated' or 'always'")
        cuts = isinstance(self.intervention, CutEdges)
        if self.site.component == "pattern" and not cuts:
            raise UsageError(
                f"{type(self.intervention).__name__} was to be written at pattern",
                "attention has already used its probabilities where they can be read",
                "CutEdges there, or a write at z, which is what the pattern mixes",
            )
        if cuts and self.site.component != "pattern":
            raise UsageError(f"CutEdges was to be written at {self.site}", "edges are cut at pattern", "pattern.5")

    def indices(self, n_tokens: int) -> list[int]:
        """The written positions of a prompt of so many tokens, counted from its start.

        Raises:
            PositionError: the prompt has no such position.

        Example:
            >>> from bathyscope.interventions import Ablate, Write
            >>> Write("attn_out.3", Ablate(), position=(0, -1)).indices(5)
            [0, 4]
        """
        position = self.position
        positions = range(n_tokens) if position is None else (position,) if isinstance(position, int) else position
        return [token_index(one, n_tokens) for one in positions]


def token_index(position: int, n_tokens: int) -> int:
    """A position as an index from the start of its prompt.

    Raises:
        PositionError: the prompt has no such position.

    Example:
        >>> from bathyscope.interventions import token_index
        >>> token_index(-1, 5)
        4
    """
    if not -n_tokens <= position < n_tokens:
        raise PositionError(
            f"position {position} does not exist",
            f"the prompt has {n_tokens} token{'s' * (n_tokens > 1)}, positions 0 to {n_tokens - 1}",
            "last",
        )
    return position % n_tokens


def _own(intervention: Intervention, name: str) -> None:
    """Keep a copy, so that nobody's later change of the tensor changes the intervention."""
    value = getattr(intervention, name)
    if not isinstance(value, Tensor):
        raise UsageError(
            f"{type(intervention).__name__} was given a {type(value).__name__} as its {name}", "a tensor is needed"
        )
    object.__setattr__(intervention, name, value.detach().clone())


def _fit(value: Tensor, activation: Tensor) -> Tensor:
    """The value at the activation's shape, dtype and device; only positions are ever broadcast."""
    if value.shape not in (activation.shape, activation.shape[1:]):
        raise InterventionError(
            f"a value of shape {tuple(value.shape)} was written over activations of shape {tuple(activation.shape)}",
            f"it must have shape {tuple(activation.shape[1:])}, or one of these for each position",
            "a value of that shape, or models of one width",
        )
    return value.to(activation).expand_as(activation)
