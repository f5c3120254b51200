"""Plans: cells in, the least work that gives them all out, with the reasons and the savings.

The rewrites, each exact (docs/design.md, "The planner"): one source pass per distinct prompt, which
stops at the last site read; one common pass per target prompt; rows of different layers and
positions in one batch, which starts at the first written column and where each row sleeps until the
block after its write; no pass at all where the last block's output is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bathyscope.bypass import can_bypass
from bathyscope.engine.cells import Cell
from bathyscope.engine.costs import batch_bytes, notes, rows_read, seconds
from bathyscope.engine.partition import PlannedBatch, partition
from bathyscope.interventions import Write
from bathyscope.model import Model

MEMORY_BUDGET = 2 * 2**30
"""Bytes that one batch may take above the loaded model."""


@dataclass(frozen=True)
class Plan:
    """What will be run, and what it saves.

    Args:
        cells: the cells.
        batches: the partition.
        naive_token_layers, token_layers: tokens times blocks, of a loop over the cells and of this plan.
        source_passes, target_passes, batch_passes: how many passes of each kind there are.
        memory: bytes that the largest batch takes.
        rows_read: how many rows' logits are read out together.
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
    rows_read: int
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
        return sum(len(_prompts(cell)) + 1 + max(0, cell.readout.new_tokens - 1) for cell in self.cells)

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
            f"    common target passes  {self.target_passes:>8,}",
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
    bypass = can_bypass(target)
    batches = partition(cells, target, budget, bypass=bypass)
    reads, layers = _last_reads(cells, source.n_layers), target.n_layers
    targets = {_start(cells[one.cells[0]]) for one in batches if not one.tail}
    naive_sources = sum(len(ids) * source.n_layers for cell in cells for ids in _prompts(cell))
    naive = naive_sources + sum((len(cell.target) + max(0, cell.readout.new_tokens - 1)) * layers for cell in cells)
    passes = [(len(cells[one.cells[0]].target), one) for one in batches if not one.tail]
    saved = {
        "by running each source prompt once, to its last read": naive_sources
        - sum(len(ids) * min(last + 1, source.n_layers) for ids, last in reads.items()),
        "by writing behind the last block without a pass": layers
        * sum(len(cells[index].target) for one in batches if one.tail for index in one.cells),
        "by starting at the written column": layers
        * (sum(len(one.cells) * one.start for _, one in passes) - sum(len(ids) for ids, _ in targets)),
        "by sleeping until the written layer": sum((length - one.start) * sum(one.wake) for length, one in passes),
    }
    left = naive - sum(saved.values())
    return Plan(
        cells=cells,
        batches=tuple(batches),
        naive_token_layers=naive,
        token_layers=left,
        source_passes=len(reads),
        target_passes=len(targets),
        batch_passes=sum(cells[one.cells[0]].readout.n_passes for _, one in passes),
        memory=max(
            (
                batch_bytes(cells[one.cells[0]], len(one.cells), one.start, target, budget, tail=one.tail)
                for one in batches
            ),
            default=0,
        ),
        rows_read=rows_read(target, budget),
        saved=saved,
        seconds=seconds(left, cells, max((len(one.cells) for one in batches), default=1), target),
        notes=notes(target, bypass=bypass),
    )


def _start(cell: Cell) -> tuple[tuple[int, ...], tuple[Write, ...]]:
    """What tells the run that a cell starts from: cells that have the same share it."""
    return cell.target.ids, cell.common


def _prompts(cell: Cell) -> set[tuple[int, ...]]:
    """The source prompts that a cell reads."""
    return {read.prompt.ids for read in cell.reads}


def _last_reads(cells: Sequence[Cell], n_layers: int) -> dict[tuple[int, ...], int]:
    """For each source prompt the last block that has to be run."""
    last: dict[tuple[int, ...], int] = {}
    for cell in cells:
        for read in cell.reads:
            site, ids = read.site, read.prompt.ids
            last[ids] = max(last.get(ids, -1), n_layers - 1 if site.layer is None else site.layer)
        if cell.readout.compares and cell.compared is not None:
            last[cell.compared.prompt.ids] = n_layers
    return last


def _count(number: int, noun: str) -> str:
    plural = "es" if noun.endswith("ch") else "s"
    return f"{number:,} {noun}{'' if number == 1 else plural}"
