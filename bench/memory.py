"""Part (f): how much memory the grid of patchscopes really takes above the loaded model, against its budget.

Each budget runs in a process of its own, for memory that an earlier run gave back to the allocator
would hide what a later one takes.
"""

import ctypes
import gc
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import grid
import torch
from environments import PeerError, run_script
from measure import Check, Part, Row, Settings, say

import bathyscope
from bathyscope.engine import collect, plan

MB = 2**20
BUDGETS = (64 * MB, 256 * MB, 1024 * MB)
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure(settings: Settings) -> Part:
    """Run all of it."""
    say("memory")
    part = Part(f"(f) Memory above the loaded model on {settings.folder.name}: the grid of (a-c), float32")
    for budget in BUDGETS:
        say(f"  budget of {budget // MB} MB")
        job = {
            "folder": str(settings.folder),
            "threads": settings.threads,
            "quick": settings.quick,
            "budget": budget,
        }
        promise = f"peak of a budget of {budget // MB} MB, in budgets"
        try:
            found = run_script(Path(sys.executable), Path(__file__), job, settings.threads)
        except PeerError as error:
            part.rows.append(Row(f"budget of {budget // MB} MB", note=str(error)))
            part.checks.append(Check(promise, None, 1.1, at_least=False, timed=False))
            continue
        part.rows.append(
            Row(
                f"budget of {budget // MB} MB", (found["seconds"],), ratio=found["peak"] / budget, versus="budget",
                note=f"peak {found['peak'] / MB:.0f} MB, planned {found['planned'] / MB:.0f} MB, "
                f"batches: {found['batches']}, rows: {found['rows']}; {found['how']}",
            )
        )  # fmt: skip
        part.checks.append(Check(promise, found["peak"] / budget, 1.1, at_least=False, timed=False))
        part.details[str(budget)] = found
    return part


class Peak:
    """The most memory that this process holds inside a `with` block, above what it held before.

    The kernel's own high-water mark where it can be reset; elsewhere a thread looks every millisecond.
    """

    def __init__(self) -> None:
        self.bytes, self.how = 0, "high-water mark of the kernel"
        self._stop = Event()
        self._seen = 0
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        gc.collect()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        self._before = _held()
        try:
            CLEAR.write_text("5", "ascii")
        except OSError:
            self.how = "looked at every millisecond"
            self._thread = Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self.bytes = max(self._seen, _held()) - self._before
        else:
            self.bytes = _status("VmHWM") - self._before

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._seen = max(self._seen, _held())
            time.sleep(0.001)


def _held() -> int:
    return _status("VmRSS")


def _status(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    for line in STATUS.read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {name}")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """The grid on one budget, in a process that has done nothing else."""
    torch.set_num_threads(job["threads"])
    settings = Settings(Path(job["folder"]), job["threads"], job["quick"], peers=False, environments=Path())
    model = bathyscope.load(settings.folder, dtype=torch.float32)
    cells = grid.cells_of(model, grid.job_of(model, settings))
    planned = plan(cells, model, model, budget=job["budget"])
    started = time.perf_counter()
    with Peak() as peak:
        collect(planned, model, model)
    return {
        "peak": peak.bytes,
        "how": peak.how,
        "planned": planned.memory,
        "batches": len(planned.batches),
        "rows": max(len(batch.cells) for batch in planned.batches),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Carry out the job named by the first argument; write what was measured to the second."""
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(run(job)), "utf-8")


if __name__ == "__main__":
    main()
