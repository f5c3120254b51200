"""Torture of the run store: processes really killed, disks really full, bytes really damaged.

`python tests/torture.py --kills 500` prints what was counted and exits with 1 if a single cell was lost, computed
twice or wrong. Sweeps are of a stub executor that loads no model, in child processes of this same file.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from bathyscope.errors import StorageError
from bathyscope.store import FinishedCell, Store

STEPS = ("staged", "published", "inserted", "committed")


# The sweep: what is computed depends on the spec alone.


@dataclass(frozen=True)
class Sweep:
    """A stub of a plan: `n_batches` of `size` cells; the first of each has tensors too."""

    seed: int
    n_batches: int = 50
    size: int = 4

    def specs(self, batch: int) -> list[dict[str, Any]]:
        return [{"method": "stub/1", "seed": self.seed, "batch": batch, "cell": cell} for cell in range(self.size)]

    def batches(self) -> list[list[str]]:
        return [[FinishedCell.of(spec, {}).key for spec in self.specs(batch)] for batch in range(self.n_batches)]

    def records(self, batch: int) -> list[FinishedCell]:
        return [compute(spec) for spec in self.specs(batch)]

    def create(self, store: Any) -> str:
        keys = [key for batch in self.batches() for key in batch]
        return store.create_run("stub", {"seed": self.seed, "n": self.n_batches}, {"passes": 1}, keys)

    def pending(self, store: Any) -> list[int]:
        """The batches that lack a cell."""
        return [number for number, keys in enumerate(self.batches()) if not store.stored(keys) >= set(keys)]


def compute(spec: dict[str, Any]) -> FinishedCell:
    noise = random.Random(json.dumps(spec, sort_keys=True))
    numbers = [noise.gauss(0, 1) for _ in range(60)]
    tensors = safetensors(noise.randbytes(1000)) if spec["cell"] == 0 else None
    return FinishedCell.of(spec, {"numbers": numbers, "text": f"Zürich {numbers[0]}", "best": numbers[1]}, tensors)


def safetensors(content: bytes) -> bytes:
    head = json.dumps({"x": {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}}).encode()
    return len(head).to_bytes(8, "little") + head + content


def finish(store: Any, sweep: Sweep) -> str:
    run = sweep.create(store)
    for batch in sweep.pending(store):
        store.commit(run, sweep.records(batch))
    return run


def uninterrupted(folder: Path, sweep: Sweep) -> dict[str, bytes]:
    """What the exports of a sweep are when nobody interferes."""
    with without_sync(), Store(folder) as store:
        return exports(store, finish(store, sweep), folder)


@contextlib.contextmanager
def without_sync() -> Iterator[None]:
    """Save the time of putting things on the disk for good, where no process is killed."""
    with mock.patch("os.fsync"):
        yield


def exports(store: Store, run: str, folder: Path) -> dict[str, bytes]:
    return {form: store.export(run, folder / f"out.{form}").read_bytes() for form in ("json", "csv")}


# The child: opens the store, computes what is pending, and acknowledges.


class MortalStore(Store):
    """A store that kills its process when `commit` comes to a step for the n-th time."""

    step, times = "", 0

    def _reached(self, step: str) -> None:
        if step == self.step:
            self.times -= 1
            if self.times == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class JsonStore:
    """The control, which must fail: what many scripts do, one JSON file rewritten in place."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / "results.json"
        self.cells: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.cells = json.loads(self.path.read_text())

    def __enter__(self) -> "JsonStore":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def create_run(self, kind: str, spec: Any, plan: Any, keys: Any) -> str:
        return "run"

    def stored(self, keys: Sequence[str]) -> set[str]:
        return self.cells.keys() & set(keys)

    def commit(self, run: str, records: Sequence[FinishedCell]) -> None:
        self.cells.update({record.key: record.result for record in records})
        with self.path.open("w") as file:
            json.dump(self.cells, file)

    def get(self, keys: Sequence[str]) -> dict[str, Any]:
        return {key: self.cells[key] for key in keys if key in self.cells}


class Log:
    """What a child has done, by appending: `c KEY` computed, `a KEY ...` acknowledged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, kind: str, keys: Sequence[str]) -> None:
        os.write(self.handle, f"{kind} {' '.join(keys)}\n".encode())

    def acknowledge(self, keys: Sequence[str]) -> None:
        self.write("a", keys)
        os.fsync(self.handle)

    def read(self) -> tuple[set[str], int]:
        """Every key that was acknowledged, and how many were computed after that."""
        acknowledged, doubled = set(), 0
        for line in self.path.read_text().splitlines():
            kind, *keys = line.split()
            if kind == "a":
                acknowledged.update(keys)
            else:
                doubled += len(acknowledged.intersection(keys))
        return acknowledged, doubled


def child(arguments: argparse.Namespace) -> None:
    """Work until done or killed; exits with 3 where another process has the lease."""
    sweep = Sweep(arguments.seed, arguments.batches)
    log = Log(arguments.log)
    if arguments.die:
        MortalStore.step, times = arguments.die.split(":")
        MortalStore.times = int(times)
    os.write(1, b"started\n")
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(JsonStore(arguments.folder) if arguments.json else MortalStore(arguments.folder))
        run = sweep.create(store)
        if arguments.lease:
            try:
                stack.enter_context(store.lease(run))
            except StorageError as error:
                os.write(1, str(error).encode())
                sys.exit(3)
        os.write(1, b"working\n")
        for batch in sweep.pending(store):
            records = []
            for spec in sweep.specs(batch):
                records.append(compute(spec))
                log.write("c", [records[-1].key])
            store.commit(run, records)
            log.acknowledge([record.key for record in records])


def start(folder: Path, log: Path, sweep: Sweep, *options: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, __file__, "child", f"--folder={folder}", f"--log={log}", f"--seed={sweep.seed}"]
    command += [f"--batches={sweep.n_batches}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


# Kills.


@dataclass
class Tally:
    """What was counted over a number of kills; every bad figure must be 0."""

    kills: int = 0
    at_steps: int = 0
    sweeps: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    unequal_exports: int = 0
    incidents: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def bad(self) -> int:
        return self.lost + self.doubled + self.wrong + self.unequal_exports + self.incidents + len(self.errors)


def kill_often(folder: Path, kills: int, seed: int, *, control: bool = False, n_batches: int = 50) -> Tally:
    """Start sweeps and kill them until it has been done so many times; each sweep is then completed and compared."""
    choose, tally = random.Random(seed), Tally()
    store_folder = folder / "store"
    store_folder.mkdir(parents=True)
    while tally.kills < kills:
        sweep = Sweep(seed * 1000 + tally.sweeps, n_batches)
        log = folder / f"log{tally.sweeps}"
        options = ["--json"] if control else []
        while True:
            die = [] if control or choose.random() < 0.6 else [f"--die={choose.choice(STEPS)}:{choose.randint(1, 6)}"]
            enough = tally.kills >= kills
            process = start(store_folder, log, sweep, *options, *(() if enough else die))
            killed = _killed(process, None if enough or die else Moment.any(choose, log), tally)
            if not killed:
                break
            tally.kills += 1
            tally.at_steps += bool(die)
            # Every other time the next child finds the store as the kill has left it.
            if control or choose.random() < 0.5:
                _count_losses(store_folder, log, tally, control)
        if tally.errors:
            break
        tally.sweeps += 1
        _count_losses(store_folder, log, tally, control)
        acknowledged, doubled = Log(log).read()
        tally.acknowledged += len(acknowledged)
        tally.doubled += doubled
        if not control:
            _compare(store_folder, folder / f"whole{sweep.seed}", sweep, tally)
    return tally


@dataclass(frozen=True)
class Moment:
    """When a child is killed: after it has written so much to its log, and some milliseconds more.

    By what it has done and not by the clock, so that on a busy machine, too, kills come all along a sweep.
    """

    log: Path
    size: int
    delay: float

    @classmethod
    def any(cls, choose: random.Random, log: Path) -> "Moment":
        """Any moment: every third falls into the opening of the store, the others into the first ten batches."""
        if choose.random() < 1 / 3:
            return cls(log, 0, choose.uniform(0.002, 0.06))
        written = log.stat().st_size if log.exists() else 0
        return cls(log, written + choose.randint(1, 5000), choose.uniform(0, 0.004))

    def wait(self, process: "subprocess.Popen[bytes]") -> None:
        while self.size and process.poll() is None and self.log.stat().st_size < self.size:
            time.sleep(0.0005)
        time.sleep(self.delay)


def _killed(process: "subprocess.Popen[bytes]", moment: Moment | None, tally: Tally) -> bool:
    assert process.stdout and process.stderr
    process.stdout.readline()
    if moment is not None:
        moment.wait(process)
        process.kill()
    _, problem = process.communicate()
    # A store tells of leftovers on stderr; anything else there is a failure.
    if process.returncode not in (0, -signal.SIGKILL):
        tally.errors.append(problem.decode()[-2000:])
    return process.returncode == -signal.SIGKILL


def _count_losses(folder: Path, log: Path, tally: Tally, control: bool) -> None:
    acknowledged, _ = Log(log).read()
    with JsonStore(folder) if control else Store(folder) as store:
        tally.lost += len(acknowledged) - len(store.get(sorted(acknowledged)))
        if not control:
            tally.incidents += sum(incident.kind != "leftovers" for incident in store.incidents)


def _compare(folder: Path, elsewhere: Path, sweep: Sweep, tally: Tally) -> None:
    with Store(folder) as store:
        run = sweep.create(store)
        for batch in range(sweep.n_batches):
            expected = {record.key: record for record in sweep.records(batch)}
            tally.wrong += sum(store.get([key]).get(key) != record for key, record in expected.items())
        tally.unequal_exports += exports(store, run, elsewhere.parent) != uninterrupted(elsewhere, sweep)
        report = store.check()
        tally.wrong += report.n_quarantined
    shutil.rmtree(elsewhere)


# A full disk.


@dataclass
class Fullness:
    """What was counted over a number of full disks."""

    events: int = 0
    clear: int = 0
    lost: int = 0
    failed_to_open: int = 0
    rescued: int = 0
    completed: bool = False
    messages: list[str] = field(default_factory=list)


class Filler:
    """Fills the disk of a folder, or what the kernel lets this process write, but for a little room."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.path, self.kind = folder / "filler", kind
        self.folder = folder
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(self, room: int) -> None:
        if self.kind == "limit":
            largest = max((path.stat().st_size for path in self.folder.rglob("*") if path.is_file()), default=0)
            self._limit(min(largest, 40_000) // 2 + room)
            return
        with self.path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536):
                pass
        os.truncate(self.path, max(0, self.path.stat().st_size - room))

    def clear(self) -> None:
        if self.kind == "limit":
            self._limit(resource.RLIM_INFINITY)
        self.path.unlink(missing_ok=True)

    def _limit(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fill_often(folder: Path, kind: str, events: int, seed: int) -> Fullness:
    """Fill the disk so many times in the middle of a sweep; after each, look at every cell that was acknowledged."""
    choose, count = random.Random(seed), Fullness()
    filler, acknowledged, sweep = Filler(folder, kind), {}, Sweep(seed, n_batches=events * 6)
    with tempfile.TemporaryDirectory(dir=os.environ.get("BATHYSCOPE_TORTURE_ROOMY")) as roomy:
        expected = uninterrupted(Path(roomy), sweep)
    while count.events < events:
        with Store(folder / "store") as store:
            run = sweep.create(store)
            pending = sweep.pending(store)
            filler.fill(choose.randrange(0, 60_000))
            for batch in pending:
                records = sweep.records(batch)
                try:
                    store.commit(run, records)
                except StorageError as error:
                    count.events += 1
                    count.messages.append(str(error))
                    count.clear += " full" in str(error) and "\n" not in str(error)
                    break
                acknowledged.update({record.key: record for record in records})
            else:
                raise AssertionError("the disk did not get full")
            count.lost += store.get(acknowledged) != acknowledged
            if choose.random() < 0.5:  # the failed process goes on when there is room
                filler.clear()
                batch = sweep.pending(store)[0]
                store.commit(run, sweep.records(batch))
        try:
            with Store(folder / "store") as store:
                count.lost += store.get(acknowledged) != acknowledged
        except StorageError as error:
            count.failed_to_open += 1
            count.clear -= " full" not in str(error)
            count.messages.append(str(error))
        filler.clear()
        with Store(folder / "store") as store:
            count.lost += store.get(acknowledged) != acknowledged
            count.rescued += len(store.incidents)
    with Store(folder / "store") as store:
        count.completed = exports(store, finish(store, sweep), folder) == expected
    return count


def fill_in_child(folder: Path, events: int, seed: int) -> tuple[str, Fullness]:
    """Do it on a tiny disk of its own where the system permits mounting one, else under a limit to file sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = "disk" if _may_mount() else "limit"
    command = [sys.executable, __file__, "full", f"--folder={folder}", f"--events={events}", f"--seed={seed}"]
    if kind == "disk":
        script = 'mount -t tmpfs -o size=8m tmpfs "$0" && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, str(folder), *command]
    else:
        command.append("--limit")
    done = subprocess.run(command, capture_output=True, text=True, env=_roomy(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return kind, Fullness(**json.loads(done.stdout))


def _may_mount() -> bool:
    if not shutil.which("unshare"):
        return False
    with tempfile.TemporaryDirectory() as folder:
        script = ["sh", "-c", 'mount -t tmpfs -o size=1m tmpfs "$0"', folder]
        return subprocess.run(["unshare", "-m", *script], capture_output=True).returncode == 0


def _roomy(folder: Path) -> dict[str, str]:
    return {**os.environ, "BATHYSCOPE_TORTURE_ROOMY": str(folder.parent)}


# Damage.


@dataclass
class Damage:
    """What became of stores of which one file was damaged."""

    cases: int = 0
    harmless: int = 0
    told: int = 0
    recomputed_in_silence: int = 0
    refused: int = 0
    wrong: int = 0
    cells: int = 0
    missing: int = 0
    unfinished: int = 0
    by_file: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def build_victim(folder: Path) -> list[Sweep]:
    """Make a store whose first run is all in the database file and whose second is in the write-ahead log."""
    sweeps = [Sweep(1, 15), Sweep(2, 15)]
    with Store(folder) as store:
        finish(store, sweeps[0])
    process = start(folder, folder.with_name("log"), sweeps[1], "--die=committed:15")
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert (folder / "runs.sqlite-wal").stat().st_size > 50_000
    return sweeps


def damage_one(folder: Path, choose: random.Random) -> str:
    """Damage one file of a store in some way."""
    blobs = sorted((folder / "blobs").glob("??/*"))
    choices = {"sqlite": folder / "runs.sqlite", "log": folder / "runs.sqlite-wal", "blob": choose.choice(blobs)}
    name = choose.choices(list(choices), (5, 3, 2))[0]
    path = choices[name]
    content = bytearray(path.read_bytes())
    way = choose.choice(("bit", "bit", "byte", "bytes", "page", "head", "truncate", "empty", "remove"))
    at = choose.randrange(len(content))
    if way in ("bit", "byte", "bytes"):
        for place in range(at, min(len(content), at + (choose.randrange(2, 200) if way == "bytes" else 1))):
            content[place] ^= 1 << choose.randrange(8) if way == "bit" else choose.randrange(1, 256)
    elif way == "page":
        start = at // 4096 * 4096
        content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    elif way == "head":
        content[choose.randrange(min(120, len(content)))] ^= choose.randrange(1, 256)
    elif way == "truncate":
        del content[at:]
    elif way == "empty":
        content.clear()
    if way == "remove":
        path.unlink()
    else:
        path.write_bytes(content)
    return f"{name} {way} at {at}"


def damage_often(folder: Path, cases: int, seed: int) -> Damage:
    """Damage copies of one store, read everything, then compute again what is missing."""
    choose, count = random.Random(seed), Damage()
    sweeps = build_victim(folder / "victim")
    expected = {r.key: r for sweep in sweeps for batch in range(sweep.n_batches) for r in sweep.records(batch)}
    for _ in range(cases):
        _restore(folder / "victim", folder / "copy")
        what = damage_one(folder / "copy", choose)
        with without_sync():
            _look(folder / "copy", sweeps, expected, what, count)
    return count


def _restore(victim: Path, copy: Path) -> None:
    contents = {path.relative_to(victim): path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    for path in copy.rglob("*"):
        if path.is_file() and path.relative_to(copy) not in contents:
            path.unlink()
    for name, content in contents.items():
        path = copy / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def kill_rescues(folder: Path, kills: int, seed: int) -> Damage:
    """Kill processes while they rescue a damaged store, then look what the next one finds."""
    choose, count = random.Random(seed), Damage()
    sweeps = build_victim(folder / "victim")
    expected = {r.key: r for sweep in sweeps for batch in range(sweep.n_batches) for r in sweep.records(batch)}
    for _ in range(kills):
        copy = folder / "copy"
        _restore(folder / "victim", copy)
        with (copy / "runs.sqlite").open("r+b") as file:
            file.write(b"damaged")
        process = start(copy, folder / "log", sweeps[0])
        assert process.stdout
        process.stdout.readline()
        time.sleep(choose.uniform(0, 0.05))
        process.kill()
        process.communicate()
        _look(copy, sweeps, expected, "rescue killed", count)
    return count


def _look(copy: Path, sweeps: list[Sweep], expected: dict[str, FinishedCell], what: str, count: Damage) -> None:
    count.cases += 1
    count.cells += len(expected)
    try:
        with Store(copy) as store:
            found = store.get(expected)
            incidents = list(store.incidents)
            for sweep in sweeps:
                finish(store, sweep)
            count.unfinished += store.get(expected) != expected
    except StorageError as error:
        count.refused += 1
        count.notes.append(f"{what}: {error}")
        return
    missing = len(expected) - len(found)
    count.missing += missing
    count.wrong += sum(record != expected[key] for key, record in found.items())
    count.by_file.setdefault(what.split(" at ")[0], []).append(missing)
    if incidents:
        count.told += 1
    elif missing:
        count.recomputed_in_silence += 1
        count.notes.append(f"{what}: {missing} missing and nothing told")
    else:
        count.harmless += 1


# The command line.


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--full", type=int, default=20, help="full disks")
    parser.add_argument("--damage", type=int, default=200, help="damaged stores")
    parser.add_argument("--seed", type=int, default=1)
    return parser


def _inner_arguments(kind: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=kind)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int)
    if kind == "child":
        parser.add_argument("--log", type=Path)
        parser.add_argument("--batches", type=int)
        parser.add_argument("--die", default="")
        parser.add_argument("--json", action="store_true")
        parser.add_argument("--lease", action="store_true")
    else:
        parser.add_argument("--events", type=int)
        parser.add_argument("--limit", action="store_true")
    return parser


def _work(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], bool]]:
    kills = kill_often(folder / "kills", arguments.kills, arguments.seed)
    yield "kills", asdict(kills), kills.bad == 0
    control = kill_often(folder / "control", min(arguments.kills, 60), arguments.seed, control=True)
    yield "control, one JSON file rewritten in place, which must fail", asdict(control), control.lost > 0
    kind, full = fill_in_child(folder / "full", arguments.full, arguments.seed)
    full_is_good = full.clear == full.events and full.lost == 0 and full.completed
    yield f"full disks, by {kind}", {**asdict(full), "messages": sorted(set(full.messages))[:3]}, full_is_good
    damage = damage_often(folder / "damage", arguments.damage, arguments.seed)
    yield (
        "damaged stores",
        asdict(damage),
        damage.wrong + damage.unfinished + damage.refused + damage.recomputed_in_silence == 0,
    )
    rescues = kill_rescues(folder / "rescues", arguments.damage // 4, arguments.seed)
    good = rescues.wrong + rescues.unfinished + rescues.refused + rescues.missing == 0
    yield "rescues that were killed", asdict(rescues), good


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return "".join(f"\n         {name}: {len(lost)}, at most {max(lost)}" for name, lost in sorted(value.items()))
    return value[:5] if isinstance(value, list) else value


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        child(_inner_arguments("child").parse_args(sys.argv[2:]))
        return 0
    if sys.argv[1:2] == ["full"]:
        arguments = _inner_arguments("full").parse_args(sys.argv[2:])
        kind = "limit" if arguments.limit else "disk"
        _print(json.dumps(asdict(fill_often(arguments.folder, kind, arguments.events, arguments.seed))))
        return 0
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, figures, good in _work(Path(folder), _arguments().parse_args()):
            _print(f"{'ok  ' if good else 'FAIL'} {name}")
            for key, value in figures.items():
                _print(f"       {key}: {_short(value)}")
            failures += not good
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
