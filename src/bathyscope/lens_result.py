"""What a lens returns: for each layer and token what stands there in the vocabulary's terms, and its heat map."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

from bathyscope import pages
from bathyscope.errors import UsageError
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.readouts import Candidate
from bathyscope.results import Result
from bathyscope.sites import EMBEDDING_LAYER


@dataclass(frozen=True)
class LensCell:
    """What one layer holds at one token, through a lens.

    Args:
        layer: it was read after this block; -1 is the embedding.
        position: of the token, from 0.
        token: the token as text.
        text: the likeliest next token, or what the model wrote.
        candidates: the likeliest next tokens, likeliest first, where the lens ranks them.
        values: what else was measured, by name.
        relevancy: for each token of the text how much its probability depends on what was written (SelfIE).
    """

    layer: int
    position: int
    token: str
    text: str
    candidates: tuple[Candidate, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict, hash=False)
    relevancy: tuple[float, ...] = ()

    @property
    def probability(self) -> float | None:
        """Of the likeliest token, or None where none are ranked."""
        return self.candidates[0].probability if self.candidates else None


@dataclass(frozen=True, eq=False)
class LensResult(Result):
    """What a lens returns.

    Args:
        lens: its name, such as "logit-lens".
        text: what the model read.
        cells: one a position and layer, by position, then layer.
        provenance: model, specification, token ids, versions.
        plan: how it was computed (`engine.Plan.to_dict`).
        timing: seconds without loading the model, cells, cells a second.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.logit_lens(bathyscope.load(), "The capital of France is", layer=29)
        >>> found.at(layer=29, position=4).text
        ' Paris'
    """

    kind: ClassVar[str] = "lens"

    lens: str
    text: str
    cells: tuple[LensCell, ...]
    provenance: Mapping[str, Any]
    plan: Mapping[str, Any]
    timing: Mapping[str, float]

    @classmethod
    def of(cls, lens: str, *results: PatchscopeResult) -> Self:
        """From the patchscopes that make up the lens; plan and provenance are those of the first."""
        first = results[0]
        cells = [
            LensCell(
                cell.source_layer, cell.source_position, cell.source_token, cell.text, cell.candidates, cell.values
            )
            for result in results
            for cell in result.cells
        ]
        seconds = sum(result.timing["seconds"] for result in results)
        timing = {
            "seconds": seconds,
            "cells": len(cells),
            "cells_per_second": round(len(cells) / max(seconds, 1e-9), 2),
        }
        spec = {**first.provenance["spec"], "lens": lens}
        text = spec["source"]["prompt"]
        return cls(lens, text, tuple(cells), {**first.provenance, "spec": spec}, first.plan, timing)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that were read, lowest first."""
        return tuple(sorted({cell.layer for cell in self.cells}))

    @property
    def positions(self) -> dict[int, str]:
        """The tokens that were read, by position."""
        return {cell.position: cell.token for cell in self.cells}

    def at(self, *, layer: int, position: int) -> LensCell:
        """The cell of a layer and a position.

        Raises:
            UsageError: it was not read.
        """
        for cell in self.cells:
            if (cell.layer, cell.position) == (layer, position):
                return cell
        raise UsageError(
            f"layer {layer} at position {position} was asked for",
            f"layers {', '.join(map(str, self.layers))} at positions {', '.join(map(str, self.positions))} were read",
        )

    def rows(self) -> list[dict[str, Any]]:
        """One record a cell: its layer, position and token, its likeliest token and probability."""
        return [
            {
                "layer": cell.layer,
                "position": cell.position,
                "token": cell.token,
                "text": cell.text,
                "probability": cell.probability,
                **cell.values,
            }
            for cell in self.cells
        ]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "lens": self.lens,
            "text": self.text,
            "cells": [asdict(cell) for cell in self.cells],
            "provenance": dict(self.provenance),
            "plan": dict(self.plan),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        cells = tuple(
            LensCell(
                **{
                    **one,
                    "candidates": tuple(Candidate(**candidate) for candidate in one["candidates"]),
                    "relevancy": tuple(one["relevancy"]),
                }
            )
            for one in data["cells"]
        )
        return cls(data["lens"], data["text"], cells, data["provenance"], data["plan"], data["timing"])

    @property
    def title(self) -> str:
        """The lens."""
        return self.lens

    def page(self) -> str:
        """A heat map: layers upwards, tokens across, colour by the likeliest token's probability."""
        by_place = {(cell.layer, cell.position): cell for cell in self.cells}
        return pages.heat_map(
            heading=f"{self.lens}: what each layer holds at each token",
            facts={
                "text": self.text,
                "model": " to ".join(dict.fromkeys(model["model"] for model in self.provenance["models"])),
                "colour": "probability of the likeliest token, 0 to 1",
            },
            corner="layer",
            columns=[f"{position} {token!r}" for position, token in self.positions.items()],
            rows={
                "embedding" if layer == EMBEDDING_LAYER else str(layer): [
                    _heat(by_place.get((layer, position))) for position in self.positions
                ]
                for layer in reversed(self.layers)
            },
        )


def _heat(cell: LensCell | None) -> pages.Heat:
    if cell is None:
        return pages.Heat("", None, "not read")
    ranked = [f"{one.token!r} {one.probability:.1%}" for one in cell.candidates]
    measured = [f"{name} {value:.4g}" for name, value in cell.values.items()]
    return pages.Heat(cell.text, cell.probability, "\n".join(ranked + measured) or cell.text)
