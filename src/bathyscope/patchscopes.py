"""Patchscopes: read a representation at the source, map it, write it at the target, read out.

The general primitive of arXiv 2401.06102: (S, i, M, l) -> f -> (T, i*, M*, l*), over every layer and
position asked for. All cells of the target prompt run as one batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bathyscope import prompts
from bathyscope.controls import UNPATCHED, ControlCells, Controls, controls_spec, occurs_in, said
from bathyscope.engine import Cell, Listener, Plan, Read, Stop, carry_out, plan
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.mappings import Identity, mapping_of
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_result import PatchscopeCell, PatchscopeResult
from bathyscope.prompts import Inspection, InspectionPrompt, Position
from bathyscope.readouts import Contains, Generate, Reading, Readout, readout_of
from bathyscope.results import provenance
from bathyscope.sites import EMBEDDING_LAYER, Site, check_layer, parse_layers, residual_site
from bathyscope.store import Store

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
        layer: l*: "same" as the source's, or a fixed layer, or several for the whole l x l* grid, or "below" for
            every layer below the source's.
        component: what is written at a layer.

    Example:
        >>> import bathyscope
        >>> bathyscope.Target(prompt=bathyscope.prompts.token_identity(), layer="all").prompt.placeholder
        '?'
    """

    model: Model | None = None
    prompt: InspectionPrompt | Inspection | str = field(default_factory=prompts.entity_description)
    layer: Layers = "same"
    component: str = "resid_post"


def plan_patchscope(
    source: Source,
    target: Target | None = None,
    *,
    mapping: RepresentationMapping | None = None,
    readout: Readout | None = None,
    control: bool = True,
    controls: Controls | Sequence[str] = (),
    budget: int = MEMORY_BUDGET,
) -> Plan:
    """What `patchscope` would run, without running it: `plan_patchscope(...).explain()` tells what it costs.

    Raises:
        UsageError: a prompt, layer, position, site or width that does not exist or does not fit.

    Example:
        >>> import bathyscope
        >>> planned = bathyscope.plan_patchscope(bathyscope.Source(bathyscope.load(), "Barack Obama"))
        >>> len(planned.cells), len(planned.batches)
        (32, 1)
    """
    wanted = Controls.of(controls, unpatched=control)
    return _Asked(source, target or Target(), mapping or Identity(), readout or Generate(), wanted, budget).plan


def patchscope(  # noqa: PLR0913 (the primitive's parts, and how it is run)
    source: Source,
    target: Target | None = None,
    *,
    mapping: RepresentationMapping | None = None,
    readout: Readout | None = None,
    control: bool = True,
    controls: Controls | Sequence[str] = (),
    store: Store | None = None,
    budget: int = MEMORY_BUDGET,
    progress: Progress | None = None,
    stop: Stop | None = None,
    listen: Listener | None = None,
) -> PatchscopeResult:
    """Let a model say in words what its own, or another model's, representations hold.

    Args:
        source: where representations are read.
        target: where they are written; the entity-description prompt of the paper, at the same layer, unless said.
        mapping: what happens to them between; `Identity` unless said.
        readout: what is taken from the target run; `Generate` of 20 tokens unless said.
        control: whether the target prompt is run without a write as well, to compare with.
        controls: names of `controls.CONTROLS` that are run besides, or `Controls` with a seed and texts.
        store: where finished cells are kept: what it holds already is not computed again.
        budget: bytes that one batch may take above the loaded model.
        progress: called with what is done and what there is to do.
        stop: looked at at every decoding step and after every batch.
        listen: called with the plan and each event of what is computed, such as a cell's first token.

    Returns:
        One cell for each representation and target layer.

    Raises:
        UsageError: a prompt, layer, position, site or width that does not exist or does not fit, or a control that
            does not exist or cannot be run.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> result = bathyscope.patchscope(bathyscope.Source(model, "Diana, Princess of Wales", layer=7))
        >>> result.cells[0].text[:17]
        ': British monarch'
    """
    wanted = Controls.of(controls, unpatched=control)
    asked = _Asked(source, target or Target(), mapping or Identity(), readout or Generate(), wanted, budget)
    models = source.model, asked.target_model
    done = carry_out(
        asked.plan,
        *models,
        store,
        kind=PatchscopeResult.kind,
        spec=asked.spec(),
        progress=progress,
        stop=stop,
        listen=listen,
    )
    found = done.collected
    cells = tuple(asked.measured(place, reading) for place, reading in zip(asked.places, found.readings, strict=False))
    controlled = said(asked.control_rows, asked.cells, found.readings)
    return PatchscopeResult(
        cells=cells,
        unpatched=next((one.text for one in reversed(controlled) if one.control == UNPATCHED), None),
        representations=torch.stack(found.of_sources(len(cells))),
        provenance=provenance([model.provenance() for model in models], asked.spec()),
        plan=asked.plan.to_dict(),
        timing=done.timing(),
        run=done.run,
        controls=controlled,
    )


def patchscope_again(
    spec: Mapping[str, Any], source_model: Model, target_model: Model, **options: Any
) -> PatchscopeResult:
    """Ask once more what a stored run asked.

    Args:
        spec: the run's spec, as `Store.show` gives it.
        source_model: the first model that the spec names.
        target_model: the second.
        options: `store`, `budget`, `progress`, `stop` and `listen` of `patchscope`.
    """
    source, target = spec["source"], spec["target"]
    if target.get("writes"):
        raise UsageError("the run wrote into its target prompt besides", "", "the call in Python that made it")
    prompt = Inspection(_tokens(target), tuple(target["positions"]), target["placeholder"])
    return patchscope(
        Source(source_model, _tokens(source), source["positions"], source["layers"], source["component"]),
        Target(target_model, prompt, target["layers"], target["component"]),
        mapping=mapping_of(spec),
        readout=readout_of(spec),
        control=spec.get("control", True),
        controls=_controls(spec.get("controls")),
        **options,
    )


def _controls(spec: Mapping[str, Any] | None) -> Controls | tuple[str, ...]:
    return Controls(tuple(spec["names"]), spec["seed"], tuple(map(_tokens, spec["texts"]))) if spec else ()


def _tokens(spec: Mapping[str, Any]) -> Tokens:
    return Tokens(spec["prompt"], tuple(spec["ids"]), tuple(spec["tokens"]))


class _Asked:
    """One call of `patchscope`, resolved: tokens, places, cells, and the plan for them."""

    def __init__(
        self,
        source: Source,
        target: Target,
        mapping: RepresentationMapping,
        readout: Readout,
        controls: Controls,
        budget: int,
    ) -> None:
        self.source, self.target, self.mapping, self.readout = source, target, mapping, readout
        self.controls = controls
        self.target_model = target.model or source.model
        self.tokens = source.model.tokenize(source.prompt)
        self.inspection = prompts.prepare(self.target_model, target.prompt)
        self.target_model.check_length(len(self.inspection.tokens) + max(0, readout.new_tokens - 1))
        # A layer or a position that was named twice is one cell.
        self.places = list(dict.fromkeys(_places(source, target, self.tokens, self.target_model)))
        mapping.check(source.model, self.target_model, {(place.source, place.target) for place in self.places})
        readout.check(source.model, self.target_model)
        self.cells = [*map(self._cell, self.places)]
        sites = tuple(dict.fromkeys(place.source for place in self.places))
        make = ControlCells(controls, source.model, self.target_model, self.inspection, self.tokens, sites)
        self.control_rows = make.join(self.cells)
        self.plan = plan(self.cells, source.model, self.target_model, budget=budget)

    def _cell(self, place: "_Place") -> Cell:
        return Cell(
            target=self.inspection.tokens,
            readout=self.readout,
            source=Read(self.tokens, place.source, place.position),
            site=place.target,
            positions=self.inspection.positions,
            mapping=self.mapping,
            also=self.inspection.writes,
        )

    def measured(self, place: "_Place", reading: Reading) -> PatchscopeCell:
        """A place with what was read out."""
        return PatchscopeCell(
            source_site=str(place.source),
            source_layer=place.source_layer,
            source_position=place.position,
            source_token=self.tokens.texts[place.position],
            target_site=str(place.target),
            target_layer=place.target_layer,
            target_positions=self.inspection.positions,
            text=reading.text,
            ids=reading.ids,
            candidates=reading.candidates,
            stopped=reading.stopped,
            values=reading.values,
        )

    def spec(self) -> dict[str, Any]:
        """What was asked, as JSON values: enough to ask it again."""
        tokens, inspected = self.tokens, self.inspection
        written = [write.intervention.fingerprint() for write in inspected.writes]
        return {
            "source": {
                "prompt": tokens.text,
                "ids": list(tokens.ids),
                "tokens": list(tokens.texts),
                "positions": list(dict.fromkeys(place.position for place in self.places)),
                "layers": list(dict.fromkeys(place.source_layer for place in self.places)),
                "component": self.source.component,
            },
            "target": {
                "prompt": inspected.tokens.text,
                "ids": list(inspected.tokens.ids),
                "tokens": list(inspected.tokens.texts),
                "placeholder": inspected.placeholder,
                "placeholder_tokens": [inspected.tokens.texts[position] for position in inspected.positions],
                "positions": list(inspected.positions),
                "layers": self.target.layer
                if self.target.layer in ("same", "below")
                else list(dict.fromkeys(place.target_layer for place in self.places)),
                "component": self.target.component,
                **({"writes": written} if written else {}),
            },
            "control": UNPATCHED in self.controls.names,
            **self._more_spec(),
            "models": [self.source.model.loadable(), self.target_model.loadable()],
            "decoding": "greedy",
            **self.mapping.spec(),
            **({"mapping_file": str(path.resolve())} if (path := getattr(self.mapping, "path", None)) else {}),
            **self.readout.spec(),
        }

    def _more_spec(self) -> dict[str, Any]:
        """What is asked beyond the default, which old runs have no word for."""
        found: dict[str, Any] = {}
        if set(self.controls.names) - {UNPATCHED}:
            found["controls"] = controls_spec(self.controls, self.source.model)
        if isinstance(self.readout, Contains):
            texts = {"source": self.tokens.text, "target": self.inspection.tokens.text}
            found["answer_occurs_in"] = [name for name, text in texts.items() if occurs_in(self.readout.text, text)]
        return found


@dataclass(frozen=True)
class _Place:
    """Where one cell reads and where it writes."""

    source: Site
    source_layer: int
    position: int
    target: Site
    target_layer: int


def _places(source: Source, target: Target, tokens: Tokens, target_model: Model) -> Iterator[_Place]:
    source_layers = layers_of(source.layer, source.model, source.component)
    for position in prompts.resolve(tokens, source.position):
        for layer in source_layers:
            for target_layer in _target_layers(layer, target, target_model):
                check_layer(target_layer, target_model.n_layers)
                yield _Place(
                    _site(source.model, source.component, layer),
                    layer,
                    position,
                    _site(target_model, target.component, target_layer),
                    target_layer,
                )


def _target_layers(layer: int, target: Target, model: Model) -> tuple[int, ...]:
    """Where what was read at a layer is written."""
    if target.layer == "same":
        return (layer,)
    if target.layer == "below":
        return tuple(one for one in layers_of("all", model, target.component) if one < layer)
    return layers_of(target.layer, model, target.component)


def layers_of(layers: Layers, model: Model, component: str) -> tuple[int, ...]:
    """The layers that are meant; "all" has the embedding for the residual stream only."""
    if layers == "all" and component != "resid_post":
        return tuple(range(model.n_layers))  # only the residual stream has an embedding
    return parse_layers(layers, model.n_layers)


def _site(model: Model, component: str, layer: int) -> Site:
    if layer == EMBEDDING_LAYER and component == "resid_post":
        return residual_site(layer)
    return model.site(Site(component, layer))
