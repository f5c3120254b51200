"""What a patchscope is asked: where representations are read and written, and the cells and the plan that follow.

`Source` and `Target` are what a caller says; a `Request` is that resolved against the models and their tokens. Runs
nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bathyscope import prompts
from bathyscope.controls import UNPATCHED, ControlCells, Controls, controls_spec, occurs_in
from bathyscope.engine import Cell, Read, plan
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_result import PatchscopeCell
from bathyscope.prompts import Inspection, InspectionPrompt, Position
from bathyscope.readouts import Contains, Reading, Readout
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


@dataclass(frozen=True)
class Place:
    """Where one cell reads and where it writes.

    Args:
        source: the site that is read.
        source_layer: its layer; -1 is the embedding.
        position: the token of the source prompt that is read.
        target: the site that is written.
        target_layer: its layer.
    """

    source: Site
    source_layer: int
    position: int
    target: Site
    target_layer: int


class Request:
    """One call of `patchscope`, resolved: tokens, places, cells, and the plan for them.

    Args:
        source: where representations are read.
        target: where they are written.
        mapping: what happens to them between.
        readout: what is taken from the target run.
        controls: what is run besides.
        budget: bytes that one batch may take above the loaded model.

    Raises:
        UsageError: a prompt, layer, position, site or width that does not exist or does not fit, or a control that
            cannot be run.

    Example:
        >>> import bathyscope
        >>> from bathyscope.controls import Controls
        >>> from bathyscope.engine.plan import MEMORY_BUDGET
        >>> from bathyscope.mappings import Identity
        >>> from bathyscope.patchscope_request import Request
        >>> from bathyscope.readouts import Generate
        >>> source = bathyscope.Source(bathyscope.load(), "Barack Obama", layer="0-2")
        >>> wanted = Controls.of((), unpatched=True)
        >>> request = Request(source, bathyscope.Target(), Identity(), Generate(), wanted, MEMORY_BUDGET)
        >>> [str(place.source) for place in request.places]
        ['resid_post.0', 'resid_post.1', 'resid_post.2']
    """

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

    def _cell(self, place: Place) -> Cell:
        return Cell(
            target=self.inspection.tokens,
            readout=self.readout,
            source=Read(self.tokens, place.source, place.position),
            site=place.target,
            positions=self.inspection.positions,
            mapping=self.mapping,
            also=self.inspection.writes,
        )

    def measured(self, place: Place, reading: Reading) -> PatchscopeCell:
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


def _places(source: Source, target: Target, tokens: Tokens, target_model: Model) -> Iterator[Place]:
    pairs = []
    for layer in layers_of(source.layer, source.model, source.component):
        site = _site(source.model, source.component, layer)
        for target_layer in _target_layers(layer, target, target_model):
            check_layer(target_layer, target_model.n_layers)
            pairs.append((site, layer, _site(target_model, target.component, target_layer), target_layer))
    for position in prompts.resolve(tokens, source.position):
        for site, layer, target_site, target_layer in pairs:
            yield Place(site, layer, position, target_site, target_layer)


def _target_layers(layer: int, target: Target, model: Model) -> tuple[int, ...]:
    """Where what was read at a layer is written."""
    if target.layer == "same":
        return (layer,)
    if target.layer == "below":
        return tuple(one for one in layers_of("all", model, target.component) if one < layer)
    return layers_of(target.layer, model, target.component)


def layers_of(layers: Layers, model: Model, component: str) -> tuple[int, ...]:
    """The layers that are meant; "all" has the embedding for the residual stream only.

    Args:
        layers: one, several, or text.
        model: the model that has them.
        component: what is met at each.

    Raises:
        UsageError: a layer that the model does not have.

    Example:
        >>> import bathyscope
        >>> from bathyscope.patchscope_request import layers_of
        >>> model = bathyscope.load()
        >>> layers_of("all", model, "resid_post")[0], layers_of("all", model, "mlp_out")[0]
        (-1, 0)
    """
    if layers == "all" and component != "resid_post":
        return tuple(range(model.n_layers))  # only the residual stream has an embedding
    return parse_layers(layers, model.n_layers)


def _site(model: Model, component: str, layer: int) -> Site:
    if layer == EMBEDDING_LAYER and component == "resid_post":
        return residual_site(layer)
    return model.site(Site(component, layer))
