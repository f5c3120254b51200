"""Steering texts: a direction is added to the residual stream at every token, and the model writes on."""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope.engine import Cell, Read, Stop, collect, plan
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.interventions import Add, Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.readouts import KL, Generate, NextToken, Reading, Several
from bathyscope.results import provenance
from bathyscope.sites import Site
from bathyscope.steering.directions import Direction
from bathyscope.steering.result import SteeredText, SteeringResult, Which


def steer(
    model: Model,
    prompt: Prompt,
    direction: Direction,
    *,
    factors: Sequence[float] = (-1.0, 1.0),
    new_tokens: int = 20,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> SteeringResult:
    """Let a model write while a direction is added at every token that it reads and writes (arXiv 2308.10248).

    Beside each factor stands a control: a random direction of the same length, times the same factor; and beside all,
    the text without a write, which is factor 0.

    Args:
        model: the model that the direction was found in.
        prompt: what it reads.
        direction: what is added, such as `difference_of_means` finds.
        factors: what the direction is multiplied by; a negative one goes the other way.
        new_tokens: at most so many are written.
        seed: of the random direction.
        progress: called with what is done and what there is to do.
        stop: looked at at every decoding step.

    Raises:
        UsageError: another model's direction, or a factor that is no number.
        InterventionError: a factor so large that the model computes no finite numbers.

    Example:
        >>> import bathyscope
        >>> from bathyscope.steering import difference_of_means, steer
        >>> model = bathyscope.load()
        >>> towards = difference_of_means(model, ["I love it"], ["I hate it"], 15)
        >>> found = steer(model, "This film is", towards, factors=(0, 2), new_tokens=4)
        >>> [(one.direction, one.factor) for one in found.texts], found.at(0).kl == 0
        ([('none', 0.0), ('direction', 2.0), ('random', 2.0)], True)
    """
    began = time.perf_counter()
    direction.check(model)
    if not all(math.isfinite(factor) for factor in factors):
        raise UsageError(f"factors {', '.join(map(str, factors))} were given", "finite numbers are needed")
    tokens = model.tokenize(prompt)
    model.check_length(len(tokens) + max(0, new_tokens - 1))
    vectors: dict[Which, Tensor] = {"direction": direction.vector, "random": _random(direction.vector, seed)}
    asked: list[tuple[Which, float]] = [("none", 0.0)]
    asked.extend((which, float(factor)) for factor in dict.fromkeys(factors) if factor for which in vectors)
    site = Site.parse(direction.site)
    writes = [() if which == "none" else _write(site, vectors[which], factor) for which, factor in asked]
    planned = plan(
        [*(_text(tokens, one, new_tokens) for one in writes), *(_next(model, tokens, one) for one in writes)],
        model,
        model,
    )
    readings = collect(planned, model, model, progress=progress, stop=stop).readings
    spec = {
        "method": "steering",
        "prompt": tokens.text,
        "ids": list(tokens.ids),
        "site": direction.site,
        "factors": [float(factor) for factor in factors],
        "new_tokens": new_tokens,
        "seed": seed,
        "direction": dict(direction.provenance["spec"]),
    }
    return SteeringResult(
        prompt=tokens.text,
        site=direction.site,
        norm=direction.norm,
        texts=tuple(map(_steered, asked, readings[: len(asked)], readings[len(asked) :])),
        provenance=provenance([model.provenance()], spec),
        plan=planned.to_dict(),
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


def _random(vector: Tensor, seed: int) -> Tensor:
    """A direction that nothing chose, of the same length; drawn on the CPU, so that every device has the same."""
    drawn = torch.randn(vector.shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * (vector.cpu().norm() / drawn.norm())).to(vector)


def _write(site: Site, vector: Tensor, factor: float) -> tuple[Write, ...]:
    return (Write(site, Add(vector, factor), when="always"),)


def _text(tokens: Tokens, writes: tuple[Write, ...], new_tokens: int) -> Cell:
    return Cell(tokens, Generate(new_tokens), also=writes)


def _next(model: Model, tokens: Tokens, writes: tuple[Write, ...]) -> Cell:
    unsteered = Read(tokens, Site("resid_post", model.n_layers - 1), len(tokens) - 1)
    return Cell(tokens, Several((NextToken(1), KL())), also=writes, against=unsteered)


def _steered(asked: tuple[Which, float], text: Reading, following: Reading) -> SteeredText:
    which, factor = asked
    (likeliest,) = following.candidates
    # Rounding may put a divergence a little below 0.
    kl = max(0.0, following.values["kl"]) if which != "none" else 0.0
    return SteeredText(which, factor, text.text, kl, likeliest.token, likeliest.probability)
