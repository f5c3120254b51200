"""The one thread that runs models, the jobs that wait for it, and what they tell while they run.

Torch uses all cores for one job, so that two at once would both be late. A job that nobody listens to any more is
stopped at the next decoding step.
"""

import asyncio
import json
import logging
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeError
from bathyscope.web.answers import record

WAITING = 16
"""Jobs that may wait."""

logger = logging.getLogger(__name__)


class BusyError(BathyscopeError):
    """As many jobs wait as may wait."""


class Job:
    """One piece of work and what it has told so far that nobody has read.

    Args:
        work: what is done, in the worker's thread; it is given the job.
        loop: where the messages are read.
    """

    def __init__(self, work: "Callable[[Job], None]", loop: asyncio.AbstractEventLoop) -> None:
        self.work, self.stop = work, Stop()
        self._loop = loop
        self._told: deque[dict[str, Any] | None] = deque()
        self._changed = asyncio.Event()

    def tell(self, event: str, **content: Any) -> None:
        """Add a message, from any thread."""
        self._add({"event": event, **content})

    def end(self) -> None:
        """Nothing more will be told."""
        self._add(None)

    async def lines(self) -> AsyncIterator[bytes]:
        """Messages, a line of JSON each, until the job has ended."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._told:
                message = self._told.popleft()
                if message is None:
                    return
                yield json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n"

    def _add(self, message: dict[str, Any] | None) -> None:
        with suppress(RuntimeError):  # the server is gone, and nobody reads
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: dict[str, Any] | None) -> None:
        last = self._told[-1] if self._told else None
        # Whoever reads slowly needs the latest only, so that what waits for them does not grow.
        if message and last and message["event"] == last["event"] == "texts":
            last["texts"] = last["texts"] | message["texts"]
        elif message and last and message["event"] == last["event"] == "progress":
            last.update(message)
        else:
            self._told.append(message)
        self._changed.set()


class Worker:
    """A thread and its bounded queue.

    Args:
        waiting: how many jobs may wait.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name="bathyscope-models", daemon=True)
        self._current: Job | None = None
        self._ended = False
        self._first: Callable[[], None] = lambda: None

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return self._current is None and self._queue.empty()

    def start(self, first: Callable[[], None] = lambda: None) -> None:
        """Begin to work.

        Args:
            first: done in the thread before any job.
        """
        self._first = first
        self._thread.start()

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Queue work from the event loop's thread.

        Raises:
            BusyError: as many jobs wait as may.
        """
        job = Job(work, asyncio.get_running_loop())
        job.tell("queued", ahead=self._queue.qsize() + (self._current is not None))
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            given, expected = "too much is asked at once", f"{self._queue.maxsize} requests may wait for the model"
            raise BusyError(given, expected, "it again in a second") from None
        return job

    def close(self, seconds: float = 0.5) -> None:
        """Stop what runs, do nothing of what waits, and wait a little for the thread."""
        self._ended = True
        if self._current is not None:
            self._current.stop.now = True
        with suppress(queue.Full):
            self._queue.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        with suppress(Exception):  # whatever is wrong, the first question meets it too, and tells it
            self._first()
        while (job := self._queue.get()) is not None and not self._ended:
            self._current = job
            try:
                if not job.stop.now:
                    job.tell("started")
                    job.work(job)
            except CancelledError:
                job.tell("cancelled")
            except BathyscopeError as error:
                job.tell("error", error=record(error))
            except Exception as error:  # one job's fault is not the server's end
                logger.exception("a job failed")
                kind = type(error).__name__
                job.tell("error", error=record(BathyscopeError(f"internal error: {kind}", "", "bathyscope doctor")))
            finally:
                self._current = None
                job.end()
