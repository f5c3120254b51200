"""Documents in files: plain text, JSON lines, Parquet, and data sets of the Hugging Face hub.

A file is gone through line by line or batch by batch, and a first time when it is opened: whatever is
wrong with it is said before anything is computed.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final

from typing_extensions import override

from bathyscope.errors import StorageError, UsageError
from bathyscope.texts.base import Shuffled, Texts, called, checked, sha256_of
from bathyscope.texts.plain import PARTED_BY, lines, parting

HUB: Final = "hf:"
"""What the name of a data set of the hub begins with."""


def read_texts(path: str | Path, *, column: str = "text", seed: int | None = None) -> Texts:
    r"""Documents of a file, or of a data set of the Hugging Face hub; blank ones are left out.

    Plain text becomes documents thus: where there are lines such as ` = Title = `, each begins one;
    else form feeds part them; else paragraphs are gathered to at least 2,000 characters.

    Args:
        path: a file in UTF-8, read by its ending: `.jsonl` and `.ndjson` as JSON lines, `.parquet` as
            Parquet (needs `bathyscope[frames]`), any other as plain text; or "hf:owner/name:config:split",
            where the split is "train" unless said (needs `bathyscope[data]`).
        column: where a row keeps its text.
        seed: shuffles the documents; None leaves them in the file's order.

    Raises:
        StorageError: it cannot be found or read, has no text, or is in another encoding.
        UsageError: it has no such column, or an extra is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> from bathyscope.texts import read_texts
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "songs.jsonl"
        >>> size = path.write_text('{"text": "One."}\n{"text": "Two."}\n')
        >>> texts = read_texts(path)
        >>> list(texts.documents()), texts.describe()["name"]
        (['One.', 'Two.'], 'songs.jsonl')
    """
    texts = _hub(str(path), column) if str(path).startswith(HUB) else _file(Path(path), column)
    # To the end, for a fault may be in the last document.
    if not sum(1 for _ in texts.documents()):
        raise StorageError(f"{path} has no text in it", "a document with at least one word is needed")
    return texts if seed is None else Shuffled(texts, seed)


def _file(path: Path, column: str) -> Texts:
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise StorageError(f"{path} {there}", "a file of text, JSON lines or Parquet is needed")
    kind = _KINDS.get(path.suffix.lower(), _PlainText)
    if kind is _PlainText and column != "text":
        raise UsageError(
            f"column={column!r} was given for {path.name}", "plain text has no columns", "a .jsonl or .parquet"
        )
    return kind(path, column, _stamp(path))


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file is written to."""
    try:
        found = path.stat()
    except OSError as error:
        raise StorageError(f"{path} could not be read ({error.strerror})", "a file of text is needed") from error
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class _File(Texts):
    path: Path
    column: str
    stamp: tuple[int, int]
    kind: ClassVar[str]

    @override
    def documents(self) -> Iterator[str]:
        self.check_unchanged()
        try:
            yield from (document for document in self.all() if document.strip())
        except OSError as error:
            given = f"{self.path} could not be read ({error.strerror or error})"
            raise StorageError(given, f"a file of {self.kind} is needed") from error

    def check_unchanged(self) -> None:
        """Refuse a file that somebody has written to."""
        if _stamp(self.path) != self.stamp:
            raise StorageError(f"{self.path} was changed since it was opened", "the same text is needed each time")

    @abstractmethod
    def all(self) -> Iterator[str]:
        """The documents, blank ones too."""

    @override
    def describe(self) -> dict[str, Any]:
        return {"name": self.path.name, "format": self.kind, "column": self.column, "sha256": self.sha256}

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        self.check_unchanged()
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class _PlainText(_File):
    kind = "plain text"

    @override
    def all(self) -> Iterator[str]:
        return PARTED_BY[self.parted_by](lines(self.path))

    @cached_property
    def parted_by(self) -> str:
        """What parts the file into documents."""
        return parting(lines(self.path))

    @override
    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "column": None, "parted_by": self.parted_by}


class _JsonLines(_File):
    kind = "JSON lines"

    @override
    def all(self) -> Iterator[str]:
        for number, line in enumerate(lines(self.path), 1):
            where = f"line {number} of {self.path.name}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise StorageError(f"{where} is not JSON ({error})", "every line is one JSON object") from error
            if not isinstance(row, dict):
                raise StorageError(f"{where} is {called(row)}", 'every line is one object, {"text": "..."}')
            _check_column(where, self.column, row)
            yield checked(f"the {self.column!r} of {where}", row[self.column])


class _Parquet(_File):
    kind = "Parquet"

    @override
    def all(self) -> Iterator[str]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UsageError(
                f"{self.path.name} needs pyarrow", "it is an extra", 'pip install "bathyscope[frames]"'
            ) from None
        try:
            with parquet.ParquetFile(self.path) as file:
                _check_column(self.path.name, self.column, file.schema_arrow.names)
                number = 0
                for batch in file.iter_batches(batch_size=256, columns=[self.column]):
                    for value in batch.column(0).to_pylist():
                        yield checked(f"the {self.column!r} of row {number} of {self.path.name}", value)
                        number += 1
        except ArrowException as error:
            given = f"{self.path.name} could not be read as Parquet ({_first_line(error)})"
            raise StorageError(given, "a Parquet file is needed") from error


_KINDS: Final[dict[str, type[_File]]] = {".jsonl": _JsonLines, ".ndjson": _JsonLines, ".parquet": _Parquet}


@dataclass(frozen=True)
class _HubTexts(Texts):
    name: str
    config: str | None
    split: str
    column: str
    rows: Any

    @override
    def documents(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            document = checked(f"the {self.column!r} of row {number} of {self.name}", row[self.column])
            if document.strip():
                yield document

    @override
    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "format": "Hugging Face data set",
            "config": self.config,
            "split": self.split,
            "column": self.column,
            "sha256": self.sha256,
        }

    @cached_property
    def sha256(self) -> str:
        """Of the documents."""
        return sha256_of(self.documents())


def _hub(path: str, column: str) -> Texts:
    """A data set from the hub's cache, where it is mapped into memory and not read into it."""
    name, config, split, *more = [*path.removeprefix(HUB).split(":"), "", ""]
    if not name or any(more):
        raise UsageError(f"{path!r} was given", "a data set of the hub is named so", "hf:owner/name:config:split")
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise UsageError(f"{path} needs datasets", "it is an extra", 'pip install "bathyscope[data]"') from None
    try:
        rows = load_dataset(name, config or None, split=split or "train", trust_remote_code=False)
    except Exception as error:
        given = f"the data set {name} could not be loaded ({type(error).__name__}: {_first_line(error)})"
        raise StorageError(
            given, "a data set of the hub, or of its cache, is needed", f"{HUB}{name}:CONFIG:SPLIT"
        ) from error
    _check_column(name, column, rows.column_names)
    return _HubTexts(name, config or None, split or "train", column, rows.select_columns([column]))


def _check_column(where: str, column: str, columns: Iterable[str]) -> None:
    columns = list(columns)
    if column not in columns:
        raise UsageError(
            f"{where} has no column {column!r}",
            f"it has {', '.join(map(repr, columns)) or 'none'}",
            f"column={columns[0]!r}" if columns else "",
        )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
