"""SQLite's file format, read from the bytes alone: the rows of a damaged database, and where its log breaks off.

Rows are found page by page, without the tree that leads to them, after https://www.sqlite.org/fileformat2.html: so
a broken header, root or inner page costs no more than its own rows. They may be damaged, deleted or found twice:
which of them count is for the caller to tell, by the checksum that each carries.
"""

from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any

PAGE = 4096

# The write-ahead log: a header of 32 bytes, the last 8 a checksum of the rest; then frames, each of 24 bytes and a
# page. Bytes 8 to 16 of a frame repeat the header's salt, which changes when the log is begun anew; bytes 4 to 8
# are not zero where a transaction is complete.
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


def goes_on(log: bytes, understood: int) -> bool:
    """Say whether a complete transaction lies behind the part of a write-ahead log that SQLite took for whole.

    A killed writer leaves frames behind the end as well, but no complete transaction.

    Args:
        log: the bytes of the log.
        understood: how many of its frames SQLite took.
    """
    if len(log) <= _LOG_HEADER:
        return False
    if not _is_whole_header(log[:_LOG_HEADER]):
        return True
    size = _FRAME_HEADER + PAGE
    heads = [log[at : at + 16] for at in range(_LOG_HEADER + understood * size, len(log) - size + 1, size)]
    return any(head[8:] == log[16:24] and any(head[4:8]) for head in heads)


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


def _is_whole_header(header: bytes) -> bool:
    if header[:3] + bytes([header[3] & 0xFE]) != b"\x37\x7f\x06\x82":
        return False
    order = "big" if header[3] & 1 else "little"
    words = [int.from_bytes(header[at : at + 4], order) for at in range(0, 24, 4)]
    one = other = 0
    for left, right in zip(words[::2], words[1::2], strict=True):
        one = (one + left + other) & 0xFFFFFFFF
        other = (other + right + one) & 0xFFFFFFFF
    return header[24:] == one.to_bytes(4, "big") + other.to_bytes(4, "big")
