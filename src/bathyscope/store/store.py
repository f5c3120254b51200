"""The store: where the finished cells of runs are kept, so that none is ever lost or computed twice.

A cell is named by the hash of everything that its result depends on, and is stored once, whatever runs ask for
it. A batch of cells is stored whole or not at all. Whatever is read is checked first: damage costs a second
computation, never a wrong number.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.store.blobs import Blobs
from bathyscope.store.database import AMONG, CommitFile, count_commit
from bathyscope.store.export import check_format, gather, render
from bathyscope.store.failures import storage_errors
from bathyscope.store.locks import FileLock, lease
from bathyscope.store.opening import data_dir, open_database
from bathyscope.store.reader import Reader
from bathyscope.store.records import CheckReport, FinishedCell, Incident, RunInfo
from bathyscope.store.rows import BLOB, cell_row
from bathyscope.store.runs import Runs
from bathyscope.store.upkeep import check_all, delete_run


class Store:
    """Runs and their finished cells, in a folder that many processes may use at once.

    Args:
        folder: where; `data_dir()` unless said. It must not be on a network drive, where locks are not reliable.
        durable: whether what was acknowledged survives even a power cut, at the price of a slower commit. It
            survives the death of the process either way.

    Attributes:
        folder: where it is.
        incidents: what was found damaged since it was opened, and put right; each is logged as a warning too.

    Raises:
        StorageError: the folder cannot be used, or holds a newer version's store or another program's file.

    Example:
        >>> import tempfile
        >>> from bathyscope.store import FinishedCell, Store
        >>> cell = FinishedCell.of({"method": "demo", "layer": 3}, {"text": "London"})
        >>> with Store(tempfile.mkdtemp()) as store:
        ...     run = store.create_run("demo", {"layers": [3]}, plan={}, keys=[cell.key])
        ...     with store.lease(run):
        ...         if cell.key not in store.stored([cell.key]):
        ...             n_new = store.commit(run, [cell])
        ...     store.get([cell.key])[cell.key].result
        {'text': 'London'}
    """

    def __init__(self, folder: str | Path | None = None, *, durable: bool = False) -> None:
        self.folder = data_dir() if folder is None else Path(folder).expanduser().absolute()
        self.incidents: list[Incident] = []
        self._path = self.folder / "runs.sqlite"
        self._commits = CommitFile(self.folder / "commits")
        self._blobs = Blobs(self.folder / "blobs", self.folder / "quarantine")
        with storage_errors(self._path):
            (self.folder / "leases").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "store.lock")
            self._database = open_database(
                self._path, self._blobs, self._commits, self._lock, self.incidents, durable=durable
            )
        self._reader = Reader(self._database, self._blobs, self.incidents)
        self._runs = Runs(self._database, self._reader)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; without effect when it is closed."""
        self._database.close()
        self._lock.release()

    def create_run(self, kind: str, spec: Mapping[str, Any], plan: Any, keys: Sequence[str]) -> str:
        """Make a run, or find the one that was made of the same kind, spec and cells.

        Args:
            kind: the kind of result it is for.
            spec: what is asked, as JSON values.
            plan: how it is computed, as JSON values, for people to read.
            keys: those of its cells, in any order.

        Returns:
            The run's id: 16 hex digits.

        Raises:
            UsageError: a key that is not 64 hex digits, or a cell that is named twice.
        """
        return self._runs.create(kind, spec, plan, keys)

    def find(self, prefix: str) -> str:
        """Return the id of the one run that begins so.

        Raises:
            UsageError: none does, or several do.
        """
        return self._runs.find(prefix)

    def runs(self) -> list[RunInfo]:
        """Return every run, the oldest first."""
        return [self._runs.info(run) for run in self._runs.all()]

    def show(self, run: str) -> RunInfo:
        """Return what is known of a run.

        Raises:
            UsageError: there is none of that id.
        """
        return self._runs.info(self._runs.load(run))

    def stored(self, keys: Iterable[str]) -> set[str]:
        """Return those of the keys whose cells are stored, by whatever run; the cells are not read and not checked."""
        return self._runs.stored(list(keys))

    def commit(self, run: str, records: Sequence[FinishedCell]) -> int:
        """Store cells, all or none; when this returns, they are stored.

        What is stored first stands: a cell that is there already, perhaps since another process was quicker, is left
        as it is.

        Args:
            run: its id.
            records: cells of the run that were computed together.

        Returns:
            How many of them were new.

        Raises:
            UsageError: a cell that is not the run's, or one given twice.
            StorageError: the run was deleted meanwhile, or the disk failed: none of them is stored.
        """
        rows = {record.key: cell_row(record) for record in records}
        if len(rows) < len(records) or not rows.keys() <= self._runs.load(run).key_set:
            raise UsageError(f"cells that are not of run {run}, or one twice", "each of its own once")
        self.get(rows)  # sets damaged ones aside, so that they are stored anew
        with storage_errors(self._path):
            staged = self._blobs.stage(record.tensors for record in records if record.tensors is not None)
        try:
            self._reached("staged")
            with self._database.writing() as connection:
                if not connection.execute("SELECT 1 FROM runs WHERE id = ?", (run,)).fetchone():
                    raise StorageError(f"run {run} was deleted meanwhile", "nothing of the batch is stored")
                stored = connection.execute(f"SELECT key FROM cells WHERE key {AMONG}", (json.dumps(list(rows)),))
                known = {key for (key,) in stored}
                new = [row for key, row in rows.items() if key not in known]
                self._blobs.publish({row[BLOB]: staged[row[BLOB]] for row in new if row[BLOB] is not None})
                self._reached("published")
                connection.executemany("INSERT INTO cells VALUES (?, ?, ?, ?, ?)", new)
                number = count_commit(connection)
                self._reached("inserted")
            self._commits.write(number)
            self._reached("committed")
        finally:
            self._blobs.discard(staged)
        return len(new)

    def get(self, keys: Iterable[str]) -> dict[str, FinishedCell]:
        """Return stored cells by their keys; one that is not stored is left out.

        Every row and blob is compared with its checksum. A damaged one is set aside, is told as an incident and is
        missing from then on, so that `stored` leaves it out.
        """
        wanted = list(dict.fromkeys(keys))
        found = self._reader.cells(wanted)
        return {key: found[key] for key in wanted if key in found}

    @contextmanager
    def lease(self, run: str) -> Iterator[None]:
        """Keep a run for oneself while computing it; the kernel gives it back if the process dies.

        Raises:
            StorageError: it is being computed already, by the process that is named.
        """
        with lease(self._lease_of(self._runs.load(run).id), f"run {run}"):
            yield

    def export(self, run: str, path: str | Path, format: str | None = None) -> Path:
        """Write a run's finished cells to a file: by key, without times and paths.

        Two runs of one spec give the same bytes as json and csv, whenever and however often each was interrupted.

        Args:
            run: its id.
            path: the file.
            format: "json", "csv" or "parquet"; that of the file's ending unless said.

        Raises:
            UsageError: another format, or parquet without pyarrow.
            StorageError: a cell is damaged, or the file cannot be written.

        Example:
            >>> import tempfile
            >>> from bathyscope.store import FinishedCell, Store
            >>> cell = FinishedCell.of({"layer": 3}, {"text": "London"})
            >>> store = Store(tempfile.mkdtemp())
            >>> run = store.create_run("demo", {}, {}, [cell.key])
            >>> store.commit(run, [cell])
            1
            >>> print(store.export(run, store.folder / "run.csv").read_text().splitlines()[0])
            "key","spec.layer","result.text","tensors"
            >>> store.close()
        """
        path = Path(path)
        format = check_format(format or path.suffix.removeprefix("."))
        stored = self._runs.load(run)
        # Once, since another process may be at work: what it stores meanwhile is not in this file.
        done = sorted(self._runs.stored(stored.keys))
        cells = gather(done, self.get)
        if damaged := len(done) - len(cells):
            raise StorageError(
                f"{damaged} cells of run {run} are damaged and were set aside",
                "they are to be computed again first",
                f"bathyscope runs resume {run}",
            )
        write_atomically(path, render(format, self._runs.info(stored, len(cells)), cells))
        return path

    def delete(self, run: str) -> int:
        """Delete a run, and those of its cells and blobs that no other run has.

        Returns:
            How many cells were deleted.

        Raises:
            StorageError: it is being computed.

        Example:
            >>> import tempfile
            >>> from bathyscope.store import FinishedCell, Store
            >>> cell = FinishedCell.of({"layer": 3}, {"text": "London"})
            >>> store = Store(tempfile.mkdtemp())
            >>> run = store.create_run("demo", {}, {}, [cell.key])
            >>> store.commit(run, [cell])
            1
            >>> store.delete(run)
            1
            >>> store.close()
        """
        with self.lease(run):
            stored = self._runs.load(run)
            self._runs.all()  # sets damaged ones aside
            count = delete_run(stored, self._database, self._blobs)
            self._lease_of(run).unlink(missing_ok=True)
        return count

    def check(self) -> CheckReport:
        """Read and compare everything; set aside what is damaged, remove blobs that no cell refers to.

        Raises:
            StorageError: the database's own structure is damaged; what can be read is kept at the next opening.

        Example:
            >>> import tempfile
            >>> from bathyscope.store import FinishedCell, Store
            >>> cell = FinishedCell.of({"layer": 3}, {"text": "London"})
            >>> store = Store(tempfile.mkdtemp())
            >>> run = store.create_run("demo", {}, {}, [cell.key])
            >>> store.commit(run, [cell])
            1
            >>> store.check().n_cells
            1
            >>> store.close()
        """
        return check_all(self._reader, self._database, self._blobs)

    def _lease_of(self, run: str) -> Path:
        return self.folder / "leases" / f"{run}.lock"

    def _reached(self, step: str) -> None:
        """Do nothing: a step of `commit` at which the tests kill the process."""
