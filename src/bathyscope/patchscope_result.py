"""What `patchscope` returns: its cells, their control, and the page that shows them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

from torch import Tensor

from bathyscope import pages
from bathyscope.errors import UsageError
from bathyscope.readouts import Candidate
from bathyscope.results import Result
from bathyscope.sites import EMBEDDING_LAYER


@dataclass(frozen=True)
class PatchscopeCell:
    """One representation and what the target model said of it.

    Args:
        source_site, source_layer, source_position, source_token: where it was read; layer -1 is the embedding.
        target_site, target_layer, target_positions: where it was written.
        text: what was read out.
        ids: the token ids of the text.
        candidates: the likeliest next tokens, where the readout ranks them.
        stopped: whether the model ended the text itself.
        values: what was measured, by name (`Reading.values`).
    """

    source_site: str
    source_layer: int
    source_position: int
    source_token: str
    target_site: str
    target_layer: int
    target_positions: tuple[int, ...]
    text: str
    ids: tuple[int, ...]
    candidates: tuple[Candidate, ...] = ()
    stopped: bool = False
    values: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class ControlCell:
    """What a control said; the controls are described in `bathyscope.controls`.

    Args:
        control: its name.
        source_layer, source_position, target_layer: the cells that it is the control of; None where it is that of
            every layer or position.
        text, ids, candidates, values: as those of a cell.
        instead: the token that was read instead, of "shuffled".
    """

    control: str
    source_layer: int | None = None
    source_position: int | None = None
    target_layer: int | None = None
    text: str = ""
    ids: tuple[int, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict, hash=False)
    instead: str | None = None

    def is_of(self, cell: PatchscopeCell) -> bool:
        """Whether it is the control of a cell."""
        return (
            self.source_layer in (None, cell.source_layer)
            and self.source_position in (None, cell.source_position)
            and self.target_layer in (None, cell.target_layer)
        )


@dataclass(frozen=True, eq=False)
class PatchscopeResult(Result):
    """What `patchscope` returns.

    Args:
        cells: one a representation and target layer, by source position, then source layer, then target layer.
        unpatched: what the target prompt says when nothing is written, the control of every cell; None if not run.
        representations: the source's representations, (cells, width), before the mapping.
        provenance: models, specification, token ids, versions.
        plan: how it was computed (`engine.Plan.to_dict`).
        timing: seconds without loading models, cells, how many of them were computed now, cells a second.
        run: the id of the run in the store, if there is one.
        controls: what the controls said, by name; those of a cell are `controls_of(cell)`.
    """

    kind: ClassVar[str] = "patchscope"

    cells: tuple[PatchscopeCell, ...]
    unpatched: str | None
    representations: Tensor
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    timing: Mapping[str, float]
    run: str | None = None
    controls: tuple[ControlCell, ...] = ()

    def controls_of(self, cell: PatchscopeCell) -> dict[str, ControlCell]:
        """The controls of a cell, by name."""
        return {control.control: control for control in self.controls if control.is_of(cell)}

    def rows(self) -> list[dict[str, Any]]:
        """One record a cell, without the candidates' list; beside each figure that of every control."""
        return [
            {
                **{name: value for name, value in asdict(cell).items() if name not in ("candidates", "values")},
                **cell.values,
                **{
                    f"{name}_{control.control}": value
                    for control in self.controls_of(cell).values()
                    for name, value in control.values.items()
                },
            }
            for cell in self.cells
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "cells": [asdict(cell) for cell in self.cells],
            "unpatched": self.unpatched,
            "provenance": dict(self.provenance),
            "plan": dict(self.plan),
            "timing": dict(self.timing),
            "run": self.run,
            "controls": [asdict(control) for control in self.controls],
        }

    def tensors(self) -> dict[str, Tensor]:
        """The source's representations."""
        return {"representations": self.representations}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The result that was saved."""
        return cls(
            tuple(_cell(record) for record in data["cells"]),
            data["unpatched"],
            tensors["representations"],
            data["provenance"],
            data["plan"],
            data["timing"],
            data["run"],
            tuple(_control(record) for record in data.get("controls", ())),
        )

    def at(self, *, layer: int, position: int | None = None, target_layer: int | None = None) -> PatchscopeCell:
        """The cell of a source layer, and of a position and a target layer where there are several.

        Raises:
            UsageError: no cell, or more than one, is meant.
        """
        found = [
            cell
            for cell in self.cells
            if cell.source_layer == layer
            and position in (None, cell.source_position)
            and target_layer in (None, cell.target_layer)
        ]
        if len(found) != 1:
            raise UsageError(
                f"{len(found)} cells have layer {layer}, position {position}, target layer {target_layer}", "one must"
            )
        return found[0]

    def page(self) -> str:
        """A grid: source layers down; positions and target layers across, each with its controls beside it."""
        columns: dict[str, dict[int, str]] = {}
        same: dict[str, str] = {}
        for control in self.controls:
            if (control.source_layer, control.source_position, control.target_layer) == (None, None, None):
                same[control.control] = control.text
        for cell in self.cells:
            columns.setdefault(_column(cell), {})[cell.source_layer] = cell.text
        for cell in self.cells:
            for name, control in self.controls_of(cell).items():
                if name not in same:
                    columns.setdefault(f"{_column(cell)}\ncontrol: {name}", {})[cell.source_layer] = control.text
        heads = sorted(columns, key=lambda head: list(columns).index(head.partition("\n")[0]))
        layers = sorted({cell.source_layer for cell in self.cells})
        asked = self.provenance["spec"]
        return pages.grid(
            heading="What each layer holds, in the model's own words",
            facts={
                "source": asked["source"]["prompt"],
                "target": asked["target"]["prompt"],
                "model": " to ".join(dict.fromkeys(model["model"] for model in self.provenance["models"])),
                "mapping": asked["mapping"],
                "nothing written": "not run" if self.unpatched is None else self.unpatched,
            },
            corner="layer",
            columns=heads,
            rows={_layer_name(layer): [columns[head].get(layer, "") for head in heads] for layer in layers},
        )


def _column(cell: PatchscopeCell) -> str:
    written = "" if cell.target_layer == cell.source_layer else f", written at {_layer_name(cell.target_layer)}"
    return f"{cell.source_position} {cell.source_token!r}{written}"


def _layer_name(layer: int) -> str:
    return "embedding" if layer == EMBEDDING_LAYER else str(layer)


def _control(record: Mapping[str, Any]) -> ControlCell:
    candidates = tuple(Candidate(**one) for one in record["candidates"])
    return ControlCell(**{**record, "ids": tuple(record["ids"]), "candidates": candidates})


def _cell(record: Mapping[str, Any]) -> PatchscopeCell:
    lists = {name: tuple(record[name]) for name in ("target_positions", "ids")}
    candidates = tuple(Candidate(**one) for one in record["candidates"])
    return PatchscopeCell(**{**record, **lists, "candidates": candidates})
