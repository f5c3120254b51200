"""Patchscopes: read a representation at the source, map it, write it at the target, read out.

The general primitive of arXiv 2401.06102: (S, i, M, l) -> f -> (T, i*, M*, l*), over every layer and
position asked for. All cells of the target prompt run as one batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from bathyscope.controls import UNPATCHED, Controls, said
from bathyscope.engine import Listener, Plan, Stop, carry_out
from bathyscope.engine.plan import MEMORY_BUDGET
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.mappings import Identity, mapping_of
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Model, Tokens
from bathyscope.patchscope_request import Layers, Request, Source, Target
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.prompts import Inspection
from bathyscope.readouts import Generate, Readout, readout_of
from bathyscope.results import provenance
from bathyscope.store import Store

__all__ = ["Layers", "Source", "Target", "patchscope", "patchscope_again", "plan_patchscope"]


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
    return Request(source, target or Target(), mapping or Identity(), readout or Generate(), wanted, budget).plan


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
    request = Request(source, target or Target(), mapping or Identity(), readout or Generate(), wanted, budget)
    models = source.model, request.target_model
    done = carry_out(
        request.plan,
        *models,
        store,
        kind=PatchscopeResult.kind,
        spec=request.spec(),
        progress=progress,
        stop=stop,
        listen=listen,
    )
    found = done.collected
    cells = tuple(
        request.measured(place, reading) for place, reading in zip(request.places, found.readings, strict=False)
    )
    controlled = said(request.control_rows, request.cells, found.readings)
    return PatchscopeResult(
        cells=cells,
        unpatched=next((one.text for one in reversed(controlled) if one.control == UNPATCHED), None),
        representations=torch.stack(found.of_sources(len(cells))),
        provenance=provenance([model.provenance() for model in models], request.spec()),
        plan=request.plan.to_dict(),
        timing=done.timing(),
        run=done.run,
        controls=controlled,
    )


def patchscope_again(
    spec: Mapping[str, Any], source_model: Model, target_model: Model, **options: Any
) -> PatchscopeResult:
    """Ask once more what a stored run request.

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
