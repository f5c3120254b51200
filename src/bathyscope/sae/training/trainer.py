"""train_coders: several coders from one pass over activations, kept as it goes and resumed to the bit."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.checkpoints import Checkpoint, settings_kept
from bathyscope.generation import Progress
from bathyscope.processor import times_slower
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.training.activations import Activations
from bathyscope.sae.training.learner import CoderConfig, Learner, Measured
from bathyscope.sae.training.settings import Settings
from bathyscope.sites import Site

VERSION: Final = 2
"""Version of how training goes; a checkpoint of another is refused."""

KEPT_EVERY: Final = 60.0
"""Seconds between two checkpoints, at least; and at least `TIMES_WRITING` times as long as the last one took."""
TIMES_WRITING: Final = 30.0

WORTH: Final = 0.5
"""bfloat16 is used where its products take at most so much of the time of float32. Where there are instructions for
it they take a tenth, where there are none more than the whole: a stopwatch that errs a little does not decide."""

SHAPE: Final = (512, 512, 4096)
"""The product that is timed for that: of the size that training has, since small ones gain far less."""

Watch = Callable[[int, Measured], None]
"""Called with the number of a coder, and what was measured of it last."""


@dataclass(frozen=True, eq=False)
class TrainedCoder:
    """A coder and how it came about.

    Args:
        coder: the coder.
        history: what was measured while it was trained, in the order of time.
    """

    coder: SparseCoder
    history: tuple[Measured, ...]


def train_coders(
    activations: Activations,
    asked: Sequence[CoderConfig],
    settings: Settings | None = None,
    *,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    stop: Stop | None = None,
) -> tuple[TrainedCoder, ...]:
    """Train sparse coders.

    Args:
        activations: what they learn from.
        asked: the coders; all learn from the same batches.
        settings: the numbers of the training.
        checkpoint: a file that is replaced every minute, and that the same call goes on from; None keeps nothing.
        progress: called with steps done, and all of them: of a stream, about so many.
        watch: called with what was measured of each coder.
        stop: looked at between batches.

    Raises:
        UsageError: a site that was not read, nothing to learn from, or a checkpoint of something else.
        CancelledError: `stop` said so; the checkpoint is written first.

    Example:
        >>> import torch
        >>> from bathyscope.sae import CoderConfig, GivenActivations, Settings, TopK, train_coders
        >>> x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
        >>> activations = GivenActivations({"resid_post.3": x})
        >>> (trained,) = train_coders(activations, [CoderConfig("resid_post.3", TopK(2), 16)], Settings(batch_size=64))
        >>> trained.coder.n_latents, int(trained.coder.encode(x).l0().max())
        (16, 2)
    """
    settings, stop = settings or Settings(), stop or Stop()
    _check(activations, asked)
    path = None if checkpoint is None else Path(checkpoint)
    half = _half(settings, asked, path)
    dead_after = settings.silent_for(activations.n_tokens)
    scalings = [(activations.scaling(one.sites[0]), activations.scaling(one.sites[1])) for one in asked]
    learners = [
        Learner(one, both, settings, dead_after, half=bool(half)) for one, both in zip(asked, scalings, strict=True)
    ]
    spec = {"version": VERSION, "coders": [one.spec() for one in asked], **vars(settings), "half": half}
    run = _Run(Checkpoint(path, {**spec, **activations.spec()}), learners)
    portion, batch = run.restore()
    for plain in activations.portions(settings.epochs, settings.seed, portion):
        one = replace(plain, carried=run.carried)
        n_batches = one.n_batches(settings.batch_size)
        for rows in one.batches(settings.batch_size, settings.seed, batch):
            run.look_at(stop, one.number, batch)
            batch += 1
            share = one.stretch.share(batch / n_batches)
            for number, learner in enumerate(learners):
                x, y = (rows[site] for site in learner.asked.sites)
                learner.learn(x, y, share)
                if watch is not None and learner.history:
                    watch(number, learner.history[-1])
            if progress is not None:
                progress(learners[0].step, round(learners[0].step / share))
            run.keep_sometimes(one.number, batch)
        batch = 0
        run.carried = one.left(settings.batch_size, settings.seed)
    run.keep(activations.n_portions(settings.epochs), 0)
    if not learners[0].step:
        raise UsageError("activations without a row were given", "a coder learns from what it reads: more text")
    told = {
        "settings": {name: value for name, value in vars(settings).items() if name != "half"},  # each says its own
        "n_tokens": learners[0].tokens,
        "activations": activations.spec(),
        "centre": "mean",  # what `SparseCoder.centre` is
    }
    return tuple(_finished(one, activations, told) for one in learners)


def _half(settings: Settings, asked: Sequence[CoderConfig], checkpoint: Path | None) -> bool | None:
    """Whether bfloat16 decides which latents are candidates; None where no coder asks.

    What a training began with it goes on with, whatever a stopwatch says now.
    """
    if not any(one.sparsity.coarse for one in asked):
        return None
    kept = settings_kept(checkpoint).get("half")
    if settings.half is not None or isinstance(kept, bool):
        return kept if settings.half is None else settings.half
    return times_slower(torch.bfloat16, SHAPE) <= WORTH


def _finished(learner: Learner, activations: Activations, told: dict[str, Any]) -> TrainedCoder:
    return TrainedCoder(
        learner.coder(activations.model, {**told, **_declared(learner.history)}), tuple(learner.history)
    )


def _declared(history: Sequence[Measured]) -> dict[str, float]:
    """What a coder says of itself: means over the steps of the last two records, of which the last may be of one."""
    before = [0, *(one.tokens for one in history)]
    last = [(one, one.tokens - seen) for one, seen in zip(history, before, strict=False)][-2:]
    tokens = sum(weight for _, weight in last)
    return {name: sum(vars(one)[name] * weight for one, weight in last) / tokens for name in ("fvu", "l0")}


def _check(activations: Activations, asked: Sequence[CoderConfig]) -> None:
    if not asked:
        raise UsageError("no coder was asked for", "at least one is needed")
    for one in asked:
        for site in one.sites:
            if site not in activations.sites:
                known = ", ".join(map(str, activations.sites))
                raise UsageError(f"a coder at {site} was asked for", f"activations were read at {known}")


@dataclass
class _Run:
    """The learners, the rows that a portion begins with, and where all is kept."""

    checkpoint: Checkpoint
    learners: list[Learner]
    kept: float = 0.0
    writing: float = 0.0
    carried: dict[Site, Tensor] = field(default_factory=dict)

    def restore(self) -> tuple[int, int]:
        """Go on from the checkpoint, if there is one: the portion and the batch to begin with."""
        self.kept = time.monotonic()
        done, tensors = self.checkpoint.read()
        if not tensors:
            return 0, 0
        for number, learner in enumerate(self.learners):
            own = f"{number}."
            learner.restore({name.removeprefix(own): one for name, one in tensors.items() if name.startswith(own)})
        own = "carried."
        self.carried = {
            Site.parse(name.removeprefix(own)): one for name, one in tensors.items() if name.startswith(own)
        }
        return done, int(tensors["batch"])

    def keep(self, portion: int, batch: int) -> None:
        """Write the checkpoint."""
        began = time.monotonic()
        tensors = {
            f"{number}.{name}": tensor.contiguous()
            for number, learner in enumerate(self.learners)
            for name, tensor in learner.tensors().items()
        }
        tensors |= {f"carried.{site}": rows.contiguous() for site, rows in self.carried.items()}
        self.checkpoint.write(portion, {**tensors, "batch": torch.tensor(batch)})
        self.kept = time.monotonic()
        self.writing = self.kept - began

    def keep_sometimes(self, portion: int, batch: int) -> None:
        """Write it where that was long ago."""
        if time.monotonic() - self.kept > max(KEPT_EVERY, TIMES_WRITING * self.writing):
            self.keep(portion, batch)

    def look_at(self, stop: Stop, portion: int, batch: int) -> None:
        """Leave if somebody asked to."""
        if stop.now or stop.soon:
            self.keep(portion, batch)
            path = self.checkpoint.path
            left = "nothing of it is kept" if path is None else f"the same call goes on from {path}"
            raise CancelledError("the training was stopped", left)
