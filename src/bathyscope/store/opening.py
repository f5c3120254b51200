"""Opening a store: where it is; who is alone creates, repairs and clears up; who is not shares."""

import os
from contextlib import closing
from pathlib import Path

from bathyscope.errors import StorageError
from bathyscope.store.blobs import Blobs
from bathyscope.store.database import CommitFile, Database, connect, n_commits
from bathyscope.store.locks import FileLock
from bathyscope.store.records import Incident, tell
from bathyscope.store.repair import DamagedError, examine, prepare

OPENING_SECONDS = 60.0


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


def open_database(
    path: Path, blobs: Blobs, commits: CommitFile, lock: FileLock, incidents: list[Incident], *, durable: bool
) -> Database:
    """Open the database, and hold the lock in common with all who have it open.

    Args:
        path: the database file, which need not exist.
        blobs: those beside it, cleared of temporary files.
        commits: how many commits the database should hold.
        lock: the store's own; it is held when this returns.
        incidents: is added to when something is repaired.
        durable: see `Store`.

    Raises:
        StorageError: it is damaged and in use, another program's or a newer version's.
    """
    for last in (False, True):
        alone = lock.acquire(exclusive=True)
        if alone:
            try:
                _clear_up(path, blobs, commits, incidents)
            finally:
                lock.release()
        if not lock.acquire(exclusive=False, patience=OPENING_SECONDS):
            raise StorageError(
                f"{path} is being repaired by process {lock.owner()}", "", "the same command when that has ended"
            )
        try:
            if not alone:
                examine(path)
            return Database(path, durable=durable)
        except DamagedError as damage:
            lock.release()
            # The other was killed while repairing, or is at work; only one round more tells which.
            if last:
                raise _damaged_and_in_use(path, damage) from damage
        except BaseException:
            lock.release()
            raise
    raise AssertionError("the second round returns or raises")


def _damaged_and_in_use(path: Path, damage: DamagedError) -> StorageError:
    return StorageError(
        f"{path} is damaged ({damage}), and another process is using it",
        "what can be read of it is kept when it is opened by one alone",
        "the same command when the others have ended",
    )


def _clear_up(path: Path, blobs: Blobs, commits: CommitFile, incidents: list[Incident]) -> None:
    repaired = prepare(path)
    for incident in repaired:
        tell(incidents, incident)
    with closing(connect(path)) as connection:
        held, acknowledged = n_commits(connection), commits.read()
    # A repair has told already that something may be missing.
    if held < acknowledged and not repaired:
        message = (
            f"{path} has lost its latest {acknowledged - held} commits: its write-ahead log was cut off or deleted,"
            f" or an older copy put in its place; they are computed again when asked for"
        )
        tell(incidents, Incident("lost", acknowledged - held, message))
    if held != acknowledged:
        commits.write(held)
    if count := blobs.remove_leftovers():
        message = f"{count} temporary files of a killed process were removed from {blobs.folder}"
        tell(incidents, Incident("leftovers", count, message))
