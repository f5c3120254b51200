"""What `evaluate_coder` and `evaluate_coders` return: how well a coder reconstructs, and what it costs the model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Final, Self

from bathyscope import pages
from bathyscope.results import Result
from bathyscope.sae.losses import Loss
from bathyscope.sae.reconstruction import Reconstruction

MEANINGS: Final = {
    "fvu": "fraction of variance unexplained, sinks and special tokens left out: 0 is perfect, 1 is knowing the mean",
    "explained_variance": "1 - fvu",
    "fvu_all": "fvu with sinks and special tokens: so few, so long positions that they can hide all others",
    "cosine": "mean cosine of an activation and its reconstruction",
    "l2_ratio": "mean length of a reconstruction by that of its activation",
    "reconstruction_bias": "1 is unbiased, less is shrinkage",
    "l0": "latents that are active on a token, on average",
    "dead_fraction": "share of latents that were active on none of these tokens",
    "dense_fraction": "share of latents that were active on more than a tenth of them",
    "loss_recovered": "1 is the untouched model's loss, 0 that with zero in place of the site",
    "loss_recovered_mean": "the same against the mean in place of the site",
    "delta_ce": "nats a token that the reconstruction costs",
    "ce_clean": "cross-entropy of the untouched model, in nats a token",
    "ce_spliced": "that with the reconstruction in place, sinks and special tokens untouched",
    "ce_zero": "that with zero in place",
    "ce_mean": "that with the mean in place",
    "kl_spliced": "KL divergence of what the spliced model says next from what the model says, in nats",
    "kl_zero": "that with zero in place",
    "kl_recovered": "1 - kl_spliced / kl_zero",
}
"""What each measure is, for people."""


@dataclass(frozen=True, eq=False)
class CoderEvaluation(Result):
    """How good one coder is on one text.

    Args:
        site: what the coder reads.
        target: what it reconstructs; the same, unless it is a transcoder.
        n_latents: how many latents it has.
        reconstruction: how it reconstructs.
        loss: what it costs the model; measured on a part of the text.
        provenance: model, coder, text, what was asked, versions.
    """

    kind: ClassVar[str] = "coder-evaluation"

    site: str
    target: str
    n_latents: int
    reconstruction: Reconstruction
    loss: Loss
    provenance: Mapping[str, Any]

    def measures(self) -> dict[str, Any]:
        """Every number by its name: those of the reconstruction and of the loss in one, tokens as "n" and "n_loss"."""
        loss = asdict(self.loss)
        return {**asdict(self.reconstruction), "n_loss": loss.pop("n"), **loss}

    def rows(self) -> list[dict[str, Any]]:
        """One record: the place, and every measure that is one number."""
        place = {"site": self.site, "target": self.target, "n_latents": self.n_latents}
        flat = {name: value for name, value in self.measures().items() if name not in ("density", "by_class")}
        return [{**place, **flat}]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as JSON values, every measure at the top."""
        place = {"site": self.site, "target": self.target, "n_latents": self.n_latents}
        measures = {**self.measures(), "density": list(self.reconstruction.density)}
        return {"kind": self.kind, **place, **measures, "provenance": dict(self.provenance)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The evaluation that was saved."""
        del tensors
        found = {one.name: data[one.name] for one in fields(Reconstruction)}
        reconstruction = Reconstruction(**{**found, "density": tuple(found["density"])})
        loss = Loss(**{one.name: data[one.name] for one in fields(Loss) if one.name != "n"}, n=data["n_loss"])
        place = (data["site"], data["target"], data["n_latents"])
        return cls(*place, reconstruction, loss, data["provenance"])

    def page(self) -> str:
        """A table of the measures, and one of the classes of positions."""
        return _page({self.target: self})


@dataclass(frozen=True, eq=False)
class CoderEvaluations(Result):
    """How good several coders are on one text; `evaluations[name]` is one of them.

    Args:
        coders: by the names that they were given.
        provenance: model, text, what was asked, versions.
    """

    kind: ClassVar[str] = "coder-evaluations"

    coders: Mapping[str, CoderEvaluation]
    provenance: Mapping[str, Any]

    def __getitem__(self, name: str) -> CoderEvaluation:
        return self.coders[name]

    def rows(self) -> list[dict[str, Any]]:
        """One record a coder."""
        return [{"coder": name, **row} for name, one in self.coders.items() for row in one.rows()]

    def to_dict(self) -> dict[str, Any]:
        """The evaluations as JSON values, by name."""
        coders = {name: one.to_dict() for name, one in self.coders.items()}
        return {"kind": self.kind, "coders": coders, "provenance": dict(self.provenance)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The evaluations that were saved."""
        found = {name: CoderEvaluation.from_dict(one, tensors) for name, one in data["coders"].items()}
        return cls(found, data["provenance"])

    def page(self) -> str:
        """A table of the measures, and one of the classes of positions, coders across."""
        return _page(self.coders)


def said(value: float | None, digits: int = 4) -> str:
    """A number for people; nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}g}"


def _page(coders: Mapping[str, CoderEvaluation]) -> str:
    first = next(iter(coders.values()))
    facts = {
        "model": str(first.provenance["models"][0]["model"]),
        "tokens": f"{first.reconstruction.n:,} measured, {first.loss.n:,} of them predicted",
        **{name: MEANINGS[name] for name in ("fvu", "loss_recovered", "delta_ce")},
    }
    measures = {
        f"{name}: {meaning}": [said(one.measures()[name]) for one in coders.values()]
        for name, meaning in MEANINGS.items()
    }
    classes = {
        f"{name}, {what}": [said(one.reconstruction.by_class[name][what]) for one in coders.values()]
        for name in first.reconstruction.by_class
        for what in ("share", "variance", "fvu", "l0")
    }
    return pages.grid("Sparse coders, measured", facts, "measure", list(coders), measures) + pages.grid(
        "By class of positions",
        {
            "variance": "the class's share of squared distances from the mean of all",
            "fvu": "about the class's own mean",
        },
        "class",
        list(coders),
        classes,
    )
