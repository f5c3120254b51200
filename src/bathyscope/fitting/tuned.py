"""fit_tuned_lens: for each layer a translator to the last block's output, trained on what the model itself says next.

Text is read once, in portions: every layer's residual stream at some thousand positions, shuffled, and
a few dozen steps of all translators together. What training is made of is in `translators`.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, UsageError
from bathyscope.fitting.agreement import agreement
from bathyscope.fitting.checkpoints import Checkpoint
from bathyscope.fitting.regression import ENOUGH
from bathyscope.fitting.sinks import usable
from bathyscope.fitting.translators import Coordinates, LeastSquares, Translators
from bathyscope.forward import capture
from bathyscope.generation import Progress
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model, Tokens
from bathyscope.sites import EMBEDDING_LAYER, check_layer, residual_site
from bathyscope.texts import Texts, split_texts, windows

VERSION: Final = 1
"""Version of how training goes; a checkpoint of another is refused."""

PORTION: Final = 32
"""Batches that are read, shuffled and learnt from together; what a checkpoint may cost an interruption."""

SPREAD: Final = 16
"""Windows are taken from so many times as much text as is needed, where there is as much."""

STARTS: Final = {"least-squares": 2e-3, "zero": 1e-2}
"""Where training may start, and at what rate from there."""

START: Final = 0.2
"""Share of the positions that least squares is computed from; training goes on with the others."""

MEASURED: Final = 1_000
"""Held-out positions that the lens is measured on, exactly."""


def fit_tuned_lens(  # noqa: PLR0913 (each is one thing that a user decides)
    model: Model,
    texts: Texts,
    *,
    layers: Sequence[int] | None = None,
    n_positions: int = 100_000,
    length: int = 128,
    batch_size: int = 128,
    start: str = "least-squares",
    learning_rate: float | None = None,
    sample: int = 2048,
    held_out: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Affine:
    """Fit the tuned lens (arXiv 2303.08112): h + W h + b for each layer, read by the model's own norm and unembedding.

    W and b are trained by Adam on the KL divergence from the model's own next-token distribution. The model is frozen.
    The last block has the identity. In the paper they start at zero, where the lens is the logit lens to the last bit.
    Least squares, solved on the first fifth of the positions, is a better start: with as many positions in all, the
    divergence on held-out text ends a quarter to a half lower (docs/mappings.md).

    The logits of a whole vocabulary at every layer would be nearly all of the work. A step computes those of some
    tokens: the likely ones always, the others by chance and counted as often as makes sums right on average
    (`vocabulary.draw`). What is reported of the result is exact.

    What arXiv 2401.06102 calls tuned lens is `fit_affine(..., method="least-squares")`.

    Args:
        model: the model.
        texts: what it reads; the last documents are held out.
        layers: which have a translator, -1 for the embedding; all unless said.
        n_positions: positions to learn from, once each; where there are fewer, all of them. Attention sinks are left
            out (`usable`).
        length: tokens of a window.
        batch_size: positions of a step.
        start: "least-squares", or "zero".
        learning_rate: at its highest, relative to what the model itself still adds after a layer; unless said that of
            `STARTS`.
        sample: tokens of the vocabulary that a step computes; a vocabulary that is no larger is computed whole.
        held_out: share of the documents that the lens is measured on.
        seed: decides the order of positions.
        checkpoint: a file that finished portions are kept in; the same call goes on from there, and ends bit for bit
            where it would have ended.
        progress: called with the steps that are done and those there are.
        stop: looked at before every step.

    Returns:
        A mapping from each layer's residual stream to the last block's output. `fit.held_out` has for each layer what
        `agreement` measures: KL and Precision@1 of the read-out, beside those of the logit lens.

    Raises:
        UsageError: too little text, a layer or a number that cannot be, or a checkpoint of another call.
        CancelledError: `stop` said so; with a checkpoint, finished portions are kept.
        StorageError: the checkpoint cannot be read or written.

    Warns:
        BathyscopeWarning: fewer than 10 positions for each number of the model's width.

    Example:
        >>> import bathyscope, warnings
        >>> from bathyscope.fitting import fit_tuned_lens
        >>> from bathyscope.texts import given_texts
        >>> warnings.simplefilter("ignore")  # it warns of so little text
        >>> texts = given_texts([f"{name} lives in a small town by the sea." for name in ("Ann", "Bo", "Cy")])
        >>> lens = fit_tuned_lens(bathyscope.load(), texts, layers=[20, 29], length=8, batch_size=4, sample=64)
        >>> sorted(lens.fit.held_out["resid_post.20>resid_post.29"])[:2]
        ['kl', 'logit_lens_kl']
    """
    asked = _Asked(model, tuple(range(EMBEDDING_LAYER, model.n_layers) if layers is None else layers), length)
    if start not in STARTS:
        raise UsageError(f"start={start!r} was given", f"starts are {', '.join(STARTS)}", 'start="zero"')
    rate = STARTS[start] if learning_rate is None else learning_rate
    if min(n_positions, batch_size, sample) < 1 or not 0 <= rate < math.inf:
        raise UsageError(
            f"n_positions={n_positions}, batch_size={batch_size}, sample={sample} and learning_rate={rate} were given",
            "at least 1 each, and a rate of at least 0",
        )
    seen, unseen = split_texts(texts, held_out=held_out)
    options = {
        "n_positions": n_positions,
        "length": length,
        "batch_size": batch_size,
        "start": start,
        "learning_rate": rate,
        "sample": min(sample, model.vocabulary),
        "held_out": held_out,
        "seed": seed,
    }
    settings = {**options, "layers": list(asked.below), "text": seen.describe(), "version": VERSION}
    settings |= {"model": model.fingerprint, "attention": model.attention, "device": model.device.type}
    kept = Checkpoint(None if checkpoint is None else Path(checkpoint), settings)
    chosen = asked.windows(seen, n_positions)
    n_positions = min(n_positions, sum(len(window) - 1 for window in chosen))
    share = START if start == "least-squares" else 0.0
    training = _Training(asked, chosen, max(1, n_positions // batch_size), batch_size, rate, sample, share, seed)
    found, n_samples = training.run(kept, progress, stop or Stop())
    terms = asked.terms(found)
    measured = agreement(model, windows(model, unseen, length=length), terms, n_positions=MEASURED)
    identity = model_identity(model)
    fit = Fit("tuned-lens", identity, identity, texts.describe(), n_samples, measured, options)
    if n_samples < ENOUGH * model.d_model and asked.below:
        warnings.warn(_too_little(fit, model.d_model), BathyscopeWarning, stacklevel=2)
    return Affine(terms, fit)


@dataclass(frozen=True)
class _Asked:
    """One call of `fit_tuned_lens`, checked."""

    model: Model
    layers: tuple[int, ...]
    length: int

    def __post_init__(self) -> None:
        for layer in self.layers:
            check_layer(layer, self.model.n_layers)
        if not self.layers:
            raise UsageError("no layer was given", "at least one is needed")

    @property
    def last(self) -> int:
        """The last block, where the identity is known beforehand."""
        return self.model.n_layers - 1

    @property
    def below(self) -> tuple[int, ...]:
        """The layers that have something to learn."""
        return tuple(sorted({layer for layer in self.layers if layer < self.last}))

    def windows(self, texts: Texts, n_positions: int) -> list[Tokens]:
        """Windows to read, spread over more text than is needed, since few documents would be too much alike."""
        wanted = math.ceil(n_positions / max(1, self.length - 1))
        ahead = list(islice(windows(self.model, texts, length=self.length), SPREAD * wanted))
        stride = math.ceil(len(ahead) / wanted)
        return [window for first in range(stride) for window in ahead[first::stride]]

    def read(self, window: Tokens) -> Tensor:
        """Residual streams of the layers to learn and of the last, (layers + 1, positions, d_model), sinks left out."""
        sites = [residual_site(layer) for layer in (*self.below, self.last)]
        found = capture(self.model, window, sites)
        read = torch.stack([found[site][0] for site in sites])
        kept = torch.stack([usable(one) for one in read]).all(0)
        return read[:, kept].to(torch.promote_types(read.dtype, torch.float32))

    def terms(self, translators: Sequence[Term]) -> dict[Any, Term]:
        """The mapping's terms: those that were learnt, and the identity at the last block."""
        learnt = dict(zip(self.below, translators, strict=True))
        last = residual_site(self.last)
        return {(residual_site(one), last): learnt.get(one, Term(torch.tensor(1.0))) for one in self.layers}


@dataclass(frozen=True)
class _Training:
    """Portions of text and the steps that are taken on them."""

    asked: _Asked
    windows: Sequence[Tokens]
    steps: int
    batch_size: int
    rate: float
    sample: int
    share: float
    seed: int

    def run(self, kept: Checkpoint, progress: Progress | None, stop: Stop) -> tuple[list[Term], int]:
        """The translators, and the positions that they were trained on."""
        if not self.asked.below:
            return [], 0
        portions, tensors = kept.read()
        done, n = (int(tensors.pop(name, torch.tensor(0))) for name in ("steps", "n"))
        translators = Translators.from_tensors(tensors, self.steps, self.rate) if tensors else None
        squares: LeastSquares | None = None
        for number, states in self._portions(portions):
            if done >= self.steps:
                break
            if translators is None and done < self.share * self.steps:
                self._look_at(stop, kept)
                squares = squares or LeastSquares(Coordinates.of(states[:-1], states[-1]))
                squares.add(states[:-1], states[-1])
                done, n = done + max(1, states.shape[1] // self.batch_size), n + states.shape[1]
                _tell(progress, done, self.steps)
                continue
            if translators is None:
                translators = self._start(squares, states)
            order = torch.randperm(states.shape[1], generator=torch.Generator().manual_seed(self.seed + number))
            for batch in order.split(self.batch_size):
                if done >= self.steps or (done and len(batch) < self.batch_size):
                    break  # enough, or the last positions of a portion, fewer than a step
                self._look_at(stop, kept)
                part = states[:, batch]
                translators.step(self.asked.model, part[:-1], part[-1], self.sample, done)
                done, n = done + 1, n + len(batch)
                _tell(progress, done, self.steps)
            kept.write(number + 1, {**translators.tensors(), "steps": torch.tensor(done), "n": torch.tensor(n)})
        if translators is None and squares is not None:
            translators = self._start(squares, None)
        if translators is None:
            raise UsageError(
                "the text has no position to learn from", "the first of each window and other sinks are left out"
            )
        return translators.terms(), n

    def _start(self, squares: LeastSquares | None, states: Tensor | None) -> Translators:
        """Translators that have not learnt yet."""
        if squares is not None:
            found = Translators(squares.coordinates, self.steps, self.rate)
            found.start_from(*squares.solved())
            return found
        assert states is not None
        return Translators(Coordinates.of(states[:-1], states[-1]), self.steps, self.rate)

    @staticmethod
    def _look_at(stop: Stop, kept: Checkpoint) -> None:
        if stop.now or stop.soon:
            there = kept.path is not None and kept.path.exists()
            left = f"the same call goes on from {kept.path}" if there else "nothing of it is kept"
            raise CancelledError("the fit was stopped", left)

    def _portions(self, skip: int) -> Iterator[tuple[int, Tensor]]:
        """Numbers and residual streams, (layers + 1, positions, d_model), of portions of whole windows."""
        each = max(1, round(PORTION * self.batch_size / max(1, self.asked.length - 1)))
        for number, first in enumerate(range(0, len(self.windows), each)):
            if number < skip:
                continue
            states = torch.cat([self.asked.read(one) for one in self.windows[first : first + each]], 1)
            if states.shape[1]:
                yield number, states


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(min(done, total), total)


def _too_little(fit: Fit, width: int) -> str:
    divergences = [one["kl"] for one in fit.held_out.values()]
    return (
        f"{fit.method} was fitted on {fit.n_samples} positions at width {width}, fewer than {ENOUGH} for each number; "
        f"its KL divergence on held-out text is {min(divergences):.3g} to {max(divergences):.3g} nats"
    )
