"""Series: circuits of growing size by one rule, each checked on held-out nouns, beside what they are compared with.

The comparisons are those of the same size and ablation: coordinates of the same sites, MLP neurons of all blocks,
latents that were drawn from those that change, and one direction a site, the difference of means.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch

from bathyscope.circuits import (
    Attributions,
    Basis,
    Circuit,
    Directions,
    Examples,
    Feature,
    FindChoices,
    Judge,
    MaskSettings,
    Stage,
    Units,
    feature_attributions,
    learned_circuit,
    mean_parts,
    ranked_circuit,
)
from bathyscope.circuits.circuit import Errors
from bathyscope.circuits.features import Parts
from bathyscope.circuits.finding import RANKED
from bathyscope.circuits.kept import Kept
from bathyscope.engine import Stop
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.sites import Site
from bathyscope.starts import read_starts
from bathyscope.studies.agreement_study.items import Items

TIMES_RANDOM: Final = 5


@dataclass(frozen=True, eq=False)
class Ground:
    """One basis at some sites: attributions on the train pairs, and the two stages that its circuits run on.

    Args:
        name: of the basis.
        attributions: on the train pairs.
        train: stage of the train pairs.
        judge: of the held-out pairs; what is ablated becomes the train pairs' mean.
        judge_train: of the train pairs.
    """

    name: str
    attributions: Attributions
    train: Stage
    judge: Judge
    judge_train: Judge

    @classmethod
    def of(
        cls,
        name: str,
        items: Items,
        bases: Mapping[Site | str, Basis],
        find: FindChoices,
        *,
        known: Attributions | None = None,
        kept: Kept | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
    ) -> "Ground":
        """Attributions on the train pairs, or those of known gradients of the same sites; both stages made ready."""
        means: dict[Site, Parts] = mean_parts(items.train, bases)
        prepare = partial(Stage.of, bases=bases, ablation=find.ablation, means=means)
        train, held_out = (prepare(examples=one) for one in (items.train, items.held_out))
        if known is not None and known.baseline != "zero":
            attributions = known.in_bases(bases)
        else:
            attributions = feature_attributions(
                items.train,
                bases,
                method=find.method,
                baseline=find.baseline,
                steps=find.steps,
                kept=kept,
                progress=progress,
                stop=stop,
            )
        return cls(name, attributions, train, Judge.of(held_out), Judge.of(train))

    def ranked(
        self, sizes: Sequence[int], errors: Errors, attributions: Attributions | None = None
    ) -> Iterator[dict[str, Any]]:
        """Circuits of the largest attributions, or of those of another method."""
        rule = RANKED if attributions is None else f"{RANKED}, {attributions.method}"
        for n in sizes:
            circuit = ranked_circuit(attributions or self.attributions, n, self.train.bases, errors=errors)
            if len(circuit) == n:
                yield self.record(circuit, rule)

    def drawn(self, sizes: Sequence[int], seed: int) -> Iterator[dict[str, Any]]:
        """Circuits of latents drawn from those that change between the runs of any pair, several of each size."""
        active = [
            Feature(str(site), position, index)
            for site in self.attributions.sites
            for position, index in self.attributions.changing(site)[:, :-1].nonzero().tolist()
        ]
        for n in sizes:
            if n > len(active):
                return
            for draw in range(TIMES_RANDOM):
                generator = torch.Generator().manual_seed(seed * 1000 + draw)
                chosen = [active[row] for row in torch.randperm(len(active), generator=generator)[:n].tolist()]
                yield self.record(Circuit(self.train.bases, chosen, "ablated"), f"random, draw {draw + 1}")

    def learned(
        self, penalty: float, errors: Errors, settings: MaskSettings, kept: Kept | None, stop: Stop | None
    ) -> tuple[Circuit, dict[str, Any]]:
        """The circuit of a learned mask, with its record."""
        circuit = learned_circuit(self.train, self.attributions, penalty, settings, errors=errors, kept=kept, stop=stop)
        return circuit, self.record(circuit, f"learned mask, penalty {penalty:g}")

    def everything(self) -> dict[str, Any]:
        """All features with errors ablated: no circuit of them can be better but by chance."""
        length = self.train.examples.length
        every = {
            site: basis.gates(length, torch.ones(length, basis.n_features), torch.zeros(length))
            for site, basis in self.train.bases.items()
        }
        stage = self.judge.stage
        rest = {site: gates.complement() for site, gates in every.items()}
        size = sum(length * basis.n_features for basis in self.train.bases.values())
        found = self.judge.judged(size, stage.differences(every), stage.differences(rest))
        return {"basis": self.name, "rule": "all of them", "errors": "ablated", **found.to_dict()}

    def record(self, circuit: Circuit, rule: str) -> dict[str, Any]:
        """How a circuit does on held-out nouns."""
        return {"basis": self.name, "rule": rule, "errors": circuit.errors, **self.judge.judge(circuit).to_dict()}

    def train_faithfulness(self, circuit: Circuit) -> float:
        """On the nouns that it was found on."""
        return self.judge_train.faithfulness(circuit)


def coordinates(model: Model, sites: Sequence[Site]) -> dict[Site | str, Basis]:
    """The coordinates of the residual stream at the same sites."""
    return {site: Units(model.d_model) for site in sites}


def neurons(model: Model, examples: Examples) -> dict[Site | str, Basis]:
    """The MLP neurons of every block."""
    sites = [Site("mlp_post", layer) for layer in range(model.n_layers)]
    _, read = read_starts(model, examples.clean[:1], [-1], sites)
    return {site: Units(read[site].shape[-1]) for site in sites}


def mean_directions(attributions: Attributions) -> tuple[dict[Site | str, Basis], list[Feature]]:
    """At each site one direction, the mean difference between the numbers, where it matters most.

    Returns:
        The direction of each site, and the feature of each: at the position of the largest attribution.
    """
    signs = torch.tensor([1.0 if one == "singular" else -1.0 for one in attributions.examples.kinds])
    bases: dict[Site | str, Basis] = {}
    chosen = []
    for site, ends in attributions.ends.items():
        position = int(attributions.mean(site).sum(1).abs().argmax())
        shift = (ends.clean - ends.corrupted)[:, position]
        bases[site] = Directions((shift * signs[:, None].to(shift)).mean(0)[None])
        chosen.append(Feature(str(site), position, 0))
    return bases, chosen
