"""Ctrl-C: once ends the run with all that is finished kept, twice ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from bathyscope.cli import terminal

if TYPE_CHECKING:
    from bathyscope.engine import Stop


@contextmanager
def stoppable() -> "Iterator[Stop]":
    """Yield a `Stop` that Ctrl-C sets, and put the former handler back afterwards."""
    from bathyscope.engine import Stop

    stop = Stop()

    def interrupted(_signal: int, _frame: FrameType | None) -> None:
        if stop.soon:
            stop.now = True
            # Whoever presses a third time wants out, wherever the program is.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        else:
            stop.soon = True
            terminal.note("finishing the batch under way, then stopping; Ctrl-C again stops at once")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former = signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, former)
