"""The cached activations that every coder is trained on: one file of the training set and the held-out rows.

They are the embedded model's at one site on somebody's text, or made up where there is no text: then
speed means the same, and errors are comparable with one another only.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from measure import say
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import bathyscope
from bathyscope import Model, capture
from bathyscope.fitting import usable
from bathyscope.model import Tokens
from bathyscope.texts import Texts, read_texts, split_texts, windows

SITE = "resid_post.12"
WINDOW = 128
TOGETHER = 32
"""Windows that are read in one pass."""


def captured(text: Path, limit: int | None, file: Path) -> dict[str, Any]:
    """Write the activations of a text, the last tenth of its documents held out, without attention sinks.

    Args:
        text: the text.
        limit: at most so many rows to train on, and a tenth of that held out; None for all.
        file: what is written.

    Returns:
        What it holds, as JSON values.
    """
    model = bathyscope.load(dtype=torch.float32)
    texts = read_texts(text)
    fit, held_out = split_texts(texts)
    say(f"  reading {text.name} with {model.name}")
    tensors = {
        "train": _rows(model, fit, limit),
        "held_out": _rows(model, held_out, None if limit is None else max(1, limit // 10)),
    }
    return _save(tensors, {"kind": "captured", "site": SITE, "model": model.name, "text": texts.describe()}, file)


def made_up(rows: int, width: int, file: Path, *, directions: int = 4608, active: int = 32) -> dict[str, Any]:
    """Write sums of a few of many directions, some of them far commoner than others, about a mean, with noise.

    Args:
        rows: how many to train on; a tenth of that is held out.
        width: of a row.
        file: what is written.
        directions: how many there are.
        active: how many are drawn for each row.

    Returns:
        What it holds, as JSON values.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.nn.functional.normalize(torch.randn(directions, width, generator=generator), dim=1)
    common = 1 / torch.arange(10, directions + 10, dtype=torch.float32)  # Zipf's law, without its first ten
    mean = torch.randn(width, generator=generator)

    def some(count: int) -> Tensor:
        drawn = torch.multinomial(common, count * active, replacement=True, generator=generator).view(count, active)
        sizes = 0.5 + torch.rand(count, active, generator=generator)
        signal = torch.nn.functional.embedding_bag(drawn, basis, per_sample_weights=sizes, mode="sum")
        return signal + mean + 0.02 * torch.randn(count, width, generator=generator)

    tensors = {"train": some(rows), "held_out": some(max(1, rows // 10))}
    return _save(tensors, {"kind": "made up", "directions": directions, "active": active}, file)


def description(file: Path) -> dict[str, Any]:
    """What a file of activations holds, as JSON values."""
    with safe_open(file, "pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in ("train", "held_out")}
        told = json.loads((opened.metadata() or {}).get("description", "{}"))
    return {**told, "train": shapes["train"], "held_out": shapes["held_out"]}


def _rows(model: Model, texts: Texts, limit: int | None) -> Tensor:
    """The site's activations along every window, one row a usable position."""
    found, count = [], 0
    for block in _blocks(windows(model, texts, length=WINDOW)):
        for residual in capture(model, block, [SITE], batch_size=len(block))[SITE]:
            found.append(residual[usable(residual)].float())
            count += len(found[-1])
        if limit is not None and count >= limit:
            break
    return torch.cat(found)[:limit].contiguous()


def _blocks(found: Iterator[Tokens]) -> Iterator[list[Tokens]]:
    while block := list(islice(found, TOGETHER)):
        yield block


def _save(tensors: dict[str, Tensor], told: dict[str, Any], file: Path) -> dict[str, Any]:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file, {"description": json.dumps(told)})
    return description(file)
