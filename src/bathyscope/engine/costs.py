"""What a plan costs: bytes, seconds, and what cannot be saved on a model, and why."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.attention import PRECISION, can_share
from bathyscope.engine.cells import Cell
from bathyscope.model import Model
from bathyscope.processor import slow_half
from bathyscope.readouts.base import ROWS

KEPT_APART = 24 * 2**20
"""Bytes of a budget that are left to the common passes and to what an allocator does not give back at once."""

OTHER_WORK = 1.5
"""Time of everything, over the time of the matrix products alone; measured on a laptop CPU."""


def row_bytes(cell: Cell, start: int, model: Model, *, tail: bool) -> int:
    """Bytes that one row takes: keys and values, the widest activations of a block, and logits of decoding steps."""
    item = model.dtype.itemsize
    if tail:
        return 8 * item * model.d_model
    columns = len(cell.target) - start
    d_mlp = getattr(model.hf.config, "intermediate_size", None) or 4 * model.d_model
    shared = can_share(model) and start > 0
    own = len(cell.target) + cell.readout.new_tokens - (start if shared else 0)
    cache = kv.row_bytes(model.architecture, PRECISION if shared else model.dtype, own)
    activations = columns * item * (3 * d_mlp + 8 * model.d_model)
    return cache + activations + (_logit_bytes(model) if cell.readout.new_tokens else 0)


def rows_read(model: Model, budget: int) -> int:
    """How many rows' logits are made and read out together."""
    return max(1, min(ROWS, budget // 8 // _logit_bytes(model)))


def batch_bytes(cell: Cell, rows: int, start: int, model: Model, budget: int, *, tail: bool) -> int:
    """Bytes that a batch of rows like a cell takes."""
    logits = 0 if cell.readout.new_tokens else min(rows, rows_read(model, budget)) * _logit_bytes(model)
    return rows * row_bytes(cell, start, model, tail=tail) + logits


def notes(model: Model, *, bypass: bool) -> tuple[str, ...]:
    """What cannot be saved on this model, and why."""
    found = []
    if not bypass:
        found.append("a block carries another hook, so that no row can sleep through it")
    if not can_share(model):
        found.append(f"{model.attention} attention of {model.architecture.family} keeps the prefix once for each row")
    if slow := slow_half(model):
        found.append(slow)
    return tuple(found)


def seconds(token_layers: int, cells: Sequence[Cell], rows: int, model: Model) -> float:
    """Estimated seconds, from one timed matrix product."""
    speed = _speed(min(rows, 512), model.unembedding.weight[:4096])
    block = sum(weight.numel() for weight in model.blocks[0].parameters() if weight.ndim > 1)
    read = sum(cell.readout.n_passes for cell in cells)
    return OTHER_WORK * (token_layers * block + read * model.vocabulary * model.d_model) / speed


_SPEEDS: dict[tuple[int, torch.Size, torch.dtype, torch.device], float] = {}


def _speed(rows: int, weight: Tensor) -> float:
    """Multiplications a second in products of so many rows with a weight, timed once a process for each size."""
    size = rows, weight.shape, weight.dtype, weight.device
    if size not in _SPEEDS:
        probe = torch.ones(rows, weight.shape[1], dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            began = time.perf_counter()
            for _ in range(3):
                torch.nn.functional.linear(probe, weight)
            taken = time.perf_counter() - began
        _SPEEDS[size] = 3 * rows * weight.numel() / max(1e-9, taken)
    return _SPEEDS[size]


def _logit_bytes(model: Model) -> int:
    return 2 * max(model.dtype.itemsize, 4) * model.vocabulary
