"""Who may use the server: links that open it once, and the cookie that a browser gets in exchange.

A link's token stands behind the # of its address, which browsers send to nobody and servers cannot log.
"""

import hmac
import secrets
from http.cookies import CookieError, SimpleCookie

TOKEN_BYTES = 32


class Access:
    """The secrets of one server, which die with it.

    Args:
        port: of the server. Cookies of one host are shared by its ports, so that the cookie's name has it.

    Example:
        >>> from bathyscope.web.access import Access
        >>> access = Access(8000)
        >>> token = access.link().partition("#token=")[2]
        >>> access.enter(token), access.enter(token)
        (True, False)
    """

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self._name = f"bathyscope-{port}"
        self._secret = secrets.token_urlsafe(TOKEN_BYTES)
        self._unused: set[str] = set()

    def link(self) -> str:
        """A new address that opens the app, once."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        self._unused.add(token)
        return f"{self.origin}/#token={token}"

    def enter(self, token: str) -> bool:
        """Whether a token is that of an unused link, which it then is no longer."""
        given = token.encode()
        # All of them are compared, so that time tells nothing.
        found = [one for one in self._unused if hmac.compare_digest(one.encode(), given)]
        self._unused.difference_update(found)
        return bool(found)

    def cookie(self) -> str:
        """The header that gives a browser its cookie: of this site's own requests, and out of scripts' reach."""
        return f"{self._name}={self._secret}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, header: str) -> bool:
        """Whether a Cookie header has the cookie."""
        try:
            found = SimpleCookie(header).get(self._name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._secret.encode())
