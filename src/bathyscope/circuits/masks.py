"""Masks: which features to keep, learned together, since a ranking ignores that sites build on one another.

Each candidate has a gate, and gates are let through as the circuit's are: as a sigmoid at first, rounded to 0 or 1 in
the second half while gradients go on as if they were not (straight-through). The loss is the squared distance from
the model's logit differences, as a share of their square, plus a penalty on the share of gates that are open. A mask
is a solution and no ranking: cut short, it falls apart; so several penalties are tried, and every solution is
reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from bathyscope.circuits.attributions import Attributions
from bathyscope.circuits.circuit import Circuit, Errors, Stage
from bathyscope.circuits.features import Feature, Gates
from bathyscope.circuits.kept import Kept
from bathyscope.circuits.runs import differences
from bathyscope.engine import Stop
from bathyscope.engine.events import CancelledError
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.sites import Site

OPEN: Final = 2.0
"""What a gate starts at, before the sigmoid: nearly open, since a shut circuit has no gradient."""
STRETCH: Final = 10
"""Steps that are kept together."""


@dataclass(frozen=True)
class MaskSettings:
    """How masks are learned.

    Args:
        candidates: how many features of the largest attributions have a gate.
        steps: of Adam.
        pairs: of each step, drawn anew.
        learning_rate: of Adam.
        seed: of what is drawn.
    """

    candidates: int = 1000
    steps: int = 60
    pairs: int = 40
    learning_rate: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.candidates, self.steps, self.pairs) < 1 or not self.learning_rate > 0:
            raise UsageError(f"{self} was given", "at least one candidate, step and pair, and a rate above 0")


def learned_circuit(
    stage: Stage,
    attributions: Attributions,
    penalty: float,
    settings: MaskSettings | None = None,
    *,
    errors: Errors = "nodes",
    kept: Kept | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Circuit:
    """Learn which features to keep.

    Args:
        stage: pairs to learn on, sites and references.
        attributions: of the same sites; the candidates are their largest.
        penalty: on the share of candidates that are kept; more of it keeps fewer.
        settings: the numbers of the learning.
        errors: see `Circuit`.
        kept: where every ten steps are kept, for going on after a stop; its spec names all that they depend on but
            the penalty.
        progress: called with steps done and all of them.
        stop: looked at between steps.

    Raises:
        CancelledError: `stop` said so.
    """
    settings, kept = settings or MaskSettings(), kept or Kept(None, {})
    chosen = [one for one, _ in attributions.top(settings.candidates, list(stage.bases), errors=errors == "nodes")]
    learning = _Learning.of(_Candidates(stage, chosen, errors), penalty, settings)
    level = torch.full((len(chosen),), OPEN)
    state = torch.stack([level, torch.zeros_like(level), torch.zeros_like(level)])
    for first in range(0, settings.steps, STRETCH):
        part = range(first, min(first + STRETCH, settings.steps))
        state = kept.tensor(
            f"mask, penalty {penalty:g}, {part.stop} steps", partial(learning.go, state, part, progress, stop)
        )
    open_ones = (state[0] > 0).tolist()
    return Circuit(stage.bases, [one for one, is_open in zip(chosen, open_ones, strict=True) if is_open], errors)


@dataclass(frozen=True, eq=False)
class _Learning:
    """What does not change while a mask is learned.

    Args:
        candidates: the features that have a gate.
        penalty: on the share of them that are kept.
        settings: the numbers of the learning.
        whole: each pair's logit difference with every gate open, (pairs,).
    """

    candidates: "_Candidates"
    penalty: float
    settings: MaskSettings
    whole: Tensor

    @classmethod
    def of(cls, candidates: "_Candidates", penalty: float, settings: MaskSettings) -> "_Learning":
        gates = candidates.gates(torch.ones(len(candidates.features)))
        whole = candidates.stage.differences({site: _open(one) for site, one in gates.items()})
        return cls(candidates, penalty, settings, whole)

    def go(self, state: Tensor, steps: range, progress: Progress | None, stop: Stop | None) -> Tensor:
        """Some steps of Adam: from its levels and both of its means to what they are then, (3, candidates)."""
        levels = state[0].clone().requires_grad_()
        adam = torch.optim.Adam([levels], lr=self.settings.learning_rate)
        if steps.start:
            means = {"exp_avg": state[1].clone(), "exp_avg_sq": state[2].clone()}
            adam.state[levels] = {"step": torch.tensor(float(steps.start)), **means}
        for step, rows in zip(steps, self._draws(steps), strict=True):
            if stop is not None and (stop.now or stop.soon):
                raise CancelledError(
                    "the learning of a mask was stopped", "of where parts are kept, all but its last steps are"
                )
            with torch.enable_grad():
                soft = levels.sigmoid()
                if step >= self.settings.steps // 2:
                    soft = (soft > 0.5).to(soft) + soft - soft.detach()
                loss = self._missed(soft, rows) + self.penalty * soft.mean()
                adam.zero_grad()
                loss.backward()
            adam.step()
            if progress is not None:
                progress(step + 1, self.settings.steps)
        kept = adam.state[levels]
        return torch.stack([levels.detach(), kept["exp_avg"], kept["exp_avg_sq"]])

    def _draws(self, steps: range) -> list[list[int]]:
        """The pairs of some steps: what a seed draws is one sequence, wherever in it one begins."""
        generator, n = torch.Generator().manual_seed(self.settings.seed), len(self.candidates.stage.examples)
        draws = [torch.randperm(n, generator=generator)[: self.settings.pairs].tolist() for _ in range(steps.stop)]
        return draws[steps.start :]

    def _missed(self, soft: Tensor, rows: list[int]) -> Tensor:
        """The squared distance of some pairs from the model's, as a share of the mean square of all."""
        part = self.candidates.stage.rows(rows)
        examples, writes = part.examples, part.writes(self.candidates.gates(soft))
        made = differences(examples.model, examples.clean, examples.answers, part.start, writes)
        return (made - self.whole[rows].to(made)).square().mean() / float(self.whole.square().mean())


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Where each candidate's gate is."""

    stage: Stage
    features: Sequence[Feature]
    errors: Errors

    def gates(self, values: Tensor) -> dict[Site, Gates]:
        """Gates of every site, 0 but for the candidates, with the graph of their values, (candidates,)."""
        length, found = self.stage.examples.length, {}
        for site, basis in self.stage.bases.items():
            own = [number for number, one in enumerate(self.features) if one.site == str(site)]
            kept = torch.zeros(length, basis.n_features + 1)
            if own:
                positions = torch.tensor([self.features[number].position for number in own])
                indices = torch.tensor(
                    [basis.n_features if (index := self.features[n].index) is None else index for n in own]
                )
                kept = kept.index_put((positions, indices), values[own])
            error = torch.ones(length) if self.errors == "kept" else kept[:, -1]
            found[site] = basis.gates(length, kept[:, :-1], error)
        return found


def _open(gates: Gates) -> Gates:
    return Gates(torch.ones_like(gates.features), torch.ones_like(gates.error))


def ranked_circuit(
    attributions: Attributions, n: int, sites: Mapping[Site, object] | None = None, *, errors: Errors = "nodes"
) -> Circuit:
    """The n features of the largest mean attributions, of either sign."""
    chosen = list(attributions.sites if sites is None else sites)
    return Circuit(chosen, [one for one, _ in attributions.top(n, chosen, errors=errors == "nodes")], errors)
