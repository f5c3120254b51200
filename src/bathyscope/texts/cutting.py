"""Windows of tokens: documents cut to one length for a model, or into stretches that two models share."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, TypeVar

from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.texts.base import Texts

Window = TypeVar("Window")


def windows(model: Model, texts: Texts, *, length: int = 128, limit: int | None = None) -> Iterator[Tokens]:
    """Cut every document into consecutive windows of tokens, in order.

    A window has exactly `length` tokens. What remains at the end of a document is a window of its own
    if it has at least `length // 2` of them, and is left out otherwise; so is a shorter document. What
    special tokens the tokenizer puts at the beginning of a text begin every window, and count.

    Args:
        model: the model that reads them.
        texts: the documents.
        length: tokens of a window.
        limit: at most so many windows.

    Yields:
        Tokens without `texts`, which would take long to make; their text is the window's.

    Raises:
        UsageError: the model has no positions for the length, or the texts have no window.

    Example:
        >>> import bathyscope
        >>> from bathyscope.texts import given_texts, windows
        >>> texts = given_texts(["One two three four five six seven eight nine"])
        >>> [window.text for window in windows(bathyscope.load(), texts, length=4)]
        ['One two three four', ' five six seven eight']
    """
    reader = _Reader(model, length)
    _check_limit(limit)
    return islice(_never_none(_windows(reader, texts), texts, reader), limit)


@dataclass(frozen=True)
class AlignedWindow:
    """The same stretch of text as two models read it.

    Args:
        source: the one model's tokens.
        target: the other's.
        pairs: token indices, (source, target), that end at the same character, in order.
    """

    source: Tokens
    target: Tokens
    pairs: tuple[tuple[int, int], ...]


def aligned_windows(
    source: Model, target: Model, texts: Texts, *, length: int = 128, limit: int | None = None
) -> Iterator[AlignedWindow]:
    """Cut every document into consecutive windows that two models share, in order.

    A source token and a target token that end at the same character make a pair: up to there both
    have read the same. Where a character is cut into several tokens, the last ones pair, and the
    others too if both tokenizers cut it into the same pieces. Special tokens that a tokenizer adds
    have no characters and never pair.

    Windows begin and end where tokens of both end, and are as long as they can be with neither side
    above `length` tokens. One in which neither side has `length // 2` tokens is left out, and so is a
    stretch of more than `length` tokens in which no two tokens end together.

    Args:
        source: one model.
        target: the other; with one and the same tokenizer every token of the text pairs with itself.
        texts: the documents.
        length: most tokens that a window has on either side, special ones included.
        limit: at most so many windows.

    Raises:
        UsageError: a model has no positions for the length, or the texts have no window.

    Example:
        >>> import bathyscope
        >>> from bathyscope.texts import aligned_windows, given_texts
        >>> model = bathyscope.load()
        >>> window = next(aligned_windows(model, model, given_texts(["One two three four"]), length=3))
        >>> window.source.text, window.pairs
        ('One two three', ((0, 0), (1, 1), (2, 2)))
    """
    readers = _Reader(source, length), _Reader(target, length)
    _check_limit(limit)
    return islice(_never_none(_aligned(*readers, texts), texts, *readers), limit)


def _windows(reader: "_Reader", texts: Texts) -> Iterator[Tokens]:
    for document in texts.documents():
        read = reader.read(document)
        for first in range(0, len(read.ids), reader.room):
            stop = min(first + reader.room, len(read.ids))
            if reader.enough(stop - first):
                yield reader.window(read, first, stop)


def _aligned(source: "_Reader", target: "_Reader", texts: Texts) -> Iterator[AlignedWindow]:
    for document in texts.documents():
        reads = source.read(document), target.read(document)
        for (i, j), (i_stop, j_stop) in _stretches(*reads, source.room, target.room):
            if source.enough(i_stop - i) or target.enough(j_stop - j):
                windows = source.window(reads[0], i, i_stop), target.window(reads[1], j, j_stop)
                yield AlignedWindow(*windows, tuple(_pairs(source, target, *windows)))


Place = tuple[int, int]
"""How many tokens of either side stand before a character at which tokens of both end."""


def _stretches(source: "_Read", target: "_Read", room: int, target_room: int) -> Iterator[tuple[Place, Place]]:
    """From where to where windows reach, as far as both sides have room."""
    before, others = ({end: index + 1 for index, end in enumerate(read.ends)} for read in (source, target))
    start = stop = (0, 0)
    for end, number in before.items():
        if end not in others:
            continue
        place = number, others[end]
        if place[0] - start[0] > room or place[1] - start[1] > target_room:
            if stop != start:
                yield start, stop
                start = stop
            if place[0] - start[0] > room or place[1] - start[1] > target_room:
                start = place  # what lies between has no window
        stop = place
    if stop != start:
        yield start, stop


def _pairs(source: "_Reader", target: "_Reader", window: Tokens, other: Tokens) -> Iterator[Place]:
    """Token indices of a window that end at the same character of it."""
    ours, theirs = source.by_end(window), target.by_end(other)
    for end, indices in ours.items():
        others = theirs.get(end, [])
        if len(indices) == len(others) > 1 and source.pieces(window, indices) == target.pieces(other, others):
            yield from zip(indices, others, strict=True)
        elif others:
            yield indices[-1], others[-1]


@dataclass(frozen=True)
class _Read:
    """A document's tokens without special ones, and the characters that they begin and end at; ends never decrease."""

    document: str
    ids: list[int]
    starts: list[int]
    ends: list[int]


class _Reader:
    """How a model reads documents: its tokenizer, and the special tokens that begin each window."""

    def __init__(self, model: Model, length: int) -> None:
        if not model.tokenizer.is_fast:
            given = f"{model.name} has a slow tokenizer"
            raise UsageError(given, "where tokens stand in a text is told by a fast one only")
        if model.max_length is not None and length > model.max_length:
            given, most = f"windows of {length} tokens were asked for", model.max_length
            raise UsageError(given, f"{model.name} reads at most {most}", f"length={most}")
        self.model, self.length = model, length
        plain, whole = self._encode("a")["input_ids"], model.tokenizer("a")["input_ids"]
        # Of special tokens only those before the text are kept: a window is no whole text, and ends nothing.
        self.special: tuple[int, ...] = tuple(whole[: _index(whole, plain)])
        self.room = length - len(self.special)
        if self.room < 1:
            raise UsageError(f"windows of {length} tokens were asked for", f"at least {len(self.special) + 1}")

    def read(self, document: str) -> _Read:
        """Tokenize a document."""
        encoded = self._encode(document)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        # A document may begin with the text of the special tokens: they are not to stand there twice.
        n_written = len(self.special) if self.special and tuple(ids[: len(self.special)]) == self.special else 0
        ends = list(accumulate((int(end) for _, end in offsets), max))
        starts = [int(start) for start, _ in offsets[n_written:]]
        return _Read(document, ids[n_written:], starts, ends[n_written:])

    def size(self, document: str) -> int:
        """Tokens of a document, special ones included."""
        return len(self.special) + len(self.read(document).ids)

    def enough(self, n_tokens: int) -> bool:
        """Whether so many tokens of a text make a window."""
        return n_tokens > 0 and n_tokens + len(self.special) >= self.length // 2

    def window(self, read: _Read, first: int, stop: int) -> Tokens:
        """The tokens from `first` to before `stop`, behind the special ones."""
        begin, end = read.ends[first - 1] if first else 0, read.ends[stop - 1]
        offsets = ((max(read.starts[index], begin) - begin, read.ends[index] - begin) for index in range(first, stop))
        return Tokens(
            read.document[begin:end],
            (*self.special, *read.ids[first:stop]),
            (),
            (*[(0, 0)] * len(self.special), *offsets),
        )

    def by_end(self, window: Tokens) -> dict[int, list[int]]:
        """Token indices by the character that they end at; those that stand for no character are left out."""
        found: dict[int, list[int]] = {}
        for index, (_, end) in enumerate(window.offsets):
            if end:
                found.setdefault(end, []).append(index)
        return found

    def pieces(self, window: Tokens, indices: list[int]) -> list[str]:
        """Tokens as the tokenizer itself writes them."""
        return list(self.model.tokenizer.convert_ids_to_tokens([window.ids[index] for index in indices]))

    def _encode(self, text: str) -> Any:
        # verbose=False: a document longer than the model is no mistake here, since it is cut.
        return self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)


def _index(whole: list[int], part: list[int]) -> int:
    """Where a part begins."""
    return next(index for index in range(len(whole)) if whole[index : index + len(part)] == part)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"limit={limit} was given", "at least 1, or None for no limit")


def _never_none(found: Iterator[Window], texts: Texts, *readers: _Reader) -> Iterator[Window]:
    """The windows, having made sure that there is one."""
    one = next(found, None)
    if one is None:
        sizes = [max(reader.size(document) for reader in readers) for document in texts.documents()]
        longest, length = max(sizes, default=0), readers[0].length
        together = ", up to a character at which tokens of both end" if len(readers) > 1 else ""
        raise UsageError(
            f"the text makes no window: of {len(sizes)} documents the longest has {longest} tokens",
            f"a window of length={length} needs {length // 2}{together}",
            f"longer documents, or length={max(2, min(2 * longest, length // 2))}",
        )
    yield one
    yield from found
