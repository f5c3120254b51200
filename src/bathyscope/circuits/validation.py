"""Validation: whether a circuit does what the model does, and the model fails without it, on pairs it was not found on.

m is the mean logit difference: of the model (M), with everything ablated (0), with the circuit alone (C), and with
all but the circuit (M without C). Faithfulness is (m(C) - m(0)) / (m(M) - m(0)), completeness the same of what is
left without the circuit (arXiv 2403.19647). A ratio of means hides much, so the distance pair by pair, the accuracy
and the cases stand beside it: a ratio above 1 means that the circuit lost what works against the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bathyscope.circuits.circuit import Circuit, Stage
from bathyscope.circuits.features import Gates
from bathyscope.errors import UsageError

DRAWS = 1000


@dataclass(frozen=True)
class Faithfulness:
    """How a circuit does.

    Args:
        size: how many features it has.
        faithfulness: 1 where it does what the model does on average, 0 where it does what nothing does.
        low, high: ends of a 95% interval, groups of pairs drawn anew.
        completeness: the same of the model without it; 0 where nothing is left.
        accuracy: share of pairs whose right answer has the larger logit.
        distance: mean absolute difference from the model's pair, as a share of the model's from nothing.
        correlation: of the pairs' values with the model's; None where they are all the same.
        by_case: mean logit difference of each case: the model's and the circuit's.
        model, circuit, nothing, rest: mean logit differences m(M), m(C), m(0), m(M without C).
        n: pairs.
    """

    size: int
    faithfulness: float
    low: float
    high: float
    completeness: float
    accuracy: float
    distance: float
    correlation: float | None
    by_case: Mapping[str, tuple[float, float]]
    model: float
    circuit: float
    nothing: float
    rest: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "by_case": {case: list(means) for case, means in self.by_case.items()}}


@dataclass(frozen=True, eq=False)
class Judge:
    """What circuits of a stage are compared with: the model's own pairs, and those with everything ablated.

    Args:
        stage: sites, references and pairs.
        whole: the model's logit differences, (pairs,).
        nothing: with everything ablated, (pairs,).
    """

    stage: Stage
    whole: Tensor
    nothing: Tensor

    @classmethod
    def of(cls, stage: Stage, *, errors_kept: bool = False) -> "Judge":
        """Measure both ends.

        Args:
            stage: sites, references and pairs.
            errors_kept: whether errors are let through where everything else is ablated.
        """
        everything, nothing = (_all(stage, kept) for kept in (1.0, 0.0))
        if errors_kept:
            nothing = {site: Gates(gates.features, torch.ones_like(gates.error)) for site, gates in nothing.items()}
        return cls(stage, stage.differences(everything), stage.differences(nothing))

    def judge(self, circuit: Circuit, *, seed: int = 0) -> Faithfulness:
        """How a circuit does.

        Raises:
            UsageError: the ablation of everything changes nothing, so that there is nothing to compare with.
        """
        gates = self.stage.gates(circuit)
        found = self.stage.differences(gates)
        others = {site: one.complement() for site, one in gates.items()}
        if circuit.errors == "kept":
            others = {site: Gates(one.features, torch.ones_like(one.error)) for site, one in others.items()}
        return self.judged(len(circuit), found, self.stage.differences(others), seed=seed)

    def faithfulness(self, circuit: Circuit) -> float:
        """Its faithfulness alone, in one pass instead of two."""
        found = self.stage.differences(self.stage.gates(circuit))
        return float((found - self.nothing).mean() / (self.whole - self.nothing).mean())

    def judged(self, size: int, found: Tensor, rest: Tensor, *, seed: int = 0) -> Faithfulness:
        """How logit differences of a circuit, and of what is left without it, (pairs,) each, compare."""
        whole, nothing = self.whole, self.nothing
        span = float((whole - nothing).mean())
        if abs(span) < 1e-6 * float(whole.abs().mean()):
            raise UsageError(
                "the ablation of everything leaves the mean logit difference as it is",
                "faithfulness is a share of their difference",
                "other sites, or another ablation",
            )
        low, high = _interval(self.stage.examples.groups, whole, nothing, found, seed)
        cases = self.stage.examples.cases
        by_case = {
            case: (float(whole[rows].mean()), float(found[rows].mean()))
            for case in dict.fromkeys(cases)
            for rows in [[row for row, one in enumerate(cases) if one == case]]
        }
        varies = len(found) > 1 and bool(found.std() > 0) and bool(whole.std() > 0)
        return Faithfulness(
            size=size,
            faithfulness=float((found - nothing).mean()) / span,
            low=low,
            high=high,
            completeness=float((rest - nothing).mean()) / span,
            accuracy=float((found > 0).double().mean()),
            distance=float((found - whole).abs().mean() / (whole - nothing).abs().mean()),
            correlation=float(torch.corrcoef(torch.stack([found, whole]))[0, 1]) if varies else None,
            by_case=by_case,
            model=float(whole.mean()),
            circuit=float(found.mean()),
            nothing=float(nothing.mean()),
            rest=float(rest.mean()),
            n=len(found),
        )


def _all(stage: Stage, kept: float) -> dict[Any, Gates]:
    length = stage.examples.length
    return {
        site: basis.gates(length, torch.full((length, basis.n_features), kept), torch.full((length,), kept))
        for site, basis in stage.bases.items()
    }


def _interval(groups: Sequence[str], whole: Tensor, nothing: Tensor, found: Tensor, seed: int) -> tuple[float, float]:
    """A 95% interval of faithfulness, whole groups of pairs drawn anew."""
    names = list(dict.fromkeys(groups))
    of_group = np.array([names.index(group) for group in groups])
    sums = np.zeros((len(names), 2))
    np.add.at(sums, of_group, torch.stack([found - nothing, whole - nothing], 1).numpy())
    drawn = np.random.default_rng(seed).integers(len(names), size=(DRAWS, len(names)))
    parts = sums[drawn].sum(1)
    low, high = np.quantile(parts[:, 0] / parts[:, 1], [0.025, 0.975])
    return float(low), float(high)
