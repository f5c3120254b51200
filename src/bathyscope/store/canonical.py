"""Canonical JSON, and the hashes made from it: the same values always give the same key."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from bathyscope.errors import UsageError


def canonical(value: Any) -> str:
    """Write JSON values in the one way that counts: sorted names, no spaces, shortest floats, text as it is.

    `1`, `1.0` and `True` stay apart, and so do `0.0` and `-0.0`: each is read back as what it was. Keeping them
    apart costs at most a second computation; taking them for one could give one cell the result of another. A
    tuple is written as a list.

    Args:
        value: text, numbers, booleans, None, and lists and mappings of them; names are text.

    Raises:
        UsageError: NaN, an infinity, a name that is not text, or anything that JSON has no word for.

    Example:
        >>> from bathyscope.store import canonical
        >>> canonical({"scale": 1.0, "layers": (3, 7), "prompt": "Zürich"})
        '{"layers":[3,7],"prompt":"Zürich","scale":1.0}'
    """
    try:
        _check_names(value)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()  # half of a surrogate pair is text for Python and for nobody else
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"a value that cannot be stored was given ({error})", "text, finite numbers, lists and mappings can"
        ) from error
    return text


def spec_key(spec: Mapping[str, Any]) -> str:
    """Name a cell by what it is: the SHA-256 of its canonical spec, as 64 hex digits.

    Example:
        >>> from bathyscope.store import spec_key
        >>> spec_key({"method": "demo", "layer": 3}) == spec_key({"layer": 3, "method": "demo"})
        True
    """
    return sha256(canonical(spec).encode())


def sha256(content: bytes) -> str:
    """Hash bytes into 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def checksum(columns: Iterable[Any]) -> str:
    """Hash a row of the database, so that a damaged one is told from a whole one.

    Accepts whatever a damaged row may hold: bytes where text was, text that is not UTF-8.
    """
    return sha256(json.dumps(list(columns), default=repr).encode())


def _check_names(value: Any) -> None:
    # json.dumps would turn the name 1 into "1", and two different specs into one.
    if isinstance(value, Mapping):
        for name, one in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the name {name!r} is not text")
            _check_names(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _check_names(one)
