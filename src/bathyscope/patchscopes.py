"""Patchscopes: read a representation at the source, map it, write it at the target, read out.

The general primitive of arXiv 2401.06102: (S, i, M, l) -> f -> (T, i*, M*, l*), over every layer and
position asked for. All cells of the target prompt run as one batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from bathyscope import pages, prompts
from bathyscope.engine import Cell, Read, collect, plan
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.mappings import Identity
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.prompts import Inspection, InspectionPrompt, Position
from bathyscope.readouts import Candidate, Generate, Readout
from bathyscope.results import Result, provenance
from bathyscope.sites import EMBEDDING_LAYER, Site, check_layer, parse_layers, residual_site

Layers = int | str | Sequence[int]
"""A layer, several, or text such as "all", "embed", "3,7" or "0-10"; -1 is the embedding."""


@dataclass(frozen=True)
class Source:
    """Where representations are read: (S, i, M, l).

    Args:
        model: M.
        prompt: S.
        position: i: an index, several, "last", "all", or text, which means its last token.
        layer: l: one or several.
        component: what is read at a layer; the residual stream after the block, unless said.

    Example:
        >>> import bathyscope
        >>> bathyscope.Source(bathyscope.load(), "Diana, Princess of Wales", position="Wales", layer="0-3").component
        'resid_post'
    """

    model: Model
    prompt: Prompt
    position: Position = "last"
    layer: Layers = "all"
    component: str = "resid_post"


@dataclass(frozen=True)
class Target:
    """Where they are written: (T, i*, M*, l*); i* is the prompt's placeholder.

    Args:
        model: M*; the source's model unless said.
        prompt: T, an inspection prompt, or text whose last "x" is the placeholder.
        layer: l*: "same" as the source's, or a fixed layer, or several for the whole l x l* grid.
        component: what is written at a layer.

    Example:
        >>> import bathyscope
        >>> bathyscope.Target(prompt=bathyscope.prompts.token_identity(), layer="all").prompt.placeholder
        '?'
    """

    model: Model | None = None
    prompt: InspectionPrompt | str = field(default_factory=prompts.entity_description)
    layer: Layers = "same"
    component: str = "resid_post"


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


@dataclass(frozen=True, eq=False)
class PatchscopeResult(Result):
    """What `patchscope` returns.

    Args:
        cells: one a representation and target layer, by source position, then source layer, then target layer.
        unpatched: what the target prompt says when nothing is written: the control of every cell.
        representations: the source's representations, (cells, width), before the mapping.
        provenance: models, specification, token ids, versions.
    """

    kind: ClassVar[str] = "patchscope"

    cells: tuple[PatchscopeCell, ...]
    unpatched: str
    representations: Tensor
    provenance: Mapping[str, Any]

    def rows(self) -> list[dict[str, Any]]:
        """One record a cell, without the candidates' list."""
        return [{name: value for name, value in asdict(cell).items() if name != "candidates"} for cell in self.cells]

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "cells": [asdict(cell) for cell in self.cells],
            "unpatched": self.unpatched,
            "provenance": dict(self.provenance),
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
        """A grid: source layers down, the highest first; positions and target layers across."""
        columns = list(dict.fromkeys(_column(cell) for cell in self.cells))
        layers = sorted({cell.source_layer for cell in self.cells}, reverse=True)
        texts = {(cell.source_layer, _column(cell)): cell.text for cell in self.cells}
        asked = self.provenance["spec"]
        return pages.grid(
            heading="What each layer holds, in the model's own words",
            facts={
                "source": asked["source"]["prompt"],
                "target": asked["target"]["prompt"],
                "model": " to ".join(dict.fromkeys(model["model"] for model in self.provenance["models"])),
                "mapping": asked["mapping"],
                "nothing written": self.unpatched,
            },
            corner="layer",
            columns=columns,
            rows={_layer_name(layer): [texts.get((layer, column), "") for column in columns] for layer in layers},
        )


def patchscope(
    source: Source,
    target: Target | None = None,
    *,
    mapping: RepresentationMapping | None = None,
    readout: Readout | None = None,
    progress: Progress | None = None,
) -> PatchscopeResult:
    """Let a model say in words what its own, or another model's, representations hold.

    Args:
        source: where representations are read.
        target: where they are written; the entity-description prompt of the paper, at the same layer, unless said.
        mapping: what happens to them between; `Identity` unless said.
        readout: what is taken from the target run; `Generate` of 20 tokens unless said.
        progress: called with what is done and what there is to do.

    Returns:
        One cell for each representation and target layer.

    Raises:
        UsageError: a prompt, layer, position, site or width that does not exist or does not fit.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> result = bathyscope.patchscope(bathyscope.Source(model, "Diana, Princess of Wales", layer=7))
        >>> result.cells[0].text[:17]
        ': British monarch'
    """
    target, mapping, readout = target or Target(), mapping or Identity(), readout or Generate()
    target_model = target.model or source.model
    tokens = source.model.tokenize(source.prompt)
    prompt = target.prompt if isinstance(target.prompt, InspectionPrompt) else prompts.custom(target.prompt)
    inspection = prompts.prepare(target_model, prompt)
    target_model.check_length(len(inspection.tokens) + max(0, readout.new_tokens - 1))
    places = list(_places(source, target, tokens, target_model))
    mapping.check_widths(
        source.model.architecture.width(source.component), target_model.architecture.width(target.component)
    )

    control = Cell(inspection.tokens, readout)
    planned = plan(
        [*(place.cell(tokens, inspection, mapping, readout) for place in places), control], source.model, target_model
    )
    found = collect(planned, source.model, target_model, progress=progress)
    cells = tuple(
        PatchscopeCell(
            source_site=str(place.source),
            source_layer=place.source_layer,
            source_position=place.position,
            source_token=tokens.texts[place.position],
            target_site=str(place.target),
            target_layer=place.target_layer,
            target_positions=inspection.positions,
            text=reading.text,
            ids=reading.ids,
            candidates=reading.candidates,
            stopped=reading.stopped,
        )
        for place, reading in zip(places, found.readings[:-1], strict=True)
    )
    representations = torch.stack([one for one in found.representations if one is not None])
    origin = provenance(
        [source.model.provenance(), target_model.provenance()],
        source={"prompt": tokens.text, "ids": list(tokens.ids), "tokens": list(tokens.texts)},
        target={
            "prompt": inspection.tokens.text,
            "ids": list(inspection.tokens.ids),
            "placeholder": prompt.placeholder,
            "placeholder_tokens": [inspection.tokens.texts[position] for position in inspection.positions],
            "positions": list(inspection.positions),
        },
        decoding="greedy",
        **mapping.spec(),
        **readout.spec(),
    )
    return PatchscopeResult(cells, found.readings[-1].text, representations, origin)


@dataclass(frozen=True)
class _Place:
    """Where one cell reads and where it writes."""

    source: Site
    source_layer: int
    position: int
    target: Site
    target_layer: int

    def cell(self, tokens: Tokens, inspection: Inspection, mapping: RepresentationMapping, readout: Readout) -> Cell:
        return Cell(
            target=inspection.tokens,
            readout=readout,
            source=Read(tokens, self.source, self.position),
            site=self.target,
            positions=inspection.positions,
            mapping=mapping,
        )


def _places(source: Source, target: Target, tokens: Tokens, target_model: Model) -> Iterator[_Place]:
    source_layers = _layers(source.layer, source.model)
    for position in prompts.resolve(tokens, source.position):
        for layer in source_layers:
            targets = (layer,) if target.layer == "same" else _layers(target.layer, target_model)
            for target_layer in targets:
                check_layer(target_layer, target_model.n_layers)
                yield _Place(
                    _site(source.model, source.component, layer),
                    layer,
                    position,
                    _site(target_model, target.component, target_layer),
                    target_layer,
                )


def _layers(layers: Layers, model: Model) -> tuple[int, ...]:
    if isinstance(layers, (int, str)):
        return parse_layers(layers, model.n_layers)
    found = tuple(layers)
    for layer in found:
        check_layer(layer, model.n_layers)
    if not found:
        raise UsageError("no layer was given", "at least one is needed", 'layer="all"')
    return found


def _site(model: Model, component: str, layer: int) -> Site:
    if layer == EMBEDDING_LAYER and component == "resid_post":
        return residual_site(layer)
    return model.site(Site(component, layer))


def _column(cell: PatchscopeCell) -> str:
    written = "" if cell.target_layer == cell.source_layer else f", written at {_layer_name(cell.target_layer)}"
    return f"{cell.source_position} {cell.source_token!r}{written}"


def _layer_name(layer: int) -> str:
    return "embedding" if layer == EMBEDDING_LAYER else str(layer)


def _cell(record: Mapping[str, Any]) -> PatchscopeCell:
    lists = {name: tuple(record[name]) for name in ("target_positions", "ids")}
    candidates = tuple(Candidate(**one) for one in record["candidates"])
    return PatchscopeCell(**{**record, **lists, "candidates": candidates})
