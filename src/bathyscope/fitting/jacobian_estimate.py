"""Estimate: mean Jacobians from far fewer backward passes than one for every prompt and direction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.fitting.checkpoints import Checkpoint
from bathyscope.generation import Progress
from bathyscope.gradients import stream
from bathyscope.model import Model, Tokens
from bathyscope.texts import Texts

ROWS: Final = 8
"""Prompts that run together."""

TOGETHER: Final = 4
"""Directions of each prompt that are pulled back together."""


@dataclass(frozen=True)
class Estimate:
    """J from prompts that each answer for some directions.

    All directions stand in one row, basis after basis, and are dealt out to the prompts in order: a prompt's are
    orthogonal to one another, up to where one basis ends and the next begins.

    Args:
        model: the model.
        layers: with respect to which, all below the last block.
        prompts: of one length; their last position is the last that counts.
        skip_first: the first position that counts.
        bases: how many there are, at most as many as prompts.
        seed: decides them.
    """

    model: Model
    layers: tuple[int, ...]
    prompts: Sequence[Tokens]
    skip_first: int
    bases: int
    seed: int

    @property
    def n_positions(self) -> int:
        """Positions of a prompt that count."""
        return len(self.prompts[0]) - self.skip_first

    @property
    def n_directions(self) -> int:
        """Of all bases."""
        return self.bases * self.model.d_model

    @property
    def dtype(self) -> torch.dtype:
        """What is summed in: float32, or the model's own where it is finer."""
        return torch.promote_types(torch.float32, self.model.dtype)

    def options(self) -> dict[str, Any]:
        """What a file says of the estimate, as JSON values."""
        return {"n_prompts": len(self.prompts), "directions": self.n_directions / len(self.prompts)}

    def settings(self, texts: Texts) -> dict[str, Any]:
        """Everything that the sums depend on, as JSON values."""
        return {
            "model": self.model.fingerprint,
            "texts": texts.describe(),
            "layers": list(self.layers),
            "n_prompts": len(self.prompts),
            "length": len(self.prompts[0]) + 1,
            "skip_first": self.skip_first,
            "bases": self.bases,
            "seed": self.seed,
            "rows": ROWS,
        }

    def run(self, kept: Checkpoint, progress: Progress | None, stop: Stop) -> dict[int, Tensor]:
        """The weight of each layer, J transposed, (d_model, d_model)."""
        if not self.layers:
            return {}
        done, sums = kept.read()
        width = self.model.d_model
        sums = sums or {str(layer): torch.zeros(width, width, dtype=self.dtype) for layer in self.layers}
        for first in range(done, len(self.prompts), ROWS):
            rows = range(first, min(first + ROWS, len(self.prompts)))
            for layer, pulled, vectors in self._batch(rows, progress, stop):
                sums[str(layer)].addmm_(pulled.T, vectors)
            kept.write(rows.stop, sums)
        return {layer: sums[str(layer)] / self.bases for layer in self.layers}

    def _batch(self, rows: range, progress: Progress | None, stop: Stop) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each layer the directions pulled back to it, and the directions themselves, (directions, d_model)."""
        places = [self._dealt(row) for row in rows]
        most = max(len(one) for one in places)
        vectors = torch.zeros(most, len(rows), self.model.d_model, dtype=self.dtype)
        for row, place in enumerate(places):
            vectors[: len(place), row] = torch.stack([self._direction(index) for index in place])
        passed = stream(self.model, [self.prompts[row] for row in rows], self.layers, start=self.skip_first)
        pulled: dict[int, list[Tensor]] = {layer: [] for layer in self.layers}
        for first in range(0, most, TOGETHER):
            if stop.now or stop.soon:
                raise CancelledError("the fit was stopped", "a checkpoint keeps the batches before")
            some = vectors[first : first + TOGETHER, :, None].to(passed.last)
            for layer, gradient in passed.pull_back(some.expand(-1, *passed.last.shape)).items():
                pulled[layer].append(gradient.mean(2, dtype=self.dtype).flatten(0, 1).cpu())
            if progress is not None:
                done = sum(min(first + TOGETHER, len(place)) for place in places)
                progress(places[0].start + done, self.n_directions)
        for layer, found in pulled.items():
            yield layer, torch.cat(found), vectors.flatten(0, 1)

    def _dealt(self, prompt: int) -> range:
        """The directions that a prompt answers for."""
        n = len(self.prompts)
        return range(prompt * self.n_directions // n, (prompt + 1) * self.n_directions // n)

    def _direction(self, index: int) -> Tensor:
        basis, row = divmod(index, self.model.d_model)
        return _basis(self.model.d_model, self.seed, basis)[row]


@lru_cache(maxsize=2)
def _basis(width: int, seed: int, number: int) -> Tensor:
    """Orthonormal rows in random directions, (width, width)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
