"""Reads the rows of a damaged database page by page, without the tree that leads to them.

Works from the bytes alone, after https://www.sqlite.org/fileformat2.html, so that a broken header, root or
inner page costs no more than its own rows. It may find rows that are damaged, deleted or found twice: which of
them count is for the caller to tell, by the checksum that each carries.
"""

from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any

PAGE = 4096
_LOG_HEADER, _FRAME_HEADER = 32, 24

# Tables WITHOUT ROWID are kept in the pages that SQLite has for indices: leaves, and inner pages with rows too.
_LEAF, _INNER = 0x0A, 0x02


def rows(database: bytes | mmap, log: bytes = b"", since: int | None = None) -> Iterator[list[Any]]:
    """Find everything in a database that has the form of a row of a table WITHOUT ROWID.

    Args:
        database: the bytes of the file.
        log: the bytes of its write-ahead log.
        since: the number of a frame of the log, to look only from there on.

    Returns:
        One list of columns each: int, None, bytes, or text where bytes that are not UTF-8 are surrogates.
    """
    frames = list(_frames(log))
    logged = dict(frames)  # the latest of each page

    def stored(number: int) -> bytes:
        return database[(number - 1) * PAGE : number * PAGE]

    def latest(number: int) -> bytes:
        return logged.get(number) or stored(number)

    for number in range(1, -(-len(database) // PAGE) + 1) if since is None else ():
        yield from _page_rows(number, stored(number), stored)
        if frames:  # a row of an old page may go on in a new one, and where the log is damaged it may not
            yield from _page_rows(number, stored(number), latest)
    for number, page in frames[since:]:
        yield from _page_rows(number, page, latest)


def _frames(log: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(_LOG_HEADER, len(log) - _FRAME_HEADER, _FRAME_HEADER + PAGE):
        yield _integer(log[at : at + 4]), log[at + _FRAME_HEADER : at + _FRAME_HEADER + PAGE]


def _page_rows(number: int, page: bytes, fetch: Callable[[int], bytes]) -> Iterator[list[Any]]:
    start = 100 if number == 1 else 0
    if len(page) < PAGE or page[start] not in (_LEAF, _INNER):
        return
    leaf = page[start] == _LEAF
    pointers = start + (8 if leaf else 12)
    for index in range(_integer(page[start + 3 : start + 5])):
        at = _integer(page[pointers + 2 * index : pointers + 2 * index + 2])
        try:
            yield _columns(_payload(page, at if leaf else at + 4, fetch))
        except (IndexError, ValueError):
            continue  # not a row, or no longer one


def _payload(page: bytes, at: int, fetch: Callable[[int], bytes]) -> bytes:
    size, at = _varint(page, at)
    largest = (PAGE - 12) * 64 // 255 - 23
    if size <= largest:
        return page[at : at + size]
    smallest = (PAGE - 12) * 32 // 255 - 23
    local = smallest + (size - smallest) % (PAGE - 4)
    local = local if local <= largest else smallest
    parts, missing = [page[at : at + local]], size - local
    following = _integer(page[at + local : at + local + 4])
    seen = set()
    while missing > 0:
        overflow = fetch(following) if following and following not in seen else b""
        if len(overflow) < PAGE:
            raise ValueError("the chain of overflow pages breaks off")
        seen.add(following)
        parts.append(overflow[4 : 4 + missing])
        missing -= len(parts[-1])
        following = _integer(overflow[:4])
    return b"".join(parts)


def _columns(payload: bytes) -> list[Any]:
    header, at = _varint(payload, 0)
    kinds = []
    while at < header:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    columns = []
    for kind in kinds:
        size = _size(kind)
        columns.append(_value(kind, payload[at : at + size]))
        at += size
    if at != len(payload):
        raise ValueError("the columns do not fill the row")
    return columns


def _size(kind: int) -> int:
    if kind >= 12:
        return (kind - 12) // 2
    return (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)[kind]


def _value(kind: int, raw: bytes) -> Any:
    if kind == 0:
        return None
    if kind in (8, 9):
        return kind - 8
    if kind < 7:
        return int.from_bytes(raw, "big", signed=True)
    return raw.decode("utf-8", "surrogateescape") if kind >= 13 and kind % 2 else raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if not data[place] & 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
