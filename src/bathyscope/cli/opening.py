"""Opening a model while a person waits, and the store where results are kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bathyscope.cli import terminal
from bathyscope.embedded import EMBEDDED_NAME, embedded_path

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.store import Store


def open_model(
    name: str | None = None,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    attention: str | None = None,
    verify: bool = True,
    shown: bool = True,
) -> "Model":
    """`bathyscope.load`, with something to look at meanwhile.

    Raises:
        ModelError, StorageError: as `load` does.
    """
    if name in (None, EMBEDDED_NAME):
        # It shows its own progress where it has something to fetch, so that comes before the bar.
        embedded_path()
    with terminal.progress(f"loading {name or EMBEDDED_NAME}", shown=shown):
        from bathyscope.loading import load

        return load(name, revision=revision, dtype=dtype, attention=attention, verify=verify)


@contextmanager
def opened(*, stored: bool = True) -> "Iterator[Store | None]":
    """The store, or None where it is not wanted; what it found damaged and put right is said once."""
    if not stored:
        yield None
        return
    from bathyscope.store import Store

    with Store() as store:
        yield store
