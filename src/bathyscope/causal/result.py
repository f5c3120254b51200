"""What causal methods return: for each site, layer and position what a change of the run did to a metric."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Self

from bathyscope.errors import UsageError
from bathyscope.readouts import metric_in_words
from bathyscope.results import Result
from bathyscope.signed_maps import SignedMap, drawn, number, token_name
from bathyscope.sites import EMBEDDING_LAYER

LISTED: Final = 20
"""Cells that a page lists."""


@dataclass(frozen=True)
class CausalCell:
    """One run with something changed, and what that did.

    Args:
        site: what was changed, such as "resid_post.12", "z.5.3" or "pattern.9"; of a window of layers the middle one.
        layer: its layer; -1 is the embedding; None for what comes after all blocks.
        head: which head, where it is one.
        position: of the token whose activation was written, or which was not attended to; None for several together.
        token: that token as text, or the name of several.
        value: the metric of the run.
        effect: what the change did to it; each method says in which unit.
    """

    site: str
    layer: int | None
    head: int | None
    position: int | None
    token: str
    value: float
    effect: float

    @property
    def place(self) -> str:
        """The site, and the token where there is one, as people read them."""
        at = repr(self.token) if self.position is None else f"{self.position} {self.token!r}"
        return f"{self.site} at {at}" if self.token or self.position is not None else self.site


@dataclass(frozen=True, eq=False)
class CausalResult(Result):
    """What a causal method returns.

    Args:
        method: such as "activation-patching".
        effect: what an effect is, in words.
        metric: the spec of the readout that is measured.
        prompts: what was run, by role: "clean" and "corrupted", or "prompt".
        cells: one a change.
        values: the metric of the runs that are compared with, by name.
        provenance: model, specification, token ids, versions.
        plan: how it was computed (`engine.Plan.to_dict`).
        timing: seconds without loading the model, cells, those computed now, cells a second.
        notes: what a reader has to know.
        run: the run's id in the store, where one was given.
    """

    kind: ClassVar[str] = "causal"

    method: str
    effect: str
    metric: Mapping[str, Any]
    prompts: Mapping[str, str]
    cells: tuple[CausalCell, ...]
    values: Mapping[str, float]
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    timing: Mapping[str, float]
    notes: tuple[str, ...] = field(default=())
    run: str | None = None

    def at(self, site: str, position: int | None = None) -> CausalCell:
        """The cell of a site and a position; the position is not needed where the site has one cell.

        Raises:
            UsageError: no cell, or more than one, is meant.
        """
        found = [cell for cell in self.cells if cell.site == site and position in (None, cell.position)]
        if len(found) != 1:
            raise UsageError(f"{len(found)} cells are at {site}, position {position}", "one must be")
        return found[0]

    def strongest(self, count: int) -> tuple[CausalCell, ...]:
        """The cells of the largest effects, by size."""
        return tuple(sorted(self.cells, key=lambda cell: -abs(cell.effect))[:count])

    def rows(self) -> list[dict[str, Any]]:
        """One record a cell."""
        return [asdict(cell) for cell in self.cells]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values; `rows` are its cells."""
        return {
            "kind": self.kind,
            "method": self.method,
            "effect": self.effect,
            "metric": dict(self.metric),
            "prompts": dict(self.prompts),
            "rows": self.rows(),
            "values": dict(self.values),
            "notes": list(self.notes),
            "provenance": dict(self.provenance),
            "plan": dict(self.plan),
            "timing": dict(self.timing),
            "run": self.run,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        same = ("method", "effect", "metric", "prompts", "values", "provenance", "plan", "timing", "run")
        cells = tuple(CausalCell(**row) for row in data["rows"])
        return cls(cells=cells, notes=tuple(data["notes"]), **{name: data[name] for name in same})

    def maps(self) -> tuple[SignedMap, ...]:
        """Heat maps of effects, layers upwards: one a component with tokens across, or, for heads, one a token."""
        groups: dict[str, list[tuple[str, str, float]]] = {}
        for cell in self.cells:
            component = cell.site.split(".")[0].replace("embed", "resid_post")
            row = "embed" if cell.layer == EMBEDDING_LAYER else "" if cell.layer is None else str(cell.layer)
            column = cell.token or "all" if cell.position is None else token_name(cell.position, cell.token)
            if cell.head is not None:
                component, column = f"{component}, {column}" if column != "all" else component, f"head {cell.head}"
            groups.setdefault(component, []).append((row, column, cell.effect))
        return tuple(SignedMap.of(f"effect at {name}", "layer", squares) for name, squares in groups.items())

    def facts(self) -> dict[str, str]:
        """What was asked and what came out, by name, for people."""
        measured = metric_in_words(self.metric, tokens=False)
        return {
            **self.prompts,
            "model": self.provenance["models"][0]["model"],
            "metric": metric_in_words(self.metric),
            **{f"{measured}, {name.replace('_', ' ')}": f"{value:.4g}" for name, value in self.values.items()},
            "effect": self.effect,
            **({"note": "; ".join(self.notes)} if self.notes else {}),
        }

    def page(self) -> str:
        """A heat map for each component: blue above 0, red below; then the largest effects."""
        strongest = self.strongest(LISTED)
        largest = [{"place": cell.place, "effect": number(cell.effect, abs(strongest[0].effect))} for cell in strongest]
        return drawn(self.title, self.facts(), self.maps(), largest)

    @property
    def title(self) -> str:
        """The method."""
        return self.method.replace("-", " ")
