"""Parts (a) to (c): a grid of patchscopes, every layer and position of one name, twenty new tokens a cell.

The per-cell loop, nnsight and this project read the same tokens of the same source, write them at the
same layer of the same target prompt and go on greedily; the tokens are compared, then the times. Beside
them stands the ceiling: the model's own matrix products at the plan's row count.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import loop
import torch
from ceiling import Ceiling
from compare import END, compare, ended, real, share, told
from environments import NNSIGHT, PeerError, measure_peer
from loop import Generated
from measure import Check, Part, Row, Settings, cold_and_warm, median, ratio, say

import bathyscope
from bathyscope import Model, prompts
from bathyscope.engine import Cell, Finished, Plan, Read, execute, plan
from bathyscope.readouts import Generate
from bathyscope.sites import residual_site

NAME = "Diana, Princess of Wales"
NEW_TOKENS = 20


def measure(settings: Settings) -> Part:
    """Run all of it."""
    part = Part(f"(a-c) Grid of patchscopes on {settings.folder.name}: layers x positions, {NEW_TOKENS} new tokens")
    single = _own(settings, torch.float32)
    single_loop = _loop(settings, torch.float32, single.job)
    part.rows += _rows("float32", single, single_loop, single_loop)
    _peer(settings, single, single_loop, part)
    half = _own(settings, torch.bfloat16)
    half_loop = _loop(settings, torch.bfloat16, single.job)
    part.rows += _rows("bfloat16", half, half_loop, single_loop)

    loop_seconds = _total(single_loop)
    differences = compare(single_loop, single.ids, single.job)
    part.remarks += told("this project, float32", differences)
    agreement = {"loop": [cell.ids for cell in half_loop], "this project": half.ids}
    firsts = {
        name: share([cell.ids[:1] for cell in single_loop], [one[:1] for one in ids]) for name, ids in agreement.items()
    }
    for name, ids in agreement.items():
        texts = share([ended(cell.ids, single.job) for cell in single_loop], [ended(one, single.job) for one in ids])
        part.remarks.append(
            f"{name}, bfloat16: {firsts[name]:.1%} of first tokens and {texts:.1%} of texts are the float32 loop's"
        )
        part.details[f"bfloat16 {name}"] = {"first_tokens_equal": firsts[name], "texts_equal": texts}
    part.checks += [
        Check("float32: times the loop", ratio(loop_seconds, median(single.warm)), 25),
        Check("float32: tokens that differ beyond a tie", len(real(differences)), 0, at_least=False, timed=False),
        Check("float32: share of the ceiling while decoding", single.decoding["share"], 0.6),
        Check("bfloat16: times the float32 loop", ratio(loop_seconds, median(half.warm)), 80),
        Check(
            "bfloat16: first tokens as in float32, above the stock loop's share",
            firsts["this project"] - firsts["loop"],
            0,
            timed=False,
        ),
        Check("bfloat16: share of the ceiling while decoding", half.decoding["share"], 0.6),
    ]
    part.details |= {"job": single.job, "float32": _details(single, single_loop), "bfloat16": _details(half, half_loop)}
    return part


@dataclass(frozen=True)
class _Own:
    """What this project did in one dtype."""

    job: dict[str, Any]
    ids: list[tuple[int, ...]]
    cold: float
    warm: tuple[float, ...]
    planned: Plan
    decoding: dict[str, Any]


def _own(settings: Settings, dtype: torch.dtype) -> _Own:
    say(f"grid, {_name(dtype)}")
    model = bathyscope.load(settings.folder, dtype=dtype)
    job = job_of(model, settings)
    ids, cold, warm = cold_and_warm("this project", lambda: _patchscope(model, job), settings.repeats)
    planned = plan(cells_of(model, job), model, model)
    return _Own(job, ids, cold, warm, planned, _decoding(planned, model, settings.repeats))


def _loop(settings: Settings, dtype: torch.dtype, job: dict[str, Any]) -> list[Generated]:
    say(f"  per-cell loop, {_name(dtype)}")
    return loop.grid(loop.load(settings.folder, dtype), job)


def _rows(name: str, own: _Own, cells: list[Generated], versus: list[Generated]) -> list[Row]:
    """Lines of one dtype; times are told against one loop, the float32 one."""
    whole, reference, decoding = _total(cells), _total(versus), own.decoding
    return [
        Row(
            f"loop, {name}",
            (whole,),
            ratio=None if cells is versus else ratio(reference, whole),
            versus="" if cells is versus else "loop, float32",
            note=f"{len(cells)} cells, median {median([cell.seconds for cell in cells]):.3f} s a cell",
        ),
        Row(
            f"this project, {name}",
            own.warm,
            own.cold,
            ratio(reference, median(own.warm)),
            "loop, float32",
            f"batches: {len(own.planned.batches)}, rows: {decoding['rows']}",
        ),
        Row(
            f"  a decoding step, {name}",
            (decoding["step_seconds"],),
            note=f"{decoding['share']:.0%} of the ceiling; {decoding['needed']:.0%} of its rows still went on",
        ),
        Row(
            f"  its matrix products alone, {name}",
            (decoding["ceiling_seconds"],),
            note=f"{decoding['gigaflops']:,.0f} GFLOP/s at {decoding['rows']} rows",
        ),
    ]


def _details(own: _Own, cells: list[Generated]) -> dict[str, Any]:
    return {
        "loop": [asdict(cell) for cell in cells],
        "ids": own.ids,
        "seconds": {"cold": own.cold, "warm": own.warm},
        "plan": own.planned.to_dict(),
        "decoding": own.decoding,
    }


def job_of(model: Model, settings: Settings) -> dict[str, Any]:
    """The grid as data, for those that know nothing of bathyscope."""
    source = model.tokenize(NAME)
    inspection = prompts.prepare(model, prompts.entity_description())
    layers, positions = range(-1, model.n_layers), range(len(source))
    if settings.quick:
        layers, positions = (-1, model.n_layers // 4, model.n_layers - 1), (2, len(source) - 1)
    (placeholder,) = inspection.positions
    # What stock generation stops at, not what this project takes for it.
    stops = model.hf.generation_config.eos_token_id
    return {
        "folder": str(settings.folder),
        "threads": settings.threads,
        "repeats": 1 + settings.repeats,
        "source_ids": list(source.ids),
        "target_ids": list(inspection.tokens.ids),
        "placeholder": placeholder,
        "new_tokens": NEW_TOKENS,
        "stop_ids": [stops] if isinstance(stops, int) else stops,
        "cells": [(layer, position) for position in positions for layer in layers],
    }


def cells_of(model: Model, job: dict[str, Any]) -> list[Cell]:
    """The cells that `patchscope` compiles the grid to, with the control at the end."""
    source, target = model.tokenize(NAME), model.tokenize(prompts.entity_description().text)
    readout = Generate(job["new_tokens"])
    places = [(residual_site(layer), position) for layer, position in job["cells"]]
    return [
        *(Cell(target, readout, Read(source, site, at), site, (job["placeholder"],)) for site, at in places),
        Cell(target, readout),
    ]


def _patchscope(model: Model, job: dict[str, Any]) -> list[tuple[int, ...]]:
    """The grid through the public function; the tokens of each cell, in the job's order."""
    layers, positions = (tuple(dict.fromkeys(place[axis] for place in job["cells"])) for axis in (0, 1))
    result = bathyscope.patchscope(
        bathyscope.Source(model, NAME, position=positions, layer=layers),
        bathyscope.Target(prompt=prompts.entity_description()),
        readout=Generate(job["new_tokens"]),
    )
    found = {
        (cell.source_layer, cell.source_position): (*cell.ids, *((END,) if cell.stopped else ()))
        for cell in result.cells
    }
    return [found[layer, position] for layer, position in job["cells"]]


def _decoding(planned: Plan, model: Model, repeats: int) -> dict[str, Any]:
    """What decoding takes, from the events of the engine, beside the matrix products alone, measured in turns."""
    rows = max(len(batch.cells) for batch in planned.batches)
    ceiling = Ceiling(model.hf, rows)
    per_step, at_ceiling, needed = [], [], 0.0
    for repeat in range(repeats):
        say(f"  decoding steps against the ceiling: run {repeat + 1} of {repeats}")
        at_ceiling.append(ceiling.seconds())
        seconds, steps, needed = _steps(planned, model)
        per_step.append(seconds / max(1, steps))
    return {
        "rows": rows,
        "step_seconds": median(per_step),
        "ceiling_seconds": median(at_ceiling),
        # The machine drifts: each run is compared with the ceiling measured just before it.
        "share": median([most / took for most, took in zip(at_ceiling, per_step, strict=True)]),
        "needed": needed,
        "gigaflops": ceiling.operations / median(at_ceiling) / 1e9,
        "runs": {"step_seconds": per_step, "ceiling_seconds": at_ceiling},
    }


def _steps(planned: Plan, model: Model) -> tuple[float, int, float]:
    """Seconds of all decoding steps, how many there were, and the share of their rows whose text still went on."""
    seconds, steps, row_steps, needed = 0.0, 0, 0, 0
    first, marks = -1, []
    for event in execute(planned, model, model):
        if isinstance(event, Finished):
            rows = len(event.readings)
            seconds += marks[-1] - marks[0]
            steps += len(marks) - 1
            row_steps += rows * (len(marks) - 1)
            needed += sum(len(one.ids) + one.stopped - 1 for one in event.readings)
            marks = []
            continue
        if not marks:
            first = event.cell
        if event.cell == first:
            marks.append(time.perf_counter())
    return seconds, steps, needed / max(1, row_steps)


def _peer(settings: Settings, own: _Own, cells: list[Generated], part: Part) -> None:
    """The same job on nnsight, its tokens compared with the loop's."""
    promise = "float32: times nnsight's batch"
    try:
        found = measure_peer(NNSIGHT, own.job, settings)
    except PeerError as error:
        part.rows.append(Row(NNSIGHT.name, note=str(error)))
        part.checks.append(Check(promise, None, 5))
        return
    cold, *warm = found["seconds"]
    faster = ratio(_total(cells), median(warm))
    part.rows.append(Row(f"{NNSIGHT.name}, float32", tuple(warm), cold, faster, "loop, float32", "one invoke a cell"))
    part.checks.append(Check(promise, ratio(median(warm), median(own.warm)), 5))
    part.remarks += told(NNSIGHT.name, compare(cells, found["ids"], own.job))
    part.details["nnsight"] = found


def _total(cells: Sequence[Generated]) -> float:
    return sum(cell.seconds for cell in cells)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
