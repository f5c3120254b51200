"""Plain text: the lines of a file in UTF-8, and what parts them into documents."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from bathyscope.errors import StorageError

HEADING: Final = re.compile(r"\s*= (?!=)(.+)(?<!=) =\s*")
"""A line that begins an article, as WikiText writes it: one equals sign on each side."""

PARAGRAPHS: Final = 2000
"""Characters that paragraphs are gathered to, where nothing else says where a document begins."""


def lines(path: Path) -> Iterator[str]:
    """Lines of a file with their ends, which become those of Unix; a mark of byte order is left out.

    Raises:
        StorageError: it is not UTF-8 text; says where, and what to type.
    """
    offset = 0
    with path.open("rb") as file:
        for raw in file:
            if b"\0" in raw:
                raise _no_utf8(path, "a NUL byte", offset + raw.index(b"\0"), "UTF-16")
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                found = raw[error.start]
                encoding = "UTF-16" if offset == 0 and raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
                raise _no_utf8(path, f"the byte 0x{found:02X}", offset + error.start, encoding) from None
            yield (line if offset else line.removeprefix("\ufeff")).replace("\r\n", "\n")
            offset += len(raw)


def _no_utf8(path: Path, what: str, offset: int, encoding: str) -> StorageError:
    return StorageError(
        f"{path} is not UTF-8 text: it has {what} at byte {offset}",
        f"UTF-8 is needed; it may be {encoding}",
        f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > NEW",
    )


def by_headings(lines: Iterable[str]) -> Iterator[str]:
    """Documents: each begins with a heading, but for what stands before the first."""
    gathered: list[str] = []
    for line in lines:
        if HEADING.fullmatch(line):
            yield "".join(gathered)
            gathered = []
        gathered.append(line)
    yield "".join(gathered)


def by_form_feeds(lines: Iterable[str]) -> Iterator[str]:
    """Documents: form feeds stand between them, and in none."""
    gathered: list[str] = []
    for line in lines:
        first, *others = line.split("\f")
        gathered.append(first)
        for other in others:
            yield "".join(gathered)
            gathered = [other]
    yield "".join(gathered)


def by_paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Documents: each has whole paragraphs and, but for the last, at least `PARAGRAPHS` characters."""
    gathered: list[str] = []
    size, after_blank = 0, False
    for line in lines:
        blank = not line.strip()
        if after_blank and not blank and size >= PARAGRAPHS:
            yield "".join(gathered)
            gathered, size = [], 0
        gathered.append(line)
        size, after_blank = size + len(line), blank
    yield "".join(gathered)


PARTED_BY: Final = {"headings": by_headings, "form feeds": by_form_feeds, "paragraphs": by_paragraphs}
"""What may part a text into documents."""


def parting(lines: Iterable[str]) -> str:
    """What parts a text: headings where there are any, else form feeds, else paragraphs."""
    fed = False
    for line in lines:
        if HEADING.fullmatch(line):
            return "headings"
        fed = fed or "\f" in line
    return "form feeds" if fed else "paragraphs"
