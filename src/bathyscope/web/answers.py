"""What the server says when it refuses: the library's own three sentences, as JSON."""

import json
from typing import Any

from starlette.types import Send

from bathyscope.errors import BathyscopeError

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types svelte-trusted-html",
    )
)
"""What a page of ours may load: nothing but its own files. Markup is made by the framework's templates alone."""

HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
)
"""What every answer carries."""


def record(error: BathyscopeError) -> dict[str, Any]:
    """An error as JSON values.

    Example:
        >>> from bathyscope.errors import UsageError
        >>> from bathyscope.web.answers import record
        >>> record(UsageError("layer 40 was given", "the model has layers -1 to 29"))["message"]
        'layer 40 was given; the model has layers -1 to 29'
    """
    return {"message": str(error), "given": error.given, "expected": error.expected, "remedy": error.remedy}


async def refuse(send: Send, status: int, error: BathyscopeError, *more: tuple[bytes, bytes]) -> None:
    """Answer a request that goes no further; the connection is closed, whatever else it would bring."""
    body = json.dumps({"error": record(error)}, ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
