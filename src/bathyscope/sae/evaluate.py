"""Evaluation of coders: each text is read once for all of them, then losses are measured on a part of it.

What is measured is in `reconstruction` and `losses`. Nothing depends on how many windows run together.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Any, Final

import torch

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, UsageError
from bathyscope.forward import capture
from bathyscope.generation import Progress
from bathyscope.model import Model, Tokens
from bathyscope.results import provenance
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.evaluation import CoderEvaluation, CoderEvaluations
from bathyscope.sae.losses import ARMS, Losses, Spliced
from bathyscope.sae.places import Place
from bathyscope.sae.reconstruction import Tally
from bathyscope.texts import Texts, windows

LOSS_TOKENS: Final = 8192
"""Tokens that losses are measured on: they cost three more runs a coder."""

TIMES: Final = 2.0
MORE: Final = 0.2
"""How much worse than in training a coder may be before that is worth a warning: twice, and by so much."""

BATCH: Final = 8
"""Windows that run together: more are no quicker, and take memory."""


def evaluate_coder(
    model: Model,
    coder: SparseCoder,
    texts: Texts | Sequence[Texts],
    *,
    n_tokens: int | None = None,
    length: int = 128,
    loss_tokens: int | None = LOSS_TOKENS,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> CoderEvaluation:
    """Measure how well a coder reconstructs, and what its error costs the model.

    Attention sinks (the first position of each window, and any whose residual stream is over ten times as long as
    the window's median) and special tokens, which no coder is trained on, are left out of every number but those that
    say so, and are left as they are in each run that a loss is taken from. All else is summed up in float64 over the
    whole text, not averaged over batches.

    Args:
        model: the model.
        coder: an autoencoder or a transcoder of that model.
        texts: what it is measured on; text that it was not trained on, if the numbers are to mean something.
        n_tokens: about so many, in whole windows spread over the texts; all unless said.
        length: tokens of a window.
        loss_tokens: about so many of those are used for losses; None for all.
        progress: called with the tokens of passes that are done and that there are.
        stop: looked at between batches.

    Returns:
        Numbers, with the text, the coder and the model that they are of.

    Raises:
        UsageError: the coder is for another model or another site, or the texts have no window.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope.sae import KeepAbove, SparseCoder, evaluate_coder
        >>> from bathyscope.sites import Site
        >>> from bathyscope.texts import given_texts
        >>> model, site = bathyscope.load(), Site("resid_post", 12)
        >>> eye, rule = torch.eye(model.d_model), KeepAbove(torch.tensor(0.0))
        >>> both, zeros = torch.cat([eye, -eye]), torch.zeros(2 * len(eye))
        >>> coder = SparseCoder(both, zeros, both, zeros[: len(eye)], rule, site=site, target=site)
        >>> texts = given_texts(["The river was cold and clear, and the boats lay still beside the old wall. " * 4])
        >>> found = evaluate_coder(model, coder, texts, length=32)
        >>> found.reconstruction.fvu, found.loss.loss_recovered
        (0.0, 1.0)
    """
    found = evaluate_coders(
        model,
        {"coder": coder},
        texts,
        n_tokens=n_tokens,
        length=length,
        loss_tokens=loss_tokens,
        progress=progress,
        stop=stop,
    )
    return found["coder"]


def evaluate_coders(
    model: Model,
    coders: Mapping[str, SparseCoder],
    texts: Texts | Sequence[Texts],
    *,
    n_tokens: int | None = None,
    length: int = 128,
    loss_tokens: int | None = LOSS_TOKENS,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> CoderEvaluations:
    """Measure several coders of one model on one text, as `evaluate_coder` does, with the clean runs shared.

    Args:
        model: the model.
        coders: by name.
        texts: what they are measured on.
        n_tokens: about so many, in whole windows spread over the texts; all unless said.
        length: tokens of a window.
        loss_tokens: about so many of those are used for losses; None for all.
        progress: called with the tokens of passes that are done and that there are.
        stop: looked at between batches.

    Raises:
        UsageError: there is none, or one is for another model or site.
        CancelledError: `stop` said so.
    """
    if not coders:
        raise UsageError("no coder was given", "at least one is needed")
    places = [Place.of(model, coder) for coder in coders.values()]
    tallies = [Tally(place.coder) for place in places]
    given = [texts] if isinstance(texts, Texts) else list(texts)
    asked = _Asked.of(model, given, length, n_tokens, loss_tokens)
    passes = asked.tokens(asked.measured) + asked.tokens(asked.scored) * (1 + len(ARMS) * len(coders))
    meter = _Meter(progress, stop or Stop(), passes)

    sites = [*{site for place in places for site in place.reads}]
    for block in batches(asked.windows(model, asked.measured), BATCH):
        read = capture(model, block, sites, batch_size=len(block))
        for place, tally in zip(places, tallies, strict=True):
            x, y = (torch.cat([rows.flatten(1) for rows in read[site]]) for site in (place.site, place.target))
            tally.add(x, y, place.classes(read, block).flatten())
        meter.tick(sum(map(len, block)))

    spliced = [Spliced.of(model, place, tally.mean()) for place, tally in zip(places, tallies, strict=True)]
    losses = Losses(model, spliced, meter.tick)
    for block in batches(asked.windows(model, asked.scored), BATCH):
        losses.add(block)

    spec = {**asked.spec(), "rule": "sinks and special tokens unspliced", "fingerprint": model.fingerprint}
    found = {
        name: CoderEvaluation(
            str(place.site),
            str(place.target),
            place.coder.n_latents,
            tally.result(),
            loss,
            provenance([model.provenance()], {**spec, "coder": place.coder.fingerprint}),
        )
        for name, place, tally, loss in zip(coders, places, tallies, losses.results(), strict=True)
    }
    for name, place in zip(coders, places, strict=True):
        _compare(name, place.coder, found[name].reconstruction.fvu)
        _warn_of_seen(name, place.coder, spec["texts"])
    return CoderEvaluations(found, provenance([model.provenance()], spec))


def _compare(name: str, coder: SparseCoder, fvu: float | None) -> None:
    """Warn where a coder is far worse than its training says: it may belong elsewhere, or lack a scale."""
    declared = coder.training.get("fvu")
    if isinstance(declared, float) and fvu is not None and fvu > max(TIMES * declared, declared + MORE):
        warnings.warn(
            f"{name} misses {fvu:.2f} of the variance at {coder.site}, and missed {declared:.2f} when it was trained: "
            "is it the right site, and is the text like what it was trained on?",
            BathyscopeWarning,
            stacklevel=3,
        )


def _warn_of_seen(name: str, coder: SparseCoder, texts: Sequence[Mapping[str, Any]]) -> None:
    """Warn where a coder is measured on what it was trained on: that says less of it."""
    read = coder.training.get("activations")
    learned = read.get("texts") if isinstance(read, Mapping) else None
    for one in texts:
        if any(_share_documents(one, other) for other in (learned if isinstance(learned, list) else ())):
            warnings.warn(
                f"{name} was trained on documents of {one['name']} that it is measured on here: a part that training "
                "left out says more, such as --held-out 0.1",
                BathyscopeWarning,
                stacklevel=3,
            )


def _share_documents(one: Mapping[str, Any], other: object) -> bool:
    """Whether descriptions of texts, the second out of a file, are of one text and of parts that share a document."""
    if not isinstance(other, Mapping) or one.get("sha256") is None or one["sha256"] != other.get("sha256"):
        return False
    parts = [said["split"] if isinstance(said.get("split"), Mapping) else {} for said in (one, other)]
    bounds = [(part.get("first", 0), part.get("stop", inf)) for part in parts]
    numbers = all(isinstance(bound, (int, float)) for ends in bounds for bound in ends)
    return numbers and max(first for first, _ in bounds) < min(stop for _, stop in bounds)


def batches(found: Iterator[Tokens], size: int) -> Iterator[list[Tokens]]:
    """Windows by their length, so many of one length together; the rest of each length at the end."""
    waiting: dict[int, list[Tokens]] = {}
    for window in found:
        same = waiting.setdefault(len(window), [])
        same.append(window)
        if len(same) == size:
            yield waiting.pop(len(window))
    yield from waiting.values()


def spread(sizes: Sequence[int], wanted: int | None) -> list[int]:
    """Which windows of these sizes have together about as many tokens as are wanted, evenly spread; at least one.

    Example:
        >>> from bathyscope.sae.evaluate import spread
        >>> spread([10] * 6, 30), spread([10] * 6, None)
        ([0, 2, 4], [0, 1, 2, 3, 4, 5])
    """
    if wanted is None or wanted >= sum(sizes):
        return list(range(len(sizes)))
    count = max(1, wanted * len(sizes) // sum(sizes))
    return [index * len(sizes) // count for index in range(count)]


@dataclass(frozen=True)
class _Asked:
    """The text that is measured on, and which of its windows are for what."""

    texts: Sequence[Texts]
    length: int
    sizes: Sequence[int]
    measured: Sequence[int]
    scored: Sequence[int]

    @classmethod
    def of(cls, model: Model, texts: Sequence[Texts], length: int, n_tokens: int | None, loss: int | None) -> "_Asked":
        for name, one in (("n_tokens", n_tokens), ("loss_tokens", loss)):
            if one is not None and one < 1:
                raise UsageError(f"{name}={one} was given", "at least 1, or None for all")
        sizes = [len(window) for one in texts for window in windows(model, one, length=length)]
        measured = spread(sizes, n_tokens)
        chosen = spread([sizes[index] for index in measured], loss)
        return cls(texts, length, sizes, measured, [measured[index] for index in chosen])

    def windows(self, model: Model, chosen: Sequence[int]) -> Iterator[Tokens]:
        """Some of the windows, read again: so that a long text need not be held."""
        wanted = frozenset(chosen)
        found = chain.from_iterable(windows(model, one, length=self.length) for one in self.texts)
        return (window for index, window in enumerate(found) if index in wanted)

    def tokens(self, chosen: Sequence[int]) -> int:
        return sum(self.sizes[index] for index in chosen)

    def spec(self) -> dict[str, Any]:
        return {
            "texts": [one.describe() for one in self.texts],
            "length": self.length,
            "windows": len(self.measured),
            "loss_windows": len(self.scored),
            "tokens": self.tokens(self.measured),
            "loss_tokens": self.tokens(self.scored),
        }


@dataclass(eq=False)
class _Meter:
    """How far it is, and whether somebody asked to stop."""

    progress: Progress | None
    stop: Stop
    total: int
    done: int = 0

    def tick(self, tokens: int) -> None:
        """So many tokens more have been run.

        Raises:
            CancelledError: somebody asked to.
        """
        self.done += tokens
        if self.progress is not None:
            self.progress(self.done, self.total)
        if self.stop.now or self.stop.soon:
            raise CancelledError("the evaluation was stopped", "nothing of it is kept")
