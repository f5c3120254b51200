"""Directions of the residual stream, and the plainest way to find one: a difference of means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bathyscope import pages, prompts
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.prompts import Position
from bathyscope.results import Result, provenance
from bathyscope.sites import Site, check_layer, residual_site

FLAT = 1e-6
"""A difference that is a smaller share of the means' own length is none."""


@dataclass(frozen=True, eq=False)
class Direction(Result):
    """A direction at one place of one model, with its length.

    Args:
        site: where it was found, and is added.
        vector: (d_model,), of the length that was found.
        n_positives: how many prompts were averaged on the one side; 0 where none was, as of a latent.
        n_negatives: how many on the other.
        provenance: model, its weights' fingerprint, the prompts' token ids, versions.

    Example:
        >>> import bathyscope
        >>> from bathyscope.steering import difference_of_means
        >>> found = difference_of_means(bathyscope.load(), ["I love it"], ["I hate it"], 15)
        >>> found.site, tuple(found.vector.shape)
        ('resid_post.15', (576,))
    """

    kind: ClassVar[str] = "direction"

    site: str
    vector: Tensor
    n_positives: int
    n_negatives: int
    provenance: Mapping[str, Any]

    @property
    def norm(self) -> float:
        """The vector's length."""
        return float(self.vector.norm())

    def check(self, model: Model) -> None:
        """Refuse a model whose weights are not those that the direction was found in.

        Raises:
            UsageError: they are others.
        """
        asked = self.provenance["spec"]
        if model.fingerprint != asked["fingerprint"]:
            raise UsageError(
                f"a direction of {self.provenance['models'][0]['model']} was given to {model.name}",
                "it belongs to the weights, and the dtype, that it was found in",
                "difference_of_means(model, ...) once more",
            )

    def rows(self) -> list[dict[str, Any]]:
        """One record: where it is, its length, and how many prompts it comes from."""
        counts = {"n_positives": self.n_positives, "n_negatives": self.n_negatives}
        return [{"site": self.site, "norm": self.norm, **counts}]

    def tensors(self) -> dict[str, Tensor]:
        """The vector."""
        return {"vector": self.vector}

    def to_dict(self) -> dict[str, Any]:
        """The direction as JSON values, without its vector."""
        return {"kind": self.kind, "rows": self.rows(), **self.rows()[0], "provenance": dict(self.provenance)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The direction that was saved."""
        return cls(data["site"], tensors["vector"], data["n_positives"], data["n_negatives"], data["provenance"])

    def page(self) -> str:
        """A table of what it is."""
        asked = self.provenance["spec"]
        return pages.grid(
            heading="A difference of means" if "positives" in asked else f"The direction of latent {asked['latent']}",
            facts={"model": self.provenance["models"][0]["model"], "site": self.site, "norm": f"{self.norm:.3f}"},
            corner="side",
            columns=["prompts"],
            rows={side: ["\n".join(asked[side])] for side in ("positives", "negatives") if side in asked},
        )


def difference_of_means(
    model: Model,
    positives: Sequence[Prompt],
    negatives: Sequence[Prompt],
    layer: int,
    *,
    position: Position = "last",
) -> Direction:
    """The mean representation of some prompts less that of others (arXiv 2312.06681, arXiv 2310.06824).

    Args:
        model: the model.
        positives: prompts that have what is wanted.
        negatives: prompts that lack it, otherwise as like the first as can be.
        layer: the residual stream after this block is compared; -1 is the embedding.
        position: which token of each prompt, as everywhere; several are averaged. The first token of a prompt is often
            an attention sink, some hundred times longer than the others, and best left out.

    Raises:
        UsageError: a side has no prompt, or the means are the same.

    Example:
        >>> import bathyscope
        >>> from bathyscope.steering import difference_of_means
        >>> found = difference_of_means(bathyscope.load(), ["I love it", "We adore it"], ["I hate it"], 15)
        >>> found.n_positives, found.n_negatives
        (2, 1)
    """
    for side, given in (("positive", positives), ("negative", negatives)):
        if isinstance(given, str) or not given:
            raise UsageError(f"{given!r} was given as {side} prompts", "a list of at least one is needed", '["..."]')
    check_layer(layer, model.n_layers)
    site = model.site(residual_site(layer))
    rows = {"positives": _tokens(model, positives), "negatives": _tokens(model, negatives)}
    means = {side: _mean(model, tokens, site, position) for side, tokens in rows.items()}
    vector = means["positives"] - means["negatives"]
    if vector.norm() <= FLAT * means["positives"].norm():
        raise UsageError(
            f"the prompts have the same mean at {site}", "both sides must differ there", "other prompts, or position"
        )
    spec = {
        "method": "difference-of-means",
        "site": str(site),
        "position": position if isinstance(position, (int, str)) else repr(position),
        **{side: [one.text for one in tokens] for side, tokens in rows.items()},
        **{f"{side}_ids": [list(one.ids) for one in tokens] for side, tokens in rows.items()},
        "fingerprint": model.fingerprint,
    }
    counts = len(rows["positives"]), len(rows["negatives"])
    return Direction(str(site), vector.float(), *counts, provenance([model.provenance()], spec))


def _tokens(model: Model, given: Sequence[Prompt]) -> list[Tokens]:
    return [model.tokenize(one) for one in given]


def _mean(model: Model, rows: Sequence[Tokens], site: Site, position: Position) -> Tensor:
    """The mean over prompts of the mean over each prompt's positions, (d_model,), float64."""
    read = capture(model, rows, [site])[site]
    own = [
        values[list(prompts.resolve(tokens, position))].double().mean(0)
        for tokens, values in zip(rows, read, strict=True)
    ]
    return torch.stack(own).mean(0)
