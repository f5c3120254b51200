"""fit_soft_prompt: the future lens's learned prompt (arXiv 2311.04897). What it is stands in `soft_prompts`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.batches import Batch
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.agreement import kl_and_hits, log_probabilities
from bathyscope.fitting.lessons import Lessons, lessons
from bathyscope.generation import Progress
from bathyscope.hooks import EnoughRead, Hooks
from bathyscope.interventions import Intervention, Replace, Write
from bathyscope.mappings import Fit
from bathyscope.model import Model, Tokens
from bathyscope.sites import Site, check_layer, residual_site
from bathyscope.soft_prompts import SoftPrompt
from bathyscope.texts import Texts, split_texts

LENGTH: Final = 10
"""Positions of a soft prompt, as in the paper, unless a text says otherwise."""

PREFIX: Final = 32
"""Tokens of the longest prefix that a representation is read after."""


def fit_soft_prompt(  # noqa: PLR0913 (each is one thing that a user decides)
    model: Model,
    texts: Texts,
    *,
    layer: int,
    n_ahead: int = 3,
    length: int | None = None,
    init: str | None = None,
    n_positions: int = 1000,
    steps: int = 300,
    batch_size: int = 16,
    learning_rate: float = 0.05,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> SoftPrompt:
    """Learn a prompt in which a representation makes the model go on as it did where the representation was read.

    The model reads prefixes and goes on by itself, greedily. Then each prefix's last representation is written at the
    soft prompt's last position, at the same layer, followed by the model's own tokens; the prompt is moved (Adam, with
    steps that shrink to nothing) so that the distribution after each of these positions is the one that the model had.
    Only the prompt has gradients, the model none.

    Args:
        model: the model.
        texts: what it reads.
        layer: where representations are read, and written; -1 is the embedding.
        n_ahead: how many tokens beyond the next one are learned.
        length: positions of the prompt; 10, or as many as `init` has tokens.
        init: a text to start from; otherwise `length` tokens drawn from the vocabulary.
        n_positions: prefixes to learn from.
        steps: how often the prompt is moved.
        batch_size: prefixes a step.
        learning_rate: how far the first steps move each number, as a share of the root mean square of the start.
        held_out: share of the documents, and of `n_positions`, that is measured on.
        seed: decides the prefixes, their order and the drawn tokens.
        progress: called with the prefixes that were read, over and over, and those there are to read.
        stop: looked at between batches.

    Returns:
        The soft prompt. `fit.held_out` has for 0 to `n_ahead` tokens beyond the next one, after the model's own
        tokens up to there: "kl" from the model's distribution in nats and "precision_at_1"; the same of the start
        ("start_kl", ...), and of prefixes that were given each other's representation ("others_kl", ...), which shows
        what the prompt and the tokens alone can tell.

    Raises:
        UsageError: a number that cannot be, `length` and `init` that differ, or too little text.
        CancelledError: `stop` said so; nothing is kept.

    Example:
        >>> import bathyscope
        >>> from bathyscope.fitting import fit_soft_prompt
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> sentence = " went to a town by the sea, and looked at the boats, and then went home again."
        >>> texts = given_texts([name + sentence for name in ("Ann", "Bo", "Cy", "Di")])
        >>> prompt = fit_soft_prompt(
        ...     model, texts, layer=20, length=2, n_ahead=1, n_positions=2, steps=1, batch_size=2, held_out=0.5
        ... )
        >>> prompt.vectors.shape, sorted(prompt.fit.held_out)
        (torch.Size([2, 576]), ['0', '1'])
    """
    check_layer(layer, model.n_layers)
    _check(n_ahead=n_ahead + 1, n_positions=n_positions, steps=steps, batch_size=batch_size)
    start = _start(model, layer, length, init, seed)
    n_kept, to_learn = max(2, round(held_out * n_positions)), steps * batch_size
    total, read = n_positions + n_kept + to_learn, 0

    def tick(n: int) -> None:
        nonlocal read
        read += n
        if stop is not None and (stop.now or stop.soon):
            raise CancelledError("the fit was stopped", "nothing of it is kept")
        if progress is not None:
            progress(read, total)

    asked = {"layer": layer, "n_ahead": n_ahead, "length": PREFIX, "seed": seed}
    seen, unseen = split_texts(texts, held_out=held_out)
    own = lessons(model, seen, n_positions=n_positions, tick=tick, **asked)
    other = lessons(model, unseen, n_positions=n_kept, tick=tick, **asked)
    total = read + to_learn  # there may have been less text than was asked for
    training = _Training(model, layer, own, steps, batch_size, learning_rate, seed)
    vectors = training.run(start.vectors, tick)
    options = {
        "n_ahead": n_ahead,
        "length": len(vectors),
        "init": init,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "held_out": held_out,
        "held_out_positions": len(other),
        "seed": seed,
    }
    measured = _measured(model, layer, other, {"": vectors, "start_": start.vectors}, batch_size)
    fit = Fit("soft-prompt", start.fit.source, start.fit.target, texts.describe(), len(own), measured, options)
    return SoftPrompt(vectors, layer, fit)


def soft_logits(model: Model, vectors: Tensor, layer: int, given: Lessons) -> Tensor:
    """What is said in a soft prompt after each representation, and after each token of its continuation.

    Args:
        model: the model.
        vectors: the prompt, (length, d_model); gradients reach it.
        layer: where representations are written, at its last position.
        given: representations and continuations.

    Returns:
        Logits, (rows, n_ahead + 1, d_vocab).
    """
    length, last = len(vectors), Site("resid_post", model.n_layers - 1)
    embed, site = Site("embed"), residual_site(layer)
    rows = [Tokens("", (0,) * length + tuple(ids), ()) for ids in given.ids.tolist()]
    writes = [
        Write(embed, _Learned(vectors), tuple(range(length))),
        *(Write(site, Replace(state), length - 1, row) for row, state in enumerate(given.states)),
    ]
    batch = Batch(model, rows)
    # What is written is read as well, since a pass stops when every site has been read.
    hooks = Hooks(model, batch.window, reads=[embed, site, last], writes=writes, graph=True, stop=True)
    with hooks, suppress(EnoughRead):
        batch.logits()
    hooks.check()
    return model.unembed(hooks.tensor(last)[:, length - 1 :])


@dataclass(frozen=True, eq=False)
class _Learned(Intervention):
    """Write a value that gradients reach: the tensor itself, and no copy of it."""

    value: Tensor

    @override
    def apply(self, activation: Tensor) -> Tensor:
        return self.value.to(activation)


@dataclass(frozen=True)
class _Training:
    """How a soft prompt is moved."""

    model: Model
    layer: int
    lessons: Lessons
    steps: int
    batch_size: int
    learning_rate: float
    seed: int

    def run(self, start: Tensor, tick: Callable[[int], None]) -> Tensor:
        """The learned vectors, (length, d_model), from those it starts with."""
        vectors = start.to(torch.promote_types(torch.float32, start.dtype)).clone().requires_grad_()
        rate = self.learning_rate * float(start.float().square().mean().sqrt())
        optimizer = torch.optim.Adam([vectors], lr=rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.steps)
        for chosen in self._batches():
            given = self.lessons.some(chosen)
            with torch.enable_grad():
                kl, _ = _compared(self.model, vectors, self.layer, given)
            (vectors.grad,) = torch.autograd.grad(kl.mean(), [vectors])
            optimizer.step()
            schedule.step()
            tick(self.batch_size)
        return vectors.detach()

    def _batches(self) -> Iterator[Tensor]:
        """Lessons in a random order, then in another."""
        generator = torch.Generator().manual_seed(self.seed)
        waiting = torch.empty(0, dtype=torch.long)
        for _ in range(self.steps):
            while len(waiting) < self.batch_size:
                waiting = torch.cat([waiting, torch.randperm(len(self.lessons), generator=generator)])
            yield waiting[: self.batch_size]
            waiting = waiting[self.batch_size :]


def _compared(model: Model, vectors: Tensor, layer: int, given: Lessons) -> tuple[Tensor, Tensor]:
    """KL from what the model said, and whether the likeliest token is the same, both (rows, n_ahead + 1)."""
    with torch.no_grad():
        rows, steps, width = given.hidden.shape
        own = log_probabilities(model.decide(given.hidden.reshape(rows * steps, width))).view(rows, steps, -1)
    return kl_and_hits(own, soft_logits(model, vectors, layer, given))


def _measured(
    model: Model, layer: int, unseen: Lessons, prompts: Mapping[str, Tensor], batch_size: int
) -> dict[str, dict[str, float]]:
    """For each number of tokens ahead what each prompt reaches, and the first of them with others' representations."""
    tasks = [(name, vectors, unseen) for name, vectors in prompts.items()]
    tasks.append(("others_", next(iter(prompts.values())), unseen.others()))
    found: dict[str, dict[str, float]] = {}
    for name, vectors, given in tasks:
        parts = []
        for first in range(0, len(given), batch_size):
            with torch.no_grad():
                parts.append(_compared(model, vectors, layer, given.some(slice(first, first + batch_size))))
        for what, values in zip(("kl", "precision_at_1"), zip(*parts, strict=True), strict=True):
            for ahead, value in enumerate(torch.cat(values).float().mean(0).tolist()):
                found.setdefault(str(ahead), {})[name + what] = value
    return found


def _start(model: Model, layer: int, length: int | None, init: str | None, seed: int) -> SoftPrompt:
    """The prompt that learning begins with."""
    if init is not None:
        found = SoftPrompt.of(model, init, layer)
        if length not in (None, len(found.vectors)):
            raise UsageError(
                f"length={length} and an init of {len(found.vectors)} tokens were given",
                "one of them decides the length",
                f"length={len(found.vectors)}",
            )
        return found
    length = LENGTH if length is None else length
    _check(length=length)
    generator = torch.Generator().manual_seed(seed)
    return SoftPrompt.of(model, torch.randint(model.vocabulary, (length,), generator=generator).tolist(), layer)


def _check(**numbers: Any) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UsageError(f"{name} is {number}", "at least 1")
