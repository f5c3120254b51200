"""Reading with every checksum compared; what is damaged is set aside and is missing from then on."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence

from bathyscope.store.blobs import Blobs
from bathyscope.store.database import AMONG, Database
from bathyscope.store.failures import damaged_structure
from bathyscope.store.records import FinishedCell, Incident, tell
from bathyscope.store.rows import FaultyError, Row, RunRow, read_cell, read_run


class Reader:
    """Reads the rows of a database and their blobs, and compares.

    Args:
        database: where the rows are.
        blobs: where their tensors are.
        incidents: is added to when something is set aside.
    """

    def __init__(self, database: Database, blobs: Blobs, incidents: list[Incident]) -> None:
        self._database = database
        self._blobs = blobs
        self._incidents = incidents
        self._runs: dict[str, RunRow] = {}

    def cells(self, keys: Sequence[str]) -> dict[str, FinishedCell]:
        """Return those of the cells that are stored and whole."""
        whole: dict[str, FinishedCell] = {}
        faulty = []
        with self._database.reading() as connection:
            for row in connection.execute(f"SELECT * FROM cells WHERE key {AMONG}", (json.dumps(keys),)):
                try:
                    whole[row[0]] = self._read_cell(row)
                except FaultyError:
                    faulty.append(row[0])
        self._set_aside("cells", faulty)
        return whole

    def run(self, name: str) -> RunRow | None:
        """Return a run, or None where there is none or it is damaged."""
        with self._database.reading() as connection:
            found = connection.execute("SELECT checksum FROM runs WHERE id = ?", (name,)).fetchone()
            # A run never changes, so that the long list of its cells is read once.
            if found and name in self._runs and self._runs[name].checksum == found[0]:
                return self._runs[name]
            row = connection.execute("SELECT * FROM runs WHERE id = ?", (name,)).fetchone()
        if row is None:
            return None
        try:
            self._runs[name] = read_run(row)
        except FaultyError:
            self._set_aside("runs", [name])
            return None
        return self._runs[name]

    def check(self) -> dict[str, int]:
        """Read everything.

        Returns:
            How many "runs" and "cells" are whole, and how many of either were "set aside".

        Raises:
            StorageError: the database's own structure is damaged.
        """
        with self._database.reading() as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise damaged_structure(verdict)
            n_runs, faulty_runs = _tried(connection.execute("SELECT * FROM runs"), read_run)
            n_cells, faulty_cells = _tried(connection.execute("SELECT * FROM cells"), self._read_cell)
        aside = self._set_aside("runs", faulty_runs) + self._set_aside("cells", faulty_cells)
        return {"runs": n_runs, "cells": n_cells, "set aside": aside}

    def _read_cell(self, row: Row) -> FinishedCell:
        return read_cell(row, self._blobs)

    def _set_aside(self, table: str, names: Sequence[str]) -> int:
        if not names:
            return 0
        with self._database.writing() as connection:
            count = sum(self._set_one_aside(connection, table, name) for name in names)
        if count:
            what = f"{count} damaged {table.removesuffix('s')}{'' if count == 1 else 's'}"
            tell(self._incidents, Incident("quarantined", count, f"{what} set aside in {self._database.path}"))
        return count

    def _set_one_aside(self, connection: sqlite3.Connection, table: str, name: str) -> int:
        """Move a faulty row, or every row of a faulty blob and the blob itself, to the quarantine."""
        # The name may be damaged itself, and not UTF-8.
        where, value = f"{_NAMES[table]} = CAST(? AS TEXT)", name.encode("utf-8", "surrogateescape")
        row = connection.execute(f"SELECT * FROM {table} WHERE {where}", (value,)).fetchone()
        if row is None:
            return 0  # another process was first
        try:
            read_run(row) if table == "runs" else self._read_cell(row)
            return 0  # and has stored it anew
        except FaultyError as error:
            reason, blob = str(error), error.blob
        if blob is not None:
            self._blobs.set_aside(blob)
            where, value = "blob = ?", blob
        rows = connection.execute(f"SELECT * FROM {table} WHERE {where}", (value,)).fetchall()
        contents = [(table, reason, json.dumps(list(one), default=repr)) for one in rows]
        connection.executemany("INSERT INTO quarantine (kind, reason, content) VALUES (?, ?, ?)", contents)
        connection.execute(f"DELETE FROM {table} WHERE {where}", (value,))
        return len(rows)


_NAMES = {"cells": "key", "runs": "id"}


def _tried(rows: Iterable[Row], read: Callable[[Row], object]) -> tuple[int, list[str]]:
    whole, faulty = 0, []
    for row in rows:
        try:
            read(row)
            whole += 1
        except FaultyError:
            faulty.append(row[0])
    return whole, faulty
