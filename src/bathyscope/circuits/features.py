"""Features: what a circuit is made of, behind one name, whatever basis a site is taken apart in.

A basis takes activations apart into features and an error, and says what each feature writes. Knows no model.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.errors import UsageError
from bathyscope.sae import SparseCoder
from bathyscope.sae.coder import weighted_sum
from bathyscope.sites import Site

ERROR = "error"


@dataclass(frozen=True)
class Feature:
    """A node of a circuit: one feature, or what a basis does not explain, at one position of a site.

    Args:
        site: where, such as "resid_post.12".
        position: token index of the prompts, from 0.
        index: which feature: a latent, a neuron, a head; None for the error.

    Example:
        >>> from bathyscope.circuits import Feature
        >>> str(Feature("resid_post.12", 1, 281)), Feature.parse("resid_post.12/error@1").index
        ('resid_post.12/281@1', None)
    """

    site: str
    position: int
    index: int | None

    def __str__(self) -> str:
        return f"{self.site}/{ERROR if self.index is None else self.index}@{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The feature of such a text.

        Raises:
            UsageError: it is none.
        """
        place, _, position = text.rpartition("@")
        site, _, index = place.rpartition("/")
        if not site or not position.isdigit() or not (index == ERROR or index.isdigit()):
            raise UsageError(f"{text!r} is no feature", "site/number@position", "resid_post.12/281@1")
        return cls(str(Site.parse(site)), int(position), None if index == ERROR else int(index))


@dataclass(frozen=True, eq=False)
class Parts:
    """Activations taken apart: features and an error, which are added and multiplied as one value.

    Args:
        features: (..., n_features * size).
        error: (..., width).
    """

    features: Tensor
    error: Tensor

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(self.features + other.features, self.error + other.error)

    def __sub__(self, other: "Parts") -> "Parts":
        return Parts(self.features - other.features, self.error - other.error)

    def __mul__(self, factor: "Gates | float") -> "Parts":
        if isinstance(factor, Gates):
            return Parts(self.features * factor.features, self.error * factor.error[..., None])
        return Parts(self.features * factor, self.error * factor)

    def __getitem__(self, rows: Any) -> "Parts":
        return Parts(self.features[rows], self.error[rows])


@dataclass(frozen=True, eq=False)
class Gates:
    """What is let through at each position: 1 keeps what is there, 0 ablates it.

    Args:
        features: (positions, n_features * size).
        error: (positions,).
    """

    features: Tensor
    error: Tensor

    def complement(self) -> "Gates":
        """What these shut out."""
        return Gates(1 - self.features, 1 - self.error)


class Basis(ABC):
    """A way to take the activations of a site apart.

    x = written(features) + constant + error, and what a feature writes does not depend on x.
    """

    name: ClassVar[str]
    n_features: int
    width: int
    size: int = 1
    """How many numbers a feature has: 1, or a head's width."""
    explains_all: bool = False
    """Whether there is no error."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """Features of activations, (..., width) to (..., n_features * size), with a graph where x has one."""

    @abstractmethod
    def written(self, features: Tensor) -> Tensor:
        """What features add to the activation, (..., n_features * size) to (..., width)."""

    @abstractmethod
    def pulled(self, gradient: Tensor) -> Tensor:
        """A gradient by activations, (..., width), as one by features, (..., n_features * size)."""

    def split(self, x: Tensor) -> Parts:
        """Activations taken apart; the constant is counted with neither."""
        features = self.features(x)
        return Parts(features, x - self.written(features) - self.constant)

    @property
    def constant(self) -> Tensor | float:
        """What is there whatever the features, (width,)."""
        return 0.0

    def joined(self, parts: Parts) -> Tensor:
        """Activations of their parts."""
        return self.written(parts.features) + self.constant + parts.error

    def gated(self, x: Tensor, gates: Tensor) -> Tensor:
        """What features add to the activation, each times its gate, (prompts, positions, width).

        Args:
            x: activations, (prompts, positions, width).
            gates: by position, (positions, n_features * size).
        """
        return self.written(self.features(x) * gates)

    def attributions(self, gradient: Tensor, change: Parts) -> Tensor:
        """What a gradient says that a change does to a metric: (..., n_features + 1), the last entry the error's."""
        products = (self.pulled(gradient) * change.features).unflatten(-1, (self.n_features, self.size)).sum(-1)
        return torch.cat([products, (gradient * change.error).sum(-1, keepdim=True)], -1)

    def gates(self, positions: int, kept: Tensor, error: Tensor) -> Gates:
        """Gates of a mask, (positions, n_features), and one of errors, (positions,)."""
        if kept.shape != (positions, self.n_features):
            raise UsageError(
                f"a mask of shape {tuple(kept.shape)} was given", f"({positions}, {self.n_features}) is needed"
            )
        return Gates(kept.repeat_interleave(self.size, -1), error)

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """What it is, as JSON values."""


class Latents(Basis):
    """The latents of a sparse coder, and its error.

    Raises:
        UsageError: a transcoder, or a coder that norms its inputs, whose latents write what depends on the input.

    Example:
        >>> import torch
        >>> from bathyscope.circuits import Latents
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> basis = Latents(SparseCoder(torch.eye(3), torch.zeros(3), torch.eye(3), torch.ones(3), KeepTop(1)))
        >>> parts = basis.split(torch.tensor([[1.0, 5.0, 2.0]]))
        >>> parts.features.tolist(), parts.error.tolist()
        ([[0.0, 5.0, 0.0]], [[0.0, -1.0, 1.0]])
    """

    name = "latents"

    def __init__(self, coder: SparseCoder) -> None:
        if coder.is_transcoder or coder.normed:
            raise UsageError(
                f"{coder} was given as a basis",
                "x = latents + error is needed at one site"
                + (": this is a transcoder" if coder.is_transcoder else ": this coder norms its inputs"),
                "an autoencoder, or attribution_graph(...) for transcoders",
            )
        self.coder, self.n_features, self.width = coder, coder.n_latents, coder.d_in

    @override
    def features(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.width)
        return self.coder.encode(rows).dense().to(x.dtype).reshape(*x.shape[:-1], -1)

    @override
    def written(self, features: Tensor) -> Tensor:
        return features @ self.coder.decoder.to(features)

    @override
    def gated(self, x: Tensor, gates: Tensor) -> Tensor:
        # Of thousands of latents few are active: all but the selection costs what these cost, gradients as well.
        rows = x.reshape(-1, self.width)
        code = self.coder.encode_live(rows)
        positions = torch.arange(len(rows), device=x.device) % len(gates)
        values = code.values * gates.to(code.values)[positions[:, None], code.indices]
        return weighted_sum(code.indices, values, self.coder.decoder.to(values)).to(x.dtype).reshape(x.shape)

    @override
    def pulled(self, gradient: Tensor) -> Tensor:
        return gradient @ self.coder.decoder.to(gradient).T

    @property
    @override
    def constant(self) -> Tensor:
        return self.coder.decoder_bias

    @override
    def spec(self) -> dict[str, Any]:
        return {"basis": self.name, "coder": self.coder.fingerprint}


class Units(Basis):
    """The numbers of a site as they are: MLP neurons at `mlp_post`, coordinates elsewhere, or heads at `z`.

    Args:
        width: of the site.
        size: numbers of one unit: 1, or a head's width.

    Example:
        >>> import torch
        >>> from bathyscope.circuits import Units
        >>> Units(6, size=3).attributions(torch.ones(6), Units(6, size=3).split(torch.arange(6.0))).tolist()
        [3.0, 12.0, 0.0]
    """

    name = "units"
    explains_all = True

    def __init__(self, width: int, size: int = 1) -> None:
        if size < 1 or width % size:
            raise UsageError(f"units of {size} numbers at a width of {width} were asked for", "a divisor of the width")
        self.width, self.size, self.n_features = width, size, width // size

    @override
    def features(self, x: Tensor) -> Tensor:
        return x

    @override
    def written(self, features: Tensor) -> Tensor:
        return features

    @override
    def pulled(self, gradient: Tensor) -> Tensor:
        return gradient

    @override
    def spec(self) -> dict[str, Any]:
        return {"basis": self.name, "size": self.size}


class Directions(Basis):
    """Orthonormal directions, and what is left beside them.

    Args:
        rows: (n_features, width); they are made orthonormal, the first keeping its direction.

    Example:
        >>> import torch
        >>> from bathyscope.circuits import Directions
        >>> Directions(torch.tensor([[3.0, 4.0]])).split(torch.tensor([3.0, 4.0])).features.tolist()
        [5.0]
    """

    name = "directions"

    def __init__(self, rows: Tensor) -> None:
        q, r = torch.linalg.qr(rows.double().T)
        if not bool((r.diagonal().abs() > 1e-9 * rows.double().norm(dim=1)).all()):
            raise UsageError(f"{len(rows)} directions were given, which are not independent", "fewer of them")
        self.rows = (q * r.diagonal().sign()).T.to(rows.dtype)
        self.n_features, self.width = rows.shape

    @override
    def features(self, x: Tensor) -> Tensor:
        return x @ self.rows.to(x).T

    @override
    def written(self, features: Tensor) -> Tensor:
        return features @ self.rows.to(features)

    @override
    def pulled(self, gradient: Tensor) -> Tensor:
        return self.features(gradient)

    @override
    def spec(self) -> dict[str, Any]:
        return {"basis": self.name, "n": self.n_features}


def flat(activations: Tensor, basis: Basis, site: Site) -> Tensor:
    """What was read at a site, heads side by side, (prompts, positions, width), having made sure that a basis fits."""
    found = activations.flatten(2)
    if found.shape[-1] != basis.width:
        raise UsageError(
            f"a basis of width {basis.width} was given for {site}", f"its activations have {found.shape[-1]} numbers"
        )
    return found
