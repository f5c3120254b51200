"""Plans: cells in, the least work that gives them all out, with the reasons and the savings.

The rewrites, each exact (docs/design.md, "The planner"): one source pass per distinct prompt, which
stops at the last site read; one clean target pass per target prompt; rows of different layers and
positions in one batch, which starts at the first written column and where each row sleeps until the
block after its write; a write behind the last block costs norm and unembedding only. The partition
into batches depends on the cells and the budget alone, never on what has been computed already.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bathyscope import kv
from bathyscope.attention import PRECISION, can_share
from bathyscope.bypass import can_bypass
from bathyscope.engine.cells import Cell
from bathyscope.model import Model
from bathyscope.sites import GLOBAL, Site

MEMORY_BUDGET = 2 * 2**30
"""Bytes that one batch may take above the loaded model."""

KEPT_APART = 24 * 2**20
"""Bytes of a budget that are left to the clean passes and to what an allocator does not give back at once."""

PASS_OVERHEAD = 48
"""What starting one more pass costs, in tokens that could have been computed instead; measured on a laptop CPU."""


OTHER_WORK = 1.5
"""Time of everything, over the time of the matrix products alone; measured on a laptop CPU."""


@dataclass(frozen=True)
class PlannedBatch:
    """Cells that run together.

    Args:
        cells: their indices, in the order of the batch's rows.
        start: the first column of the target prompt that is computed.
        wake: for each row the first block that computes it.
    """

    cells: tuple[int, ...]
    start: int
    wake: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What will be run, and what it saves.

    Args:
        cells: the cells.
        batches: the partition.
        naive_token_layers, token_layers: tokens times blocks, of a loop over the cells and of this plan.
        source_passes, target_passes, batch_passes: how many passes of each kind there are.
        memory: bytes that the largest batch takes.
        saved: token-layers that each rewrite saves, by its name.
        seconds: about how long it will take, from the speed of one matrix product on this machine.
        notes: rewrites that are off, and why.
    """

    cells: tuple[Cell, ...]
    batches: tuple[PlannedBatch, ...]
    naive_token_layers: int
    token_layers: int
    source_passes: int
    target_passes: int
    batch_passes: int
    memory: int
    saved: Mapping[str, int]
    seconds: float = field(compare=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The plan without its cells, as JSON values."""
        return {
            "cells": len(self.cells),
            "batches": len(self.batches),
            "naive_passes": self.naive_passes,
            "source_passes": self.source_passes,
            "target_passes": self.target_passes,
            "batch_passes": self.batch_passes,
            "naive_token_layers": self.naive_token_layers,
            "token_layers": self.token_layers,
            "saved_token_layers": dict(self.saved),
            "memory_bytes": self.memory,
            "estimated_seconds": round(self.seconds, 2),
            "notes": list(self.notes),
        }

    @property
    def naive_passes(self) -> int:
        """Passes that a loop over the cells would run: for each a source pass, a prompt pass and one a new token."""
        return sum((cell.source is not None) + 1 + max(0, cell.readout.new_tokens - 1) for cell in self.cells)

    def explain(self) -> str:
        """What will be run and what each rewrite saves, for people.

        Example:
            >>> import bathyscope
            >>> from bathyscope.engine import Cell, plan
            >>> from bathyscope.readouts import NextToken
            >>> model = bathyscope.load()
            >>> cells = [Cell(model.tokenize("hello"), NextToken())] * 3
            >>> print(plan(cells, model, model).explain().splitlines()[0])
            3 cells in 1 batch
        """
        told = self.to_dict()
        saved = self.naive_token_layers / max(1, self.token_layers)
        lines = [
            f"{_count(told['cells'], 'cell')} in {_count(told['batches'], 'batch')}",
            f"  a loop over the cells   {self.naive_passes:>8,} passes {self.naive_token_layers:>12,} token-layers",
            f"  this plan               {self._passes():>8,} passes {self.token_layers:>12,} token-layers"
            f"   {saved:.1f} times fewer",
            f"    source passes         {self.source_passes:>8,}",
            f"    clean target passes   {self.target_passes:>8,}",
            f"    batch passes          {self.batch_passes:>8,}",
            *(f"  saved {name:<52} {count:>12,} token-layers" for name, count in self.saved.items()),
            f"  about {self.seconds:,.1f} s, and {self.memory / 2**20:,.0f} MB above the model for the largest batch",
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _passes(self) -> int:
        return self.source_passes + self.target_passes + self.batch_passes


def plan(cells: Sequence[Cell], source: Model, target: Model, *, budget: int = MEMORY_BUDGET) -> Plan:
    """Plan cells.

    Args:
        cells: what to measure; all sources on one model, all targets on another (or the same).
        source: the model that representations are read from.
        target: the model that they are written to.
        budget: bytes that one batch may take above the loaded model.
    """
    cells = tuple(cells)
    awake_early = not can_bypass(target)
    batches = [batch for group in _groups(cells) for batch in _partition(cells, group, target, budget, awake_early)]
    notes = _notes(target, awake_early)
    reads = _last_reads(cells)
    targets = {cell.target.ids for cell in cells}
    layers = target.n_layers
    naive_sources = sum(len(cell.source.prompt) * source.n_layers for cell in cells if cell.source)
    naive = naive_sources + sum((len(cell.target) + max(0, cell.readout.new_tokens - 1)) * layers for cell in cells)
    sources = sum(len(ids) * min(last + 1, source.n_layers) for ids, last in reads.items())
    clean = sum(len(ids) * layers for ids in targets)
    saved = {
        "by running each source prompt once, to its last read": naive_sources - sources,
        "by starting at the written column": sum(len(one.cells) * one.start * layers for one in batches) - clean,
        "by sleeping until the written layer": sum(
            (len(cells[one.cells[0]].target) - one.start) * sum(one.wake) for one in batches
        ),
    }
    memory = max((_bytes(cells, batch.cells, batch.start, target) for batch in batches), default=0)
    return Plan(
        cells=cells,
        batches=tuple(batches),
        naive_token_layers=naive,
        token_layers=naive - sum(saved.values()),
        source_passes=len(reads),
        target_passes=len(targets),
        batch_passes=sum(max(1, cells[batch.cells[0]].readout.new_tokens) for batch in batches),
        memory=memory,
        saved=saved,
        seconds=_seconds(
            naive - sum(saved.values()), cells, max((len(batch.cells) for batch in batches), default=1), target
        ),
        notes=notes,
    )


def wake_block(site: Site | None, n_layers: int) -> int:
    """The first block whose work a write at a site changes.

    Example:
        >>> from bathyscope.engine.plan import wake_block
        >>> from bathyscope.sites import Site
        >>> [wake_block(Site.parse(name), 4) for name in ("embed", "z.2", "resid_post.2", "resid_post.3")]
        [0, 2, 3, 4]
    """
    if site is None or site.component == "final_norm":
        return n_layers
    if site.component in GLOBAL or site.layer is None:
        return 0
    return site.layer + 1 if site.component == "resid_post" else site.layer


def _wake(cell: Cell, n_layers: int) -> int:
    """The first block that a cell's row has to be computed in."""
    sites = [cell.site, *(write.site for write in cell.also if write.when != "generated")]
    return min(wake_block(site, n_layers) for site in sites)


def _first_column(cell: Cell) -> int:
    """The first column that a cell's writes change; the last of the prompt where nothing is written."""
    n_tokens = len(cell.target)
    columns = [n_tokens - 1, *cell.positions]
    for write in cell.also:
        if write.when != "generated":
            columns += write.indices(n_tokens)
    return min(columns)


def _groups(cells: Sequence[Cell]) -> list[list[int]]:
    """Cells that can share a batch: one target prompt, one readout."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        found.setdefault((cell.target.ids, cell.readout), []).append(index)
    return list(found.values())


def _partition(
    cells: Sequence[Cell], group: Sequence[int], model: Model, budget: int, awake_early: bool
) -> list[PlannedBatch]:
    """Batches of a group: columns that are close together, split to the budget."""
    by_column: dict[int, list[int]] = {}
    for index in group:
        by_column.setdefault(_first_column(cells[index]), []).append(index)
    new_tokens = max(1, cells[group[0]].readout.new_tokens)
    merged: list[tuple[int, list[int]]] = []
    for column in sorted(by_column):
        rows = by_column[column]
        # Rows that join an earlier start compute columns for nothing; a batch of their own costs its passes.
        if merged and len(rows) * (column - merged[-1][0]) <= PASS_OVERHEAD * new_tokens:
            merged[-1][1].extend(rows)
        else:
            merged.append((column, list(rows)))
    batches = []
    for start, rows in merged:
        room = max(budget // 4, budget - KEPT_APART)
        size = max(1, room // max(1, _bytes(cells, rows[:1], start, model)))
        wakes = {index: 0 if awake_early else _wake(cells[index], model.n_layers) for index in rows}
        rows = sorted(rows, key=lambda index, wakes=wakes: (wakes[index], index))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            batches.append(PlannedBatch(tuple(part), start, tuple(wakes[index] for index in part)))
    return batches


def _bytes(cells: Sequence[Cell], rows: Sequence[int], start: int, model: Model) -> int:
    """Bytes that rows take: keys and values, the widest activations of a block, and logits."""
    cell, item = cells[rows[0]], model.dtype.itemsize
    columns = len(cell.target) - start
    d_mlp = getattr(model.hf.config, "intermediate_size", None) or 4 * model.d_model
    shared = can_share(model) and start > 0
    own = len(cell.target) + cell.readout.new_tokens - (start if shared else 0)
    cache = kv.row_bytes(model.architecture, PRECISION if shared else model.dtype, own)
    activations = columns * item * (3 * d_mlp + 8 * model.d_model)
    logits = 2 * max(item, 4) * model.vocabulary
    return len(rows) * (cache + activations + logits)


def _notes(model: Model, awake_early: bool) -> tuple[str, ...]:
    """What cannot be saved on this model, and why."""
    notes = []
    if awake_early:
        notes.append("a block carries another hook, so that no row can sleep through it")
    if not can_share(model):
        notes.append(f"{model.attention} attention of {model.architecture.family} keeps the prefix once for each row")
    return tuple(notes)


def _seconds(token_layers: int, cells: Sequence[Cell], rows: int, model: Model) -> float:
    """About how long the products of a plan take, at the speed of one of the model's own, at the plan's rows."""
    weight = model.unembedding.weight[:4096]
    probe = torch.ones(min(rows, 512), weight.shape[1], dtype=weight.dtype, device=weight.device)
    began = time.perf_counter()
    for _ in range(3):
        torch.nn.functional.linear(probe, weight)
    speed = 3 * probe.shape[0] * weight.numel() / max(1e-9, time.perf_counter() - began)
    block = sum(weight.numel() for weight in model.blocks[0].parameters() if weight.ndim > 1)
    read = sum(max(1, cell.readout.new_tokens) for cell in cells)
    return OTHER_WORK * (token_layers * block + read * model.vocabulary * model.d_model) / speed


def _last_reads(cells: Sequence[Cell]) -> dict[tuple[int, ...], int]:
    """For each source prompt the last block that has to be run."""
    last: dict[tuple[int, ...], int] = {}
    for cell in cells:
        if cell.source is not None:
            site, ids = cell.source.site, cell.source.prompt.ids
            layer = 10**9 if site.layer is None else site.layer
            last[ids] = max(last.get(ids, -1), layer)
    return last


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"
