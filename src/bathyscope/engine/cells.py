"""Cells: one measurement each, as data that can be planned, keyed and stored.

A cell is read, map, write, read out. Knows no model: prompts are tokens, values come from reads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Identity
from bathyscope.mappings import Mapping as RepresentationMapping
from bathyscope.model import Tokens
from bathyscope.readouts import Readout
from bathyscope.sites import Site

IDENTITY = Identity()
"""One for all cells, so that what has no other mapping is mapped together."""

VERSION = 1
"""Version of what a cell means; it is in every key, so that a change of meaning finds no old result."""


@dataclass(frozen=True)
class Read:
    """A representation: (S, i, l) of the source model.

    Args:
        prompt: S.
        site: where it is read.
        position: i, a token index from 0.
    """

    prompt: Tokens
    site: Site
    position: int


@dataclass(frozen=True, eq=False)
class Given:
    """A representation that is not read but given, such as a weight or a direction; equal by content.

    Args:
        value: (...site shape), copied on entry.
        site: the place of the source model that it would stand at.
    """

    value: Tensor
    site: Site

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", self.value.detach().clone())

    def fingerprint(self) -> str:
        """SHA-256 of the value."""
        return self._as_written.fingerprint()

    @cached_property
    def _as_written(self) -> Replace:
        return Replace(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Given) and self.site == other.site and self.fingerprint() == other.fingerprint()

    def __hash__(self) -> int:
        return hash((self.site, self.fingerprint()))


@dataclass(frozen=True)
class Patch:
    """One representation on its way into a target run.

    Args:
        source: the representation, read or given.
        site: where it is written.
        positions: at which token indices of the target prompt, from 0.
        mapping: what happens to it on the way.
    """

    source: Read | Given
    site: Site
    positions: tuple[int, ...]
    mapping: RepresentationMapping = IDENTITY


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Args:
        target: the target prompt.
        readout: what is taken from its run.
        source: the representation that is written, read or given; None for a run without it (a control).
        site: where it is written.
        positions: at which token indices of the target prompt, from 0.
        mapping: what happens to it on the way.
        also: other interventions in force in the same run; their rows are not used.
        against: whose own next token a readout compares with; the source unless said.
        more: further representations that are written in the same run.
        common: interventions in force in the run that the cell starts from, such as the noise of causal tracing. Cells
            that have the same share that run: a write changes only what comes after itself.
    """

    target: Tokens
    readout: Readout
    source: Read | Given | None = None
    site: Site | None = None
    positions: tuple[int, ...] = ()
    mapping: RepresentationMapping = IDENTITY
    also: tuple[Write, ...] = ()
    against: Read | None = None
    more: tuple[Patch, ...] = ()
    common: tuple[Write, ...] = ()

    def __post_init__(self) -> None:
        if (self.source is None) != (self.site is None):
            lacking = "site" if self.site is None else "source"
            raise UsageError(f"a cell was given without a {lacking}", "both are given, or neither")
        n_tokens = len(self.target)
        if outside := [one for patch in self.patches for one in patch.positions if not 0 <= one < n_tokens]:
            raise UsageError(f"position {outside[0]} was given", f"the target has positions 0 to {n_tokens - 1}")
        if self.readout.new_tokens < 2 and any(write.when == "generated" for write in (*self.also, *self.common)):
            raise UsageError(
                f'a write with when="generated" was given to {type(self.readout).__name__}, which generates no token '
                "that the model reads again",
                "",
                "Generate(2)",
            )
        if len(self.patches) < 2 and len(self.positions) < 2:
            return
        places = list(self._written())
        if len(set(places)) < len(places):
            site, position = next(place for place in places if places.count(place) > 1)
            raise UsageError(f"{site} is written twice at position {position}", "one representation a place")

    def _written(self) -> Iterator[tuple[Site, int]]:
        """Each place that is written, a head as the whole where the whole is written as well."""
        sites = {patch.site for patch in self.patches}
        for patch in self.patches:
            whole = Site(patch.site.component, patch.site.layer)
            for position in patch.positions:
                yield (whole if whole in sites else patch.site), position

    @cached_property
    def patches(self) -> tuple[Patch, ...]:
        """All representations that are written."""
        if self.source is None or self.site is None:
            return self.more
        return (Patch(self.source, self.site, self.positions, self.mapping), *self.more)

    @cached_property
    def reads(self) -> tuple[Read, ...]:
        """All representations that are read."""
        return tuple(patch.source for patch in self.patches if isinstance(patch.source, Read))

    @property
    def compared(self) -> Read | None:
        """What a readout that compares is read against; None where there is nothing."""
        return self.against or (self.source if isinstance(self.source, Read) else None)

    def spec(self) -> dict[str, Any]:
        """What is measured, as JSON values: equal specs on equal models give equal results."""
        return {
            "version": VERSION,
            "source": _source_spec(self.source),
            "target": {
                "ids": list(self.target.ids),
                "site": self.site and str(self.site),
                "positions": list(self.positions),
            },
            "also": [_write_spec(write, len(self.target)) for write in self.also],
            "decoding": "greedy",
            **({"against": _source_spec(self.against)} if self.against else {}),
            **({"more": [_patch_spec(patch) for patch in self.more]} if self.more else {}),
            **({"common": [_write_spec(write, len(self.target)) for write in self.common]} if self.common else {}),
            **self.mapping.spec(),
            **self.readout.spec(),
        }


def _source_spec(source: Read | Given | None) -> dict[str, Any] | None:
    if isinstance(source, Given):
        return {"value": source.fingerprint(), "site": str(source.site)}
    return source and {"ids": list(source.prompt.ids), "site": str(source.site), "position": source.position}


def _patch_spec(patch: Patch) -> dict[str, Any]:
    return {
        "source": _source_spec(patch.source),
        "site": str(patch.site),
        "positions": list(patch.positions),
        **patch.mapping.spec(),
    }


def _write_spec(write: Write, n_tokens: int) -> dict[str, Any]:
    return {
        "site": str(write.site),
        "positions": write.indices(n_tokens),
        "when": write.when,
        "intervention": write.intervention.fingerprint(),
    }
