"""What goes into the store and comes out of it."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from bathyscope.store.canonical import spec_key

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedCell:
    """One finished cell.

    Args:
        key: the SHA-256 of the canonical spec, as `spec_key` gives it.
        spec: everything that the result depends on, as JSON values.
        result: what was measured, as JSON values.
        tensors: the bytes of a safetensors file, kept as a blob named by its own SHA-256.

    Example:
        >>> from bathyscope.store import FinishedCell, spec_key
        >>> spec = {"method": "demo", "layer": 3}
        >>> FinishedCell.of(spec, {"text": "London"}) == FinishedCell(spec_key(spec), spec, {"text": "London"})
        True
    """

    key: str
    spec: Mapping[str, Any]
    result: Mapping[str, Any]
    tensors: bytes | None = None

    @classmethod
    def of(cls, spec: Mapping[str, Any], result: Mapping[str, Any], tensors: bytes | None = None) -> Self:
        """Make a record and its key."""
        return cls(spec_key(spec), spec, result, tensors)


@dataclass(frozen=True)
class RunInfo:
    """What the store knows of a run.

    Args:
        id: the content hash of its kind, spec and cells: asking for the same again is the same run.
        kind: the kind of result it is for.
        created: when it was first asked for: ISO 8601, UTC.
        spec: what was asked.
        plan: how it was to be computed when it was first asked for, as data.
        n_cells: how many cells it has.
        n_done: how many of them are stored, by this run or another.

    Example:
        >>> from bathyscope.store import RunInfo
        >>> RunInfo("0a1b", "patchscope", "2025-01-01T00:00:00+00:00", {}, {}, n_cells=62, n_done=31).status
        'incomplete'
    """

    id: str
    kind: str
    created: str
    spec: Mapping[str, Any]
    plan: Any
    n_cells: int
    n_done: int

    @property
    def status(self) -> str:
        """'complete', or 'incomplete' while a cell is missing."""
        return "complete" if self.n_done == self.n_cells else "incomplete"


@dataclass(frozen=True)
class Incident:
    """Something that went wrong with the stored files and was put right.

    Args:
        kind: "rescued" (a damaged database was replaced by what could be read of it), "quarantined" (a damaged
            cell, run or blob was set aside and is missing now), "lost" (the latest commits are gone without a trace)
            or "leftovers" (files of a killed process removed).
        count: how many rows, commits or files.
        message: the whole story in one line.

    Example:
        >>> import tempfile
        >>> from bathyscope.store import Store
        >>> with Store(tempfile.mkdtemp()) as store:
        ...     [incident.message for incident in store.incidents]
        []
    """

    kind: str
    count: int
    message: str


def tell(incidents: list[Incident], incident: Incident) -> None:
    """Note an incident, and log it: nothing is put right in silence."""
    incidents.append(incident)
    logger.warning(incident.message)


@dataclass(frozen=True)
class CheckReport:
    """What `Store.check` found.

    Args:
        n_runs, n_cells, n_blobs: what is stored and whole.
        n_quarantined: rows that this check set aside, because they or their blobs were damaged.
        n_in_quarantine: rows set aside since the store was made.
        n_orphans: blobs that no cell refers to, which this check removed.
    """

    n_runs: int
    n_cells: int
    n_blobs: int
    n_quarantined: int
    n_in_quarantine: int
    n_orphans: int
