"""What texts are: documents in a fixed order, that can be gone through again; given, shuffled or split.

Knows neither files nor tokens.
"""

import hashlib
import random
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from typing_extensions import override

from bathyscope.errors import StorageError, UsageError

SPOOLED = 64 * 2**20
"""Bytes of shuffled documents that are kept in memory; more go to a temporary file."""


class Texts(ABC):
    """Documents in a fixed order; blank ones are left out."""

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The documents, one at a time; every call gives the same ones."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Where they come from, as JSON values, without the paths of a machine."""


def given_texts(documents: Sequence[str]) -> Texts:
    """Documents from memory.

    Raises:
        UsageError: there is none that is not blank.
        StorageError: one of them is no text.

    Example:
        >>> from bathyscope.texts import given_texts
        >>> list(given_texts(["One.", "Two."]).documents())
        ['One.', 'Two.']
    """
    if isinstance(documents, str):
        raise UsageError("one text was given", "a sequence of documents", "given_texts([text])")
    for number, document in enumerate(documents):
        checked(f"document {number}", document)
    kept = tuple(document for document in documents if document.strip())
    if not kept:
        raise UsageError(f"{len(documents)} documents were given, none with a word in it", "at least one is needed")
    return _Given(kept)


def split_texts(texts: Texts, *, held_out: float = 0.1) -> tuple[Texts, Texts]:
    """Part documents in those to fit on and those held out: the last share of them, at least one.

    Args:
        texts: the documents; they are counted, so they are gone through once.
        held_out: share of the documents that is held out, more than 0 and less than 1.

    Returns:
        To fit on, and held out.

    Raises:
        UsageError: one side would be empty.

    Example:
        >>> from bathyscope.texts import given_texts, split_texts
        >>> fit, held_out = split_texts(given_texts(["One.", "Two.", "Three."]), held_out=0.3)
        >>> list(fit.documents()), list(held_out.documents())
        (['One.', 'Two.'], ['Three.'])
    """
    if not 0 < held_out < 1:
        raise UsageError(f"held_out={held_out} was given", "a share of more than 0 and less than 1", "held_out=0.1")
    count = sum(1 for _ in texts.documents())
    last = max(1, round(held_out * count))
    if count - last < 1:
        raise UsageError(
            f"{count} document{'s were' if count != 1 else ' was'} to be split, {held_out:.0%} held out",
            "each side needs a document",
            "a text of more documents: headings, form feeds or blank lines part plain text",
        )
    sides = ("to fit on", 0, count - last), ("held out", count - last, count)
    fit, kept = (_Side(texts, name, first, stop, count, held_out) for name, first, stop in sides)
    return fit, kept


@dataclass(frozen=True)
class Shuffled(Texts):
    """Documents in an order that a seed decides.

    They are copied to a temporary file where they are many, so that only their places are in memory.

    Args:
        texts: the documents.
        seed: decides the order.
    """

    texts: Texts
    seed: int

    @override
    def documents(self) -> Iterator[str]:
        with tempfile.SpooledTemporaryFile(SPOOLED) as file:
            try:
                places = [(file.tell(), file.write(document.encode())) for document in self.texts.documents()]
            except OSError as error:
                given = f"the documents could not be shuffled ({error.strerror or error})"
                raise StorageError(given, f"room for them in {tempfile.gettempdir()} is needed", "seed=None") from error
            random.Random(self.seed).shuffle(places)
            for first, size in places:
                file.seek(first)
                yield file.read(size).decode()

    @override
    def describe(self) -> dict[str, Any]:
        return {**self.texts.describe(), "seed": self.seed}


def checked(where: str, value: object) -> str:
    """A value that must be text.

    Raises:
        StorageError: it is something else, or has half a character in it, which no tokenizer reads.
    """
    if not isinstance(value, str):
        raise StorageError(f"{where} is {called(value)}", "text is needed")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        given = f"{where} has half a character (a lone surrogate) at character {error.start}"
        raise StorageError(given, "whole characters are needed") from None
    return value


def called(value: object) -> str:
    """What JSON calls a value."""
    names = {list: "a list", dict: "an object", str: "a string", type(None): "null", bool: "a truth value"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


def sha256_of(documents: Iterable[str]) -> str:
    """SHA-256 of documents, their bounds included."""
    digest = hashlib.sha256()
    for document in documents:
        content = document.encode()
        digest.update(f"{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Given(Texts):
    given: tuple[str, ...]

    @override
    def documents(self) -> Iterator[str]:
        return iter(self.given)

    @override
    def describe(self) -> dict[str, Any]:
        return {
            "name": "given",
            "format": "memory",
            "n_documents": len(self.given),
            "sha256": sha256_of(self.given),
        }


@dataclass(frozen=True)
class _Side(Texts):
    texts: Texts
    name: str
    first: int
    stop: int
    count: int
    held_out: float

    @override
    def documents(self) -> Iterator[str]:
        return islice(self.texts.documents(), self.first, self.stop)

    @override
    def describe(self) -> dict[str, Any]:
        part = {"part": self.name, "first": self.first, "stop": self.stop, "of": self.count, "held_out": self.held_out}
        return {**self.texts.describe(), "split": part}
