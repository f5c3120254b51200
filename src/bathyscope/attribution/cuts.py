"""Whether integrated gradients add up: their sum at a full cut against the measured difference, pair by pair."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, ClassVar, Self

import torch

from bathyscope import pages
from bathyscope.attribution.integrated import STEPS, Path, check_steps, mean_gradients
from bathyscope.causal.pairs import Pair
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.generation import Progress, next_logits
from bathyscope.model import Model
from bathyscope.results import Result, provenance
from bathyscope.sites import parse_layers, residual_site

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ROWS = 32


@dataclass(frozen=True)
class PairSum:
    """One pair at one layer.

    Args:
        layer: all positions of the residual stream after this block are the cut; -1 is the embedding.
        clean: the one prompt.
        corrupted: the other.
        total: the metric of the clean run less that of the corrupted one, measured.
        sum: of the attributions of all positions.
    """

    layer: int
    clean: str
    corrupted: str
    total: float
    sum: float


@dataclass(frozen=True, eq=False)
class CompletenessResult(Result):
    """What the attributions of many pairs add up to.

    Args:
        steps: points that the gradient was taken at.
        pairs: one a pair and layer.
        provenance: model, specification, versions.
        timing: seconds without loading the model.
    """

    kind: ClassVar[str] = "completeness"

    steps: int
    pairs: tuple[PairSum, ...]
    provenance: Mapping[str, Any]
    timing: Mapping[str, float]

    def rows(self) -> list[dict[str, Any]]:
        """One record a pair and layer."""
        return [asdict(one) for one in self.pairs]

    def summary(self) -> list[dict[str, float]]:
        """For each layer the means, how far they are apart, and quantiles of the pairs' own differences.

        "gap" is the mean sum less the mean total, as a share of the mean total; "gap_q50" and the like are quantiles
        over pairs of each pair's sum less its total, as a share of the mean total.
        """
        found = []
        for layer in dict.fromkeys(one.layer for one in self.pairs):
            pairs = [one for one in self.pairs if one.layer == layer]
            total, added = fmean(one.total for one in pairs), fmean(one.sum for one in pairs)
            gaps = torch.tensor([(one.sum - one.total) / total for one in pairs], dtype=torch.float64)
            quantiles = torch.quantile(gaps, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
            shares = {f"gap_q{round(100 * share)}": gap for share, gap in zip(QUANTILES, quantiles, strict=True)}
            means = {"mean_total": total, "mean_sum": added, "gap": added / total - 1}
            found.append({"layer": layer, "n": len(pairs), **means, **shares})
        return found

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "kind": self.kind,
            "steps": self.steps,
            "rows": self.rows(),
            "summary": self.summary(),
            "provenance": dict(self.provenance),
            "timing": dict(self.timing),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Mapping[str, Any]) -> Self:
        """The result that was saved."""
        del tensors
        pairs = tuple(PairSum(**row) for row in data["rows"])
        return cls(data["steps"], pairs, data["provenance"], data["timing"])

    def page(self) -> str:
        """A table of layers: means, their gap, and how the pairs' own gaps spread."""
        summary = self.summary()
        return pages.grid(
            heading="Do integrated gradients add up?",
            facts={
                "model": self.provenance["models"][0]["model"],
                "steps": str(self.steps),
                "gap": "mean sum less mean total, and quantiles over pairs, as shares of the mean total",
            },
            corner="layer",
            columns=[name for name in summary[0] if name != "layer"],
            rows={
                f"{one['layer']:g}": [_shown(name, value) for name, value in one.items() if name != "layer"]
                for one in summary
            },
        )


def completeness(
    model: Model,
    pairs: Sequence[Pair],
    *,
    layers: str | int | Sequence[int] = "all",
    steps: int = STEPS,
    progress: Progress | None = None,
) -> CompletenessResult:
    """Compare the sum of integrated gradients at a full cut with the difference that it stands for, over many pairs.

    The cut is the residual stream after a block, at all positions: all that reaches the logits passes it, so that the
    sum is the difference as steps grow. Steps of all pairs share passes, whatever the lengths of their prompts.

    Args:
        model: the model.
        pairs: clean and corrupted prompts with their metrics, such as `load_pairs` gives.
        layers: after which blocks; -1 is the embedding.
        steps: how many points the gradient is taken at, at the middle of each step.
        progress: called with the layers that are done and those there are.

    Example:
        >>> import bathyscope
        >>> from bathyscope.attribution import completeness, pair
        >>> from bathyscope.readouts import LogitDiff
        >>> model = bathyscope.load()
        >>> pairs = [pair(model, "The boat", "The boats", LogitDiff(" it", " they"))]
        >>> abs(completeness(model, pairs, layers=20).summary()[0]["gap"]) < 0.1
        True
    """
    began = time.perf_counter()
    check_steps(steps)
    if not pairs:
        raise UsageError("no pair was given", "at least one is needed")
    chosen = parse_layers(layers, model.n_layers) if isinstance(layers, (str, int)) else tuple(layers)
    totals = _totals(model, pairs)
    found: list[PairSum] = []
    for done, layer in enumerate(chosen):
        found += _at_layer(model, pairs, totals, layer, steps)
        if progress is not None:
            progress(done + 1, len(chosen))
    spec = {"steps": steps, "layers": list(chosen), "pairs": len(pairs), "metric": pairs[0].metric.spec()["readout"]}
    return CompletenessResult(
        steps,
        tuple(found),
        provenance([model.provenance()], spec),
        {"seconds": round(time.perf_counter() - began, 4)},
    )


def _totals(model: Model, pairs: Sequence[Pair]) -> list[float]:
    logits = next_logits(model, [tokens for one in pairs for tokens in (one.clean, one.corrupted)], batch_size=ROWS)
    found = []
    for index, one in enumerate(pairs):
        clean, corrupted = one.metric.measure(model, logits[2 * index : 2 * index + 2]).double().tolist()
        found.append(clean - corrupted)
    return found


def _at_layer(model: Model, pairs: Sequence[Pair], totals: Sequence[float], layer: int, steps: int) -> list[PairSum]:
    site = model.site(residual_site(layer))
    clean = capture(model, [one.clean for one in pairs], [site])[site]
    corrupted = capture(model, [one.corrupted for one in pairs], [site])[site]
    paths = [
        Path(one.corrupted, start, end, one.metric) for one, start, end in zip(pairs, corrupted, clean, strict=True)
    ]
    sums = [
        float(((path.end.double() - path.start.double()) * gradient).sum())
        for path, gradient in zip(paths, mean_gradients(model, paths, site, steps), strict=True)
    ]
    return [
        PairSum(layer, one.clean.text, one.corrupted.text, total, added)
        for one, total, added in zip(pairs, totals, sums, strict=True)
    ]


def _shown(name: str, value: float) -> str:
    return f"{value:g}" if name == "n" else f"{value:+.2%}" if name.startswith("gap") else f"{value:.3f}"
