"""Config: a JSON file of somebody else's, read within limits, and asked for by name and kind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from bathyscope.errors import StorageError

MOST_BYTES: Final = 2**22
"""Bytes of a config file. Published ones have a few thousand."""

MOST_DEPTH: Final = 32
"""Objects within objects. Published files have three."""

T = TypeVar("T")
_NEEDED: Final[Any] = object()


@dataclass(frozen=True)
class Config:
    """A JSON object, and the file that it stands in.

    Example:
        >>> from pathlib import Path
        >>> from bathyscope.sae.formats.config import Config
        >>> found = Config(Path("cfg.json"), {"k": 32, "skip": None})
        >>> found.get("k", int), found.get("skip", bool, False)
        (32, False)
    """

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Config":
        """Read a file.

        Raises:
            StorageError: it is missing, too large, no JSON object, nested too deeply, or has a NaN in it.
        """
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError(f"it has {path.stat().st_size:,} bytes")
            values = json.loads(path.read_bytes(), parse_constant=_refuse_number)
            if not isinstance(values, dict):
                raise TypeError(f"it holds a {type(values).__name__}")
            if _depth(values) > MOST_DEPTH:
                raise ValueError("it is nested too deeply")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise StorageError(
                f"{path} could not be read ({type(error).__name__}: {error})",
                f"a JSON object of at most {MOST_BYTES:,} bytes is needed",
            ) from error
        return cls(path, values)

    def get(self, name: str, kind: type[T], default: T | None = _NEEDED) -> T:
        """A value of one kind, or the default where it is missing or null.

        Raises:
            StorageError: it is of another kind, or missing where there is no default.
        """
        value = self.values.get(name)
        if value is None and default is not _NEEDED:
            return default  # type: ignore[return-value]
        # To Python, True is a number.
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            self.refuse(f"has {name}={value!r:.60}" if name in self.values else f"has no {name}", kind.__name__)
        return value

    def size(self, name: str) -> int:
        """A number from 1.

        Raises:
            StorageError: it is missing, or something else.
        """
        value = self.get(name, int)
        if value < 1:
            self.refuse(f"has {name}={value}", "a number from 1")
        return value

    def part(self, name: str) -> "Config":
        """An object within this one; an empty one where it is missing."""
        return Config(self.path, self.get(name, dict, {}))

    def refuse(self, why: str, expected: str = "", remedy: str = "") -> NoReturn:
        """Say that the file is not what it should be."""
        raise StorageError(f"{self.path} {why}", f"{expected} is needed" if expected else "", remedy)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _depth(value: object) -> int:
    """How many containers stand within one another; counted by level, since a deep file must not exhaust the stack."""
    depth, level = 0, [value]
    while level := [
        child
        for one in level
        if isinstance(one, (dict, list))
        for child in (one.values() if isinstance(one, dict) else one)
    ]:
        depth += 1
    return depth
