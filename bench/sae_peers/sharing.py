"""What every trainer of the comparison is given and gives back: a job, batches with a clock, what its coder makes.

Runs in other libraries' environments, so it knows nothing of bathyscope: torch and safetensors alone.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

ENCODED_TOGETHER = 2048
"""Rows that a finished coder encodes at a time."""


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        activations: a safetensors file with "train" and "held_out", both (rows, width), float32.
        made: the safetensors file that receives what the finished coder makes of them.
        n_latents: how many latents the coder has.
        k: how many of them are active in a row.
        batch: rows of a step.
        steps: steps of the whole training.
        warm_up: steps before the clock starts.
        probe: steps of each trial of a setting that only speed depends on.
        recent: so many last rows of the training set tell, with the held-out ones, which latents are dead.
        learning_rate: None for the library's own.
        seed: decides the weights at first and the order of the rows.
        threads: of torch.
        options: what only one library knows.
    """

    activations: str
    made: str
    n_latents: int
    k: int
    batch: int
    steps: int
    warm_up: int
    probe: int
    recent: int
    learning_rate: float | None
    seed: int
    threads: int
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def given(cls) -> "Job":
        """The one that the first argument names."""
        job = cls(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        return job

    def rows(self, name: str) -> Tensor:
        """The activations called "train" or "held_out"."""
        with safe_open(self.activations, "pt") as file:
            return file.get_tensor(name)


@dataclass(frozen=True)
class Clocked:
    """What a stretch of training took.

    Args:
        tokens: rows of its steps.
        seconds: by the clock on the wall.
        processor_seconds: of all threads; on a shared machine it says more.
    """

    tokens: int
    seconds: float
    processor_seconds: float

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.tokens / self.seconds


class Batches(Iterator[Tensor]):
    """Full batches of shuffled rows, epoch after epoch, and the time when each was asked for.

    Args:
        rows: the training set, (rows, width).
        batch: rows of a step.
        seed: decides the order.
    """

    def __init__(self, rows: Tensor, batch: int, seed: int) -> None:
        self.rows, self.batch = rows, batch
        self._asked_at: list[tuple[float, float]] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._order = self._orders()

    def __next__(self) -> Tensor:
        self._asked_at.append((time.perf_counter(), time.process_time()))
        return self.rows[next(self._order)]

    def _orders(self) -> Iterator[Tensor]:
        while True:
            shuffled = torch.randperm(len(self.rows), generator=self._generator)
            for first in range(0, len(shuffled) - self.batch + 1, self.batch):
                yield shuffled[first : first + self.batch]

    def clocked(self, warm_up: int) -> Clocked:
        """The steps after the first `warm_up`, until now: call it when training ends."""
        wall, processor = self._asked_at[warm_up]
        tokens = (len(self._asked_at) - warm_up) * self.batch
        return Clocked(tokens, time.perf_counter() - wall, time.process_time() - processor)


def fastest(trials: dict[str, Callable[[], float]]) -> tuple[str, dict[str, float]]:
    """The setting of the most rows a second, and what each reached."""
    found = {name: trial() for name, trial in trials.items()}
    return max(found, key=lambda name: found[name]), found


def has_quick_bfloat16() -> bool:
    """Whether products in bfloat16 are quicker than in float32; without the instructions they are many times slower."""
    x = torch.randn(512, 512)

    def seconds(one: Tensor) -> float:
        one @ one
        started = time.perf_counter()
        for _ in range(3):
            one @ one
        return time.perf_counter() - started

    return seconds(x.bfloat16()) < seconds(x)


def write(job: Job, made: dict[str, Tensor], clocked: Clocked, settings: dict[str, Any], name: str) -> None:
    """Hand back what was made and measured; `name` is the library's distribution."""
    save_file({key: tensor.contiguous() for key, tensor in made.items()}, job.made)
    found = {
        **asdict(clocked),
        "settings": settings,
        "versions": {one: metadata.version(one) for one in (name, "torch")},
    }
    Path(sys.argv[2]).write_text(json.dumps(found), "utf-8")


@torch.no_grad()
def made_by(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]], decode: Callable[[Tensor, Tensor], Tensor], job: Job
) -> dict[str, Tensor]:
    """What a finished coder makes of un-normalised activations.

    Args:
        encode: from rows, (rows, width), to indices and values of their latents, each (rows, k).
        decode: from these to the reconstruction, (rows, width).
        job: the training.

    Returns:
        "reconstruction" of the held-out rows, their "indices" and "values", and those of the last rows of
        the training set, "recent_indices" and "recent_values".
    """
    held_out, recent = job.rows("held_out"), job.rows("train")[-job.recent :]
    codes = [encode(block) for block in held_out.split(ENCODED_TOGETHER)]
    recents = [encode(block) for block in recent.split(ENCODED_TOGETHER)]
    return {
        "reconstruction": torch.cat([decode(*code) for code in codes]),
        "indices": torch.cat([code[0] for code in codes]),
        "values": torch.cat([code[1] for code in codes]),
        "recent_indices": torch.cat([code[0] for code in recents]),
        "recent_values": torch.cat([code[1] for code in recents]),
    }
