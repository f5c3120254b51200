"""Who may ask, and from where: decided before anything reads the request's body.

Every method is checked alike; a list of dangerous ones is a list that misses one. A page elsewhere can make a browser
send requests here, also under a name of its own that it has pointed at this machine: so the Host must be ours, and
what the browser says of a request's origin must be this very page.
"""

from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bathyscope.errors import UsageError
from bathyscope.web.access import Access
from bathyscope.web.answers import HEADERS, refuse

METHODS = ("GET", "HEAD", "POST", "DELETE")
OPEN = ("/api/health", "/api/enter")
"""What is answered without a cookie, besides the app's own files, which hold no secret."""
NEW_LINK = "the address that bathyscope serve prints when it is started again"


class Guard:
    """Lets through what comes from the app's own page, or from whoever has its cookie.

    Args:
        app: what is guarded.
        access: the server's secrets.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access
        self._host = access.origin.removeprefix("http://")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # nothing here is a web socket
            await send({"type": "websocket.close", "code": 1008})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if refusal := self._refusal(scope):
            await refuse(with_headers, *refusal)
            return
        await self._app(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, UsageError] | None:
        """Why a request goes no further, with its status; None where it does."""
        given: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            given.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if given.get("host") != [self._host]:
            return 421, UsageError("another Host was named", f"this server is {self._host}", self._access.origin)
        if given.get("origin", [self._access.origin]) != [self._access.origin] or not _own(given):
            return 403, UsageError("the request came from another site", "only the app's own page may ask")
        if scope["method"] not in METHODS:
            return 405, UsageError(f"the method {scope['method'][:20]} was used", f"methods are {', '.join(METHODS)}")
        path = scope["path"]
        if path.startswith("/api/") and path not in OPEN and not self._access.knows("; ".join(given.get("cookie", ()))):
            return 401, UsageError(
                "no cookie of this server came with the request", "its link was not opened", NEW_LINK
            )
        return None


def _own(given: dict[str, Sequence[str]] | dict[str, list[str]]) -> bool:
    """Whether the browser, if it is one, says that the request is this site's own or a person's."""
    return all(site in ("same-origin", "none") for site in given.get("sec-fetch-site", ()))
