"""Upkeep of a store: a run is deleted with what it alone has, everything is compared, blobs of no cell are removed."""

import json
from collections.abc import Iterable

from bathyscope.store.blobs import Blobs
from bathyscope.store.database import AMONG, Database
from bathyscope.store.reader import Reader
from bathyscope.store.records import CheckReport
from bathyscope.store.rows import RunRow, read_keys


def delete_run(run: RunRow, database: Database, blobs: Blobs) -> int:
    """Delete a run that nobody is computing, and those of its cells and blobs that no other run has.

    Returns:
        How many cells were deleted.
    """
    with database.writing() as connection:
        others = connection.execute("SELECT batches FROM runs WHERE id != ?", (run.id,))
        shared = {key for (text,) in others for key in read_keys(text)}
        doomed = json.dumps([key for key in run.keys if key not in shared])
        query = f"SELECT DISTINCT blob FROM cells WHERE blob IS NOT NULL AND key {AMONG}"
        names = [blob for (blob,) in connection.execute(query, (doomed,))]
        count = connection.execute(f"DELETE FROM cells WHERE key {AMONG}", (doomed,)).rowcount
        connection.execute("DELETE FROM runs WHERE id = ?", (run.id,))
    # Only now: were they removed before the commit, a kill would leave cells without their blobs.
    remove_unused(names, database, blobs)
    return count


def check_all(reader: Reader, database: Database, blobs: Blobs) -> CheckReport:
    """Read and compare everything; set aside what is damaged, remove blobs that no cell refers to.

    Raises:
        StorageError: the database's own structure is damaged.
    """
    counts = reader.check()
    orphans = remove_unused(blobs.names(), database, blobs)
    with database.reading() as connection:
        (total,) = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    return CheckReport(
        n_runs=counts["runs"],
        n_cells=counts["cells"],
        n_blobs=sum(1 for _ in blobs.names()),
        n_quarantined=counts["set aside"],
        n_in_quarantine=total,
        n_orphans=orphans,
    )


def remove_unused(names: Iterable[str], database: Database, blobs: Blobs) -> int:
    """Remove those of the blobs that no cell refers to; return how many there were."""
    with database.writing() as connection:
        used = {name for (name,) in connection.execute("SELECT blob FROM cells WHERE blob IS NOT NULL")}
        return blobs.remove([name for name in names if name not in used])
