"""How much one request may bring, for how long, and how many there may be at once.

A body is read whole, within its limits, before anything looks at it.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bathyscope.errors import UsageError
from bathyscope.web.answers import refuse

BODY_BYTES = 2**20
BODY_SECONDS = 10.0
URL_BYTES = 2048
HEAD_BYTES = 32 * 2**10
AT_ONCE = 256
"""Requests under way, those that stream among them."""


class Limits:
    """Refuses what is too large, too slow, too much, or not JSON.

    Args:
        app: what is behind.
        body_seconds: how long a body may take to come.
        at_once: how many requests may be under way.
    """

    def __init__(self, app: ASGIApp, *, body_seconds: float = BODY_SECONDS, at_once: int = AT_ONCE) -> None:
        self._app, self._seconds, self._at_once = app, body_seconds, at_once
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._at_once:
            busy = UsageError("too many requests are under way", f"at most {self._at_once} at once", "it again")
            await refuse(send, 503, busy, (b"retry-after", b"1"))
            return
        self._under_way += 1
        try:
            await self._limited(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value for name, value in scope["headers"]}
        if refusal := _refusal(scope, headers):
            await refuse(send, *refusal)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await _body(receive)
        except TimeoutError:
            await refuse(send, 408, UsageError("the request's body did not come", f"within {self._seconds:g} s"))
            return
        if body is None:
            return
        if len(body) > BODY_BYTES:
            await refuse(send, 413, _too_large())
            return
        if body and headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
            # Pages elsewhere may send forms and plain text without asking, but not this.
            await refuse(send, 415, UsageError("the body is not JSON", "Content-Type: application/json"))
            return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)


def _refusal(scope: Scope, headers: dict[bytes, bytes]) -> tuple[int, UsageError] | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > URL_BYTES:
        return 414, UsageError("a long address was given", f"at most {URL_BYTES} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
        return 431, UsageError("large headers were sent", f"at most {HEAD_BYTES:,} bytes together")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_BYTES:
        return 413, _too_large()
    if headers.get(b"content-encoding", b"identity") != b"identity":
        return 415, UsageError("the body is compressed", "it is sent as it is")
    return None


async def _body(receive: Receive) -> bytes | None:
    """What is sent, up to more than is allowed; None if the client left."""
    found, more = bytearray(), True
    while more and len(found) <= BODY_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        found += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(found)


def _too_large() -> UsageError:
    return UsageError("a large body was sent", f"at most {BODY_BYTES:,} bytes")
