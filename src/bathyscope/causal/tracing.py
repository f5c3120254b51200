"""Causal tracing: a run whose subject is noised, and what restores its answer (arXiv 2202.05262)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, Final, Unpack

import torch

from bathyscope import prompts
from bathyscope.causal.measuring import RunOptions, concluded, measure, patched
from bathyscope.causal.places import named, said, sites_of, window_notes, window_of
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell
from bathyscope.errors import UsageError
from bathyscope.facts import entities
from bathyscope.forward import capture
from bathyscope.interventions import Noise, Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_request import Layers
from bathyscope.prompts import Position
from bathyscope.readouts import LogProbability, Metric
from bathyscope.sites import Site

SAMPLES: Final = 10
WINDOW: Final = 10
SEED: Final = 1
"""The published runs draw ten samples of noise with seed 1, and restore windows of ten attention or MLP layers."""

COMPONENTS: Final = ("resid_post", "mlp_out", "attn_out")
STREAM: Final = ("embed", "resid_pre", "resid_mid", "resid_post")
"""What needs no window: one layer of it is all that goes on from there."""


@dataclass(frozen=True)
class NoiseRule:
    """How strong the noise on the subject's embeddings is.

    Of the published rules, "s3" and an absolute strength, Gaussian or uniform; those that draw from a distribution
    fitted to Wikipedia's embeddings are not here.

    Args:
        factor: times the standard deviation of embeddings of subjects: 3 is the published rule, and what is meant
            where neither is given.
        std: the strength itself, in the embedding's own unit, instead.
        uniform: uniform noise between -strength and strength instead of Gaussian noise.
        subjects: texts whose embeddings the deviation is taken of; the project's own names of entities unless said.

    Example:
        >>> from bathyscope.causal import NoiseRule
        >>> NoiseRule.parse("s3"), NoiseRule.parse("u0.1")
        (NoiseRule(factor=3.0, std=None, uniform=False), NoiseRule(factor=None, std=0.1, uniform=True))
    """

    factor: float | None = None
    std: float | None = None
    uniform: bool = False
    subjects: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.factor is not None and self.std is not None:
            raise UsageError(f"noise of factor {self.factor} and of std {self.std} was given", "one of the two")
        if self.factor is None and self.std is None:
            object.__setattr__(self, "factor", 3.0)

    @classmethod
    def parse(cls, text: str) -> "NoiseRule":
        """Read "s3" (times the deviation of subjects), "0.1" (absolute), or either with a "u" before it (uniform).

        Raises:
            UsageError: it is none of these.
        """
        rest = text.removeprefix("u")
        try:
            number = float(rest.removeprefix("s"))
        except ValueError:
            number = -1.0
        if number < 0 or number != number or number == float("inf"):
            raise UsageError(f"the noise {text!r} was given", "noise is written s3, 0.1, us3 or u0.1", "s3")
        relative = rest.startswith("s")
        return cls(number if relative else None, None if relative else number, text.startswith("u"))

    def strength(self, model: Model) -> float:
        """The strength for a model, in its embedding's unit."""
        if self.std is not None:
            return self.std
        names = self.subjects or tuple(entity.name for entity in entities())
        # Without the special tokens that a prompt begins with, which are no part of a subject.
        ids = [model.tokenizer(name, add_special_tokens=False)["input_ids"] for name in names]
        rows = capture(model, ids, ["embed"])["embed"]
        return (self.factor or 0.0) * float(torch.cat(rows).float().std())


@dataclass(frozen=True)
class _Asked:
    """One call, resolved."""

    model: Model
    tokens: Tokens
    subject: tuple[int, ...]
    metric: Metric
    strength: float
    uniform: bool
    samples: int
    seed: int

    @cached_property
    def noised(self) -> list[tuple[Write, ...]]:
        """The noise of each sample: the same for every cell."""
        seeds = range(self.seed, self.seed + self.samples)
        draws = (Noise(self.strength, seed, "uniform" if self.uniform else "gaussian") for seed in seeds)
        return [(Write(Site("embed"), noise, self.subject),) for noise in draws]

    def restored(self, sites: Sequence[Site], position: int) -> list[Cell]:
        """For each sample the noised run in which the clean run's activations are put back at some sites."""
        whole = patched(self.metric, self.tokens, self.tokens, sites, [position])
        return [
            Cell(self.tokens, self.metric, whole.source, whole.site, whole.positions, more=whole.more, common=noise)
            for noise in self.noised
        ]


def causal_tracing(  # noqa: PLR0913 (what is noised, restored, and how)
    model: Model,
    prompt: Prompt,
    subject: str | Sequence[int],
    metric: Metric,
    *,
    component: str | Sequence[str] = COMPONENTS,
    layers: Layers = "all",
    position: Position = "all",
    window: int = WINDOW,
    noise: NoiseRule | str = "s3",
    samples: int = SAMPLES,
    seed: int = SEED,
    **options: Unpack[RunOptions],
) -> CausalResult:
    """Corrupt a subject's embeddings with noise, and put the clean run's activations back, place by place.

    Where that brings the answer back, the model has by then gathered what it says of the subject.

    Args:
        model: the model.
        prompt: what it reads.
        subject: text of the prompt whose tokens are noised, or their indices.
        metric: what is measured of the next token; the published one is `Probability(answer)`.
        component: what is put back, of `sites.COMPONENTS`; one or several.
        layers: after or in which blocks; -1 is the embedding, where the residual stream has it.
        position: at which tokens, each in a run of its own.
        window: how many layers are put back together; of the residual stream always one.
        noise: a `NoiseRule`, or as it is written: "s3" is three times the standard deviation of subjects' embeddings.
        samples: how many draws of noise are averaged; every cell meets the same ones.
        seed: of the first draw; the next ones count on (the published code draws all from one generator).
        options: see `RunOptions`.

    Returns:
        For each place the indirect effect: the mean metric with it put back less the mean metric of the noised runs.
        `values` holds "clean", "noised", and their difference "total_effect".

    Raises:
        PositionError: the subject is not in the prompt; it shows the tokens.
        UsageError: a place or a rule that does not exist.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal import causal_tracing
        >>> from bathyscope.readouts import Probability
        >>> found = causal_tracing(
        ...     bathyscope.load(), "The capital of France is", "France", Probability(" Paris"), samples=2,
        ...     component="resid_post", layers="29", position="last",
        ... )
        >>> abs(found.cells[0].effect - found.values["total_effect"]) < 1e-5
        True
    """
    if samples < 1:
        raise UsageError(f"{samples} samples of noise were asked for", "at least 1")
    metric.check(model, model)
    tokens = model.tokenize(prompt)
    rule = NoiseRule.parse(noise) if isinstance(noise, str) else noise
    positions = prompts.resolve(tokens, position)
    span = isinstance(subject, str)
    noised = prompts.span_tokens(tokens, subject, called="subject") if span else prompts.resolve(tokens, subject)
    asked = _Asked(model, tokens, noised, metric, rule.strength(model), rule.uniform, samples, seed)
    places = [(site, index) for site in sites_of(model, component, layers, heads=False) for index in positions]
    windows = [window_of(site, 1 if site.component in STREAM else window, model.n_layers) for site, _ in places]
    cells = [
        cell for several, (_, index) in zip(windows, places, strict=True) for cell in asked.restored(several, index)
    ]
    ends = [Cell(tokens, metric, common=noise) for noise in asked.noised] + [Cell(tokens, metric)]
    spec: dict[str, Any] = {
        "method": "causal-tracing",
        "subject": list(noised),
        "sites": list(dict.fromkeys(str(site) for site, _ in places)),
        **said(component, layers),
        "positions": list(positions),
        "window": window,
        "noise": {"strength": asked.strength, "uniform": rule.uniform},
        "samples": samples,
        "seed": seed,
    }
    measured = measure(model, [*cells, *ends], metric, spec, {"prompt": tokens}, **options)
    clean, corrupted = measured.values[-1], fmean(measured.values[len(cells) : -1])
    means = [fmean(measured.values[first : first + samples]) for first in range(0, len(cells), samples)]
    found = [
        CausalCell(**named(site, [index], tokens), value=value, effect=value - corrupted)
        for (site, index), value in zip(places, means, strict=True)
    ]
    return concluded(
        model,
        measured,
        spec,
        effect=f"mean {metric.in_words()} with the place put back, less that of the noised runs",
        metric=metric,
        prompts={"prompt": tokens},
        cells=found,
        values={"clean": clean, "noised": corrupted, "total_effect": clean - corrupted},
        notes=_notes(asked, max(map(len, windows)) if window > 1 else 1, clean, corrupted),
    )


def _notes(asked: _Asked, window: int, clean: float, corrupted: float) -> list[str]:
    kind = "uniform noise up to" if asked.uniform else "Gaussian noise of deviation"
    names = ", ".join(repr(asked.tokens.texts[index]) for index in asked.subject)
    found = [f"{kind} {asked.strength:.4g} on {names}; {asked.samples} samples, seed {asked.seed}"]
    found += [f"{note}, but for the residual stream" for note in window_notes(window)]
    if asked.strength and not isinstance(asked.metric, LogProbability) and abs(clean - corrupted) < 0.01 * abs(clean):
        found.append("the noise hardly changes the metric: effects are small numbers less small numbers")
    return found
