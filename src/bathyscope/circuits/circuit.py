"""A circuit: features of some sites, and the model of which only these are let through."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from bathyscope.circuits.ends import mean_of
from bathyscope.circuits.examples import Examples
from bathyscope.circuits.features import Basis, Feature, Gates, Parts, flat
from bathyscope.circuits.runs import measured
from bathyscope.circuits.writes import LetThrough
from bathyscope.errors import UsageError
from bathyscope.interventions import Write
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.starts import Start, read_starts, start_layer

Errors = Literal["nodes", "ablated", "kept"]
Ablation = Literal["mean", "resample", "zero"]


@dataclass(frozen=True)
class Circuit:
    """Features at sites.

    Args:
        sites: where everything else is ablated; what lies between sites runs as it is.
        features: what is let through.
        errors: whether errors are let through where they are among the features ("nodes"), never ("ablated") or
            always ("kept").

    Raises:
        UsageError: a feature of another site, an error in a circuit that ablates all, or no such rule.

    Example:
        >>> from bathyscope.circuits import Circuit, Feature
        >>> circuit = Circuit(("resid_post.12",), [Feature("resid_post.12", 1, 281)], errors="ablated")
        >>> len(circuit)
        1
    """

    sites: tuple[str, ...]
    features: frozenset[Feature]
    errors: Errors = "nodes"

    def __init__(self, sites: Iterable[str | Site], features: Iterable[Feature], errors: Errors = "nodes") -> None:
        object.__setattr__(self, "sites", tuple(str(site) for site in sites))
        object.__setattr__(self, "features", frozenset(features))
        object.__setattr__(self, "errors", errors)
        if errors not in get_args(Errors):
            raise UsageError(f"errors={errors!r} was given", f"it is one of {', '.join(get_args(Errors))}")
        for one in self.features:
            if one.site not in self.sites:
                raise UsageError(f"{one} was given to a circuit of {', '.join(self.sites)}", "features of its sites")
            if one.index is None and errors != "nodes":
                raise UsageError(f"{one} was given, and errors={errors!r}", "errors are features with errors='nodes'")

    def __len__(self) -> int:
        return len(self.features)

    def gates(self, site: str | Site, positions: int, basis: Basis) -> Gates:
        """What is let through at a site: 1 for what is, 0 for the rest."""
        kept, error = torch.zeros(positions, basis.n_features), torch.zeros(positions)
        for one in self.features:
            if one.site != str(site):
                continue
            if one.position >= positions or (one.index is not None and one.index >= basis.n_features):
                raise UsageError(
                    f"{one} was given",
                    f"there are positions 0 to {positions - 1}, features 0 to {basis.n_features - 1}",
                )
            if one.index is None:
                error[one.position] = 1
            else:
                kept[one.position, one.index] = 1
        return basis.gates(positions, kept, torch.ones(positions) if self.errors == "kept" else error)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"sites": list(self.sites), "errors": self.errors, "features": sorted(map(str, self.features))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The circuit that was written."""
        return cls(data["sites"], map(Feature.parse, data["features"]), data["errors"])


@dataclass(frozen=True, eq=False)
class Stage:
    """What circuits of some sites are run with: pairs, where they start, and what is put in place of the ablated.

    Args:
        examples: the pairs; the clean prompts are run.
        bases: what each site is taken apart in, from below to above.
        references: at each site what ablated parts become, (positions, ...), or for each pair.
        start: where the prompts start: below the lowest site.
    """

    examples: Examples
    bases: Mapping[Site, Basis]
    references: Mapping[Site, Parts]
    start: Start

    @classmethod
    def of(
        cls,
        examples: Examples,
        bases: Mapping[Site | str, Basis],
        *,
        ablation: Ablation = "mean",
        means: Mapping[Site, Parts] | None = None,
        seed: int = 0,
    ) -> Self:
        """Make ready to run circuits.

        Args:
            examples: the pairs.
            bases: what each site is taken apart in.
            ablation: what ablated parts become: their mean over corrupted prompts, what they are in another pair's
                corrupted prompt, or zero.
            means: of other pairs, such as those that a circuit was found on (`mean_parts`); these examples' own
                unless said.
            seed: of which other pair it is.
        """
        if ablation not in get_args(Ablation):
            raise UsageError(f"ablation={ablation!r} was given", f"it is one of {', '.join(get_args(Ablation))}")
        model = examples.model
        by_site = {model.site(site): basis for site, basis in bases.items()}
        if ablation == "resample":
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
            corrupted = _corrupted(examples, by_site)
            references = {site: basis.split(corrupted[site][order]) for site, basis in by_site.items()}
        else:
            references = dict(means or mean_parts(examples, bases))
            if ablation == "zero":
                references = {site: parts * 0.0 for site, parts in references.items()}
        layer = min(start_layer(model, site) for site in by_site)
        starts, _ = read_starts(model, examples.clean, [layer])
        return cls(examples, by_site, references, starts[layer])

    def writes(self, gates: Mapping[Site, Gates]) -> list[Write]:
        """Writes that let through what gates say."""
        return [
            Write(site, LetThrough(basis, gates[site], self.references[site])) for site, basis in self.bases.items()
        ]

    def gates(self, circuit: Circuit) -> dict[Site, Gates]:
        """A circuit's gates at every site."""
        if set(circuit.sites) != set(map(str, self.bases)):
            raise UsageError(
                f"a circuit of {', '.join(circuit.sites)} was to be run",
                f"the sites are {', '.join(map(str, self.bases))}",
            )
        return {site: circuit.gates(site, self.examples.length, basis) for site, basis in self.bases.items()}

    def differences(self, gates: Mapping[Site, Gates]) -> Tensor:
        """The pairs' logit differences with only what gates say let through, (pairs,), float64."""
        found = []
        for first in range(0, len(self.examples), ROWS):
            part = self.rows(slice(first, first + ROWS))
            found.append(
                measured(
                    part.examples.model, part.examples.clean, part.examples.answers, part.start, part.writes(gates)
                )
            )
        return torch.cat(found)

    def rows(self, rows: slice | Sequence[int]) -> "Stage":
        """With some of the pairs."""
        chosen = list(range(len(self.examples)))[rows] if isinstance(rows, slice) else list(rows)
        references = {
            site: parts[chosen] if parts.error.ndim == 3 else parts for site, parts in self.references.items()
        }
        start = self.start.rows(torch.tensor(chosen))
        return Stage(self.examples.part(chosen), self.bases, references, start)


ROWS = 64
"""Pairs of a pass: the latents of all of them are held at once."""


def mean_parts(examples: Examples, bases: Mapping[Site | str, Basis]) -> dict[Site, Parts]:
    """At each site and position the mean of features and error over the pairs' corrupted prompts."""
    by_site = {examples.model.site(site): basis for site, basis in bases.items()}
    return {site: mean_of(by_site[site], read) for site, read in _corrupted(examples, by_site).items()}


def _corrupted(examples: Examples, bases: Mapping[Site, Basis]) -> dict[Site, Tensor]:
    _, read = read_starts(examples.model, examples.corrupted, [EMBEDDING_LAYER], list(bases))
    return {site: flat(read[site], basis, site) for site, basis in bases.items()}
