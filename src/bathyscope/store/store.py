"""The store: where the finished cells of runs are kept, so that none is ever lost or computed twice.

A cell is named by the hash of everything that its result depends on, and is stored once, whatever runs ask for
it. A batch of cells is stored whole or not at all. Whatever is read is checked first: damage costs a second
computation, never a wrong number.
"""

import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.store.blobs import Blobs
from bathyscope.store.canonical import canonical, checksum
from bathyscope.store.database import Database, storage_errors
from bathyscope.store.export import check_format, render
from bathyscope.store.locks import FileLock
from bathyscope.store.records import CheckReport, Incident, Record, RunInfo
from bathyscope.store.rescue import DamagedError, examine, prepare
from bathyscope.store.rows import FaultyError, Row, StoredRun, cell_row, read_cell, read_run, run_id

logger = logging.getLogger(__name__)

_OPENING_SECONDS = 60.0
_CHUNK = 500
_AMONG = "IN (SELECT value FROM json_each(?))"


def data_dir() -> Path:
    """Return the folder for what must not be lost; it need not exist yet.

    Returns:
        `$BATHYSCOPE_HOME/data` when that variable is set, else the platform's data folder.

    Example:
        >>> from bathyscope.store import data_dir
        >>> data_dir()   # doctest: +SKIP
        PosixPath('/home/ada/.local/share/bathyscope')
    """
    if home := os.environ.get("BATHYSCOPE_HOME"):
        return Path(home).expanduser().absolute() / "data"
    import platformdirs

    return platformdirs.user_data_path("bathyscope", appauthor=False)


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
        >>> from bathyscope.store import Record, Store
        >>> cell = Record.of({"method": "demo", "layer": 3}, {"text": "London"})
        >>> with Store(tempfile.mkdtemp()) as store:
        ...     run = store.create_run("demo", {"layers": [3]}, plan={}, batches=[[cell.key]])
        ...     with store.lease(run):
        ...         for batch in store.pending(run):
        ...             store.commit(run, batch, [cell])
        ...     store.get([cell.key])[cell.key].result
        {'text': 'London'}
    """

    def __init__(self, folder: str | Path | None = None, *, durable: bool = False) -> None:
        self.folder = data_dir() if folder is None else Path(folder).expanduser().absolute()
        self.incidents: list[Incident] = []
        self._path = self.folder / "runs.sqlite"
        self._blobs = Blobs(self.folder / "blobs", self.folder / "quarantine")
        self._known: dict[str, StoredRun] = {}
        with storage_errors(self._path):
            (self.folder / "leases").mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "store.lock")
            self._database = self._open(durable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; without effect when it is closed."""
        self._database.close()
        self._lock.release()

    def create_run(self, kind: str, spec: Mapping[str, Any], plan: Any, batches: Sequence[Sequence[str]]) -> str:
        """Make a run, or find the one that was made of the same kind, spec and batches.

        Args:
            kind: the kind of result it is for.
            spec: what is asked, as JSON values.
            plan: how it is computed, as JSON values, for people to read.
            batches: the keys of the cells, parted into what is computed and stored together.

        Returns:
            The run's id: 16 hex digits.

        Raises:
            UsageError: a key that is none, or a cell that is in two places.
        """
        keys = [key for batch in batches for key in batch]
        if len(set(keys)) < len(keys):
            raise UsageError("a cell is in two places of a run", "each is computed once")
        if bad := [key for key in keys if not _is_key(key)]:
            raise UsageError(f"{bad[0]!r} was given", "the key of a cell is 64 hex digits", "cell_key(spec)")
        texts = canonical(spec), canonical(plan), canonical(batches)
        run = run_id(kind, texts[0], texts[2])
        if self._find(run) is None:
            columns = (run, kind, *texts, datetime.now(UTC).isoformat(timespec="seconds"))
            with self._database.writing() as connection:
                marks = ", ".join("?" * (len(columns) + 1))
                connection.execute(f"INSERT OR IGNORE INTO runs VALUES ({marks})", (*columns, checksum(columns)))
        return run

    def find(self, prefix: str) -> str:
        """Return the id of the one run that begins so.

        Raises:
            UsageError: none does, or several do.
        """
        with self._database.reading() as connection:
            query = "SELECT id FROM runs WHERE substr(id, 1, ?) = ? ORDER BY id"
            found = [name for (name,) in connection.execute(query, (len(prefix), prefix))]
        if len(found) != 1:
            which = "no run" if not found else f"{len(found)} runs, {', '.join(found)},"
            raise UsageError(f"{which} in {self.folder} begin with {prefix!r}", "one must", "bathyscope runs list")
        return found[0]

    def runs(self) -> list[RunInfo]:
        """Return every run, the oldest first."""
        with self._database.reading() as connection:
            names = [name for (name,) in connection.execute("SELECT id FROM runs ORDER BY created, id")]
        found = (self._find(name) for name in names)
        return [self._info(run) for run in found if run is not None]

    def show(self, run: str) -> RunInfo:
        """Return what is known of a run.

        Raises:
            UsageError: there is none of that id.
        """
        return self._info(self._load(run))

    def batches(self, run: str) -> tuple[tuple[str, ...], ...]:
        """Return the keys of a run's cells, parted as when it was made."""
        return self._load(run).batches

    def pending(self, run: str) -> list[int]:
        """Return the numbers of the batches that lack a cell, in order."""
        stored = self._load(run)
        done = self._stored(stored.keys)
        return [number for number, batch in enumerate(stored.batches) if not done.issuperset(batch)]

    def missing(self, run: str, batch: int) -> list[str]:
        """Return the keys that a batch lacks: another run may have stored some of its cells."""
        keys = self._batch(run, batch)
        done = self._stored(keys)
        return [key for key in keys if key not in done]

    def commit(self, run: str, batch: int, records: Sequence[Record]) -> None:
        """Store the cells of a batch, all or none; when this returns, they are stored.

        Args:
            run: its id.
            batch: the number of the batch.
            records: every cell that it lacks; others of its cells may be among them, if they are equal to what
                is stored.

        Raises:
            UsageError: a cell of another batch, or one that is lacking.
            StorageError: a stored cell has another result, or the disk failed: nothing of the batch is stored.
        """
        keys = self._batch(run, batch)
        rows = {record.key: cell_row(record) for record in records}
        if len(rows) < len(records) or not rows.keys() <= set(keys):
            raise UsageError(f"cells that are not in batch {batch} of run {run}, or twice", "each of its own once")
        # Damaged ones are set aside before, so that they are stored anew.
        known = {key: cell_row(record) for key, record in self.get(keys).items()}
        with storage_errors(self._path):
            staged = self._blobs.stage(record.tensors for record in records if record.tensors is not None)
        try:
            self._reached("staged")
            with self._database.writing() as connection:
                self._check_commit(connection, run, keys, rows)
                self._blobs.publish(staged)
                self._reached("published")
                new = [row for key, row in rows.items() if key not in known]
                connection.executemany("INSERT OR IGNORE INTO cells VALUES (?, ?, ?, ?, ?)", new)
                self._reached("inserted")
            self._reached("committed")
        finally:
            self._blobs.discard(staged)
