"""What is set in a model's latents, and what came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Self

from typing_extensions import override

from bathyscope.circuits.features import ERROR
from bathyscope.errors import UsageError
from bathyscope.pages import table_of
from bathyscope.results import Result
from bathyscope.sites import Site


@dataclass(frozen=True)
class Change:
    """A latent that is set to a value, or an error that is taken away.

    Args:
        site: where, such as "resid_post.12".
        latent: its number; None for what the coder does not explain there, its error.
        position: token index of the prompts, or None for every position.
        value: in units of its activation; 0 takes it away, and an error can only be taken away.

    Raises:
        UsageError: an error is set to another value.

    Example:
        >>> from bathyscope.circuits import Change
        >>> str(Change.parse("resid_post.12/281@1")), Change.parse("resid_post.12/281=5").value
        ('resid_post.12/281@1 = 0', 5.0)
        >>> Change.parse("resid_post.12/error@1").latent is None
        True
    """

    site: str
    latent: int | None
    position: int | None = None
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.latent is None and self.value != 0:
            raise UsageError(
                f"the error of {self.site} was to be set to {self.value:g}", "an error can be taken away only", "0"
            )

    def __str__(self) -> str:
        place = "" if self.position is None else f"@{self.position}"
        return f"{self.site}/{ERROR if self.latent is None else self.latent}{place} = {self.value:g}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The change of such a text.

        Raises:
            UsageError: it is none.
        """
        feature, _, value = text.partition("=")
        place, _, position = feature.strip().partition("@")
        site, _, latent = place.rpartition("/")
        try:
            if not site or not (latent.isdigit() or latent == ERROR) or (position and not position.isdigit()):
                raise ValueError
            number = None if latent == ERROR else int(latent)
            at, to = int(position) if position else None, float(value) if value else 0.0
        except ValueError:
            raise UsageError(
                f"{text!r} is no change of a latent",
                "site/latent, site/latent@position, site/latent=value or site/error",
                "resid_post.12/281@1=0",
            ) from None
        return cls(str(Site.parse(site)), number, at, to)


@dataclass(frozen=True, eq=False)
class EditResult(Result):
    """What `edit_features` returns.

    Args:
        changes: a record each: "change", and of the pairs' mean logit difference "predicted" (its attribution) and
            "measured" (made alone) change.
        before, after: mean logit difference, "accuracy" and, by case, both: without and with all changes.
        controls: mean change of the logit difference with as many other latents set, a number a draw; beside an error
            a latent is taken away.
        loss: cross-entropy of a text in nats, "before" and "after", with its "tokens"; empty without a text.
        written: prompts with what the model writes "before" and "after".
        provenance: model, what was asked, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "circuit-edit"

    changes: tuple[Mapping[str, Any], ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    controls: tuple[float, ...]
    loss: Mapping[str, float]
    written: tuple[Mapping[str, str], ...]
    provenance: Mapping[str, Any]
    timing: Mapping[str, float] = field(default_factory=dict)

    @override
    def rows(self) -> list[dict[str, Any]]:
        return [dict(one) for one in self.changes]

    @override
    def to_dict(self) -> dict[str, Any]:
        found = asdict(self)
        return {"kind": self.kind, "rows": self.rows(), **{name: found[name] for name in found if name != "changes"}}

    @classmethod
    @override
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        del tensors
        names = {one.name for one in fields(cls)} - {"changes", "controls", "written"}
        lists = {"controls": tuple(data["controls"]), "written": tuple(data["written"])}
        return cls(changes=tuple(data["rows"]), **lists, **{name: data[name] for name in names})

    @override
    def page(self) -> str:
        whole = [{"": name, **_flat(one)} for name, one in (("before", self.before), ("after", self.after))]
        tables = {"the model": whole, "changes": self.rows(), "text": [self.loss] if self.loss else []}
        tables["what it writes"] = list(self.written)
        return "".join(table_of(name, {}, records) for name, records in tables.items() if records)


def _flat(one: Mapping[str, Any]) -> dict[str, Any]:
    cases = {f"{case}: difference, accuracy": f"{a:.3f}, {b:.2f}" for case, (a, b) in one["by_case"].items()}
    return {"logit difference": one["logit_difference"], "accuracy": one["accuracy"], **cases}
