"""The runs of a store: made, found, and how far each has come."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.store.canonical import canonical, checksum
from bathyscope.store.database import AMONG, Database
from bathyscope.store.reader import Reader
from bathyscope.store.records import RunInfo
from bathyscope.store.rows import RunRow, check_keys, keys_text, run_id


class Runs:
    """The runs in a database.

    Args:
        database: where they are.
        reader: what reads them and compares.
    """

    def __init__(self, database: Database, reader: Reader) -> None:
        self._database = database
        self._reader = reader

    def create(self, kind: str, spec: Mapping[str, Any], plan: Any, keys: Sequence[str]) -> str:
        """Make a run, or find the one of the same kind, spec and cells; return its id.

        Raises:
            UsageError: a key that is not 64 hex digits, or a cell that is named twice.
        """
        check_keys(keys)
        texts = canonical(spec), canonical(plan), keys_text(keys)
        run = run_id(kind, texts[0], texts[2])
        if self._reader.run(run) is None:
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
            which = "no runs" if not found else f"{len(found)} runs, {', '.join(found)},"
            raise UsageError(f"{which} in {self._folder} begin with {prefix!r}", "one must", "bathyscope runs list")
        return found[0]

    def all(self) -> list[RunRow]:
        """Return every run, the oldest first; damaged ones are set aside."""
        with self._database.reading() as connection:
            names = [name for (name,) in connection.execute("SELECT id FROM runs ORDER BY created, id")]
        found = (self._reader.run(name) for name in names)
        return [run for run in found if run is not None]

    def load(self, run: str) -> RunRow:
        """Return a run.

        Raises:
            UsageError: there is none of that id.
        """
        stored = self._reader.run(run)
        if stored is None:
            raise UsageError(f"there is no run {run!r} in {self._folder}", "", "bathyscope runs list")
        return stored

    def info(self, run: RunRow, n_done: int | None = None) -> RunInfo:
        """Say what is known of a run, with as many finished cells as were counted, or as are now."""
        n_done = len(self.stored(run.keys)) if n_done is None else n_done
        return RunInfo(run.id, run.kind, run.created, run.spec, run.plan, len(run.keys), n_done)

    def stored(self, keys: Collection[str]) -> set[str]:
        """Return those of the keys whose cells are stored, by this run or another, without reading these."""
        with self._database.reading() as connection:
            query = f"SELECT key FROM cells WHERE key {AMONG}"
            return {key for (key,) in connection.execute(query, (json.dumps(list(keys)),))}

    @property
    def _folder(self) -> str:
        return str(self._database.path.parent)
