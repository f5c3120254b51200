"""A job's messages as an answer that grows; whoever leaves cancels the job."""

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bathyscope.web.worker import Job

MEDIA_TYPE = "application/x-ndjson"


class Stream(Response):
    """Lines of JSON, sent as they are told.

    Args:
        job: what tells them.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})
        self._job = job
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the job ends or the client leaves."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Without effect where it has ended; else it ends at the next decoding step, and stores no half batch.
            self._job.stop.now = True
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        async for line in self._job.lines():
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
