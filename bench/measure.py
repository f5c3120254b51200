"""What every part of the benchmark shares: settings, clocks, findings, and what machine this is."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
PACKAGES = ("bathyscope", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class Settings:
    """How the benchmark is run.

    Args:
        folder: the model, a folder that transformers loads.
        threads: of torch, in every process.
        quick: a few cells only, one warm run: for a test, no figures to quote.
        peers: whether other libraries are measured too.
        environments: where their environments are kept.
    """

    folder: Path
    threads: int
    quick: bool
    peers: bool
    environments: Path

    @property
    def repeats(self) -> int:
        """Warm runs."""
        return 1 if self.quick else 3


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        what: what ran.
        seconds: one entry a run; the first run is not among them where `cold` holds it.
        cold: seconds of the first run after loading.
        ratio: how many times faster (or slower) than what `versus` names.
        versus: what the ratio compares with.
        note: anything else, in a few words.
    """

    what: str
    seconds: tuple[float, ...] = ()
    cold: float | None = None
    ratio: float | None = None
    versus: str = ""
    note: str = ""

    @property
    def median(self) -> float | None:
        """Median of the seconds."""
        return statistics.median(self.seconds) if self.seconds else None


@dataclass(frozen=True)
class Check:
    """One promise of the project beside what was measured.

    Args:
        what: the promise.
        value: what was measured, or None where it was not.
        wanted: the limit.
        at_least: whether the value must reach the limit or stay below it.
        timed: whether it depends on the clock; a quick run does not judge those.
    """

    what: str
    value: float | None
    wanted: float
    at_least: bool = True
    timed: bool = True

    def verdict(self, *, quick: bool) -> str:
        """What is said of it."""
        if self.value is None:
            return "not measured"
        if quick and self.timed:
            return "not judged"
        met = self.value >= self.wanted if self.at_least else self.value <= self.wanted
        return "met" if met else "MISSED"


@dataclass
class Part:
    """What one part of the benchmark found.

    Args:
        title: heading of its table.
        rows: the table.
        checks: promises.
        remarks: sentences below the table.
        details: whatever else the JSON file keeps.
    """

    title: str
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, *, quick: bool) -> dict[str, Any]:
        """As JSON values."""
        return {
            "title": self.title,
            "rows": [{**asdict(row), "median": row.median} for row in self.rows],
            "checks": [{**asdict(check), "verdict": check.verdict(quick=quick)} for check in self.checks],
            "remarks": self.remarks,
            "details": self.details,
        }


def say(text: str) -> None:
    """Tell on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def clock(work: Callable[[], T]) -> tuple[T, float]:
    """What a piece of work gives, and its seconds."""
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started


def cold_and_warm(name: str, work: Callable[[], T], repeats: int) -> tuple[T, float, tuple[float, ...]]:
    """What the work gives, seconds of its first run and of `repeats` more."""
    say(f"  {name}: first run")
    found, cold = clock(work)
    warm = []
    for repeat in range(repeats):
        say(f"  {name}: run {repeat + 1} of {repeats}")
        found, seconds = clock(work)
        warm.append(seconds)
    return found, cold, tuple(warm)


def ratio(slow: float | None, fast: float | None) -> float | None:
    """How many times faster, where both were measured."""
    return slow / fast if slow and fast else None


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def machine(settings: Settings) -> dict[str, Any]:
    """What has to stand beside every figure."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "platform": platform.platform(),
        "model": settings.folder.name,
        "quick": settings.quick,
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
        "torch": {"build": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
