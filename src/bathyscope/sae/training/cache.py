"""Activations kept on disk: read once, gone through many times, by several coders.

One file of plain numbers a site, which is mapped into memory, and an index that says what of them is
finished, with a checksum of every portion. What stops the reading costs one portion.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import StorageError, UsageError
from bathyscope.files import write_atomically
from bathyscope.generation import Progress
from bathyscope.sae.training.activations import Activations, Portion, Stretch, sums, weighted_order
from bathyscope.sae.training.reader import Reader
from bathyscope.sae.training.weights import Scaling
from bathyscope.sites import Site

FORMAT: Final = 1
INDEX: Final = "index.json"
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""How numbers may be kept: bfloat16 takes half the room, and costs each number its last 16 bits."""

MOST_BYTES: Final = 16 * 2**30
"""A cache that would be larger is refused unless more is allowed."""


@dataclass(frozen=True, eq=False)
class CachedActivations(Activations):
    """Activations on disk, as `cache_activations` wrote them.

    Args:
        folder: where they are.
        sites: what is there.
        model: what they were read in.
        dtype: how numbers are kept.
        settings: what was read.
        portions_kept: for each portion its text, its rows, and for each site sums and checksum.
        weights: how often each text is gone through in an epoch.
    """

    folder: Path
    sites: tuple[Site, ...]
    model: Mapping[str, Any]
    dtype: torch.dtype
    settings: Mapping[str, Any]
    portions_kept: tuple[Mapping[str, Any], ...]
    weights: tuple[float, ...]

    @property
    @override
    def n_tokens(self) -> int:
        return len(self._order(0, 0))

    @override
    def n_portions(self, epochs: int) -> int:
        return epochs

    @override
    def portions(self, epochs: int, seed: int, first: int = 0) -> Iterator[Portion]:
        for epoch in range(first, epochs):
            yield Portion(epoch, self._order(epoch, seed), self._tables, Stretch(epoch, 1, epochs))

    @override
    def scaling(self, site: Site) -> Scaling:
        total: Tensor | float = 0.0
        squares, n = 0.0, 0.0
        for portion in self.portions_kept:
            weight, one = self.weights[portion["text"]], portion["sites"][str(site)]
            total = total + weight * torch.tensor(one["sum"], dtype=torch.float64)
            squares, n = squares + weight * one["squares"], n + weight * portion["rows"]
        assert isinstance(total, Tensor)
        return Scaling.of(total / n, squares / n, 1)

    @override
    def spec(self) -> dict[str, Any]:
        digest = hashlib.sha256(json.dumps(self.portions_kept, sort_keys=True).encode()).hexdigest()
        return {"activations": "cached", "portions": digest, "weights": list(self.weights), **self.settings}

    @cached_property
    def _tables(self) -> dict[Site, Tensor]:
        rows = sum(portion["rows"] for portion in self.portions_kept)
        found = {}
        for site in self.sites:
            width = len(self.portions_kept[0]["sites"][str(site)]["sum"])
            path = _file(self.folder, site)
            found[site] = torch.from_file(str(path), shared=False, size=rows * width, dtype=self.dtype).view(
                rows, width
            )
        return found

    @cached_property
    def _weight_of_rows(self) -> Tensor:
        weights = [self.weights[portion["text"]] for portion in self.portions_kept]
        rows = [portion["rows"] for portion in self.portions_kept]
        return torch.tensor(weights).repeat_interleave(torch.tensor(rows))

    def _order(self, epoch: int, seed: int) -> Tensor:
        return weighted_order(self._weight_of_rows, seed, epoch)


def cache_activations(
    reader: Reader,
    folder: str | Path,
    *,
    dtype: str = "float32",
    most_bytes: int = MOST_BYTES,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> CachedActivations:
    """Read activations and keep them on disk; what is there already is not read again.

    Args:
        reader: what reads what.
        folder: where they are kept; it is made.
        dtype: how numbers are kept, "float32" or "bfloat16".
        most_bytes: a cache that would be larger is refused.
        progress: called with tokens read, and all of them.
        stop: looked at after each portion.

    Raises:
        UsageError: it would be too large, or the folder holds activations of something else.
        StorageError: what is there is damaged, or cannot be written.
        CancelledError: `stop` said so; what was read is kept.
    """
    folder, stop = Path(folder), stop or Stop()
    if dtype not in DTYPES:
        raise UsageError(f"dtype={dtype!r} was given", f"activations are kept as {' or '.join(DTYPES)}")
    needed = reader.n_tokens * sum(reader.widths.values()) * DTYPES[dtype].itemsize
    if needed > most_bytes:
        raise UsageError(
            f"a cache of {needed / 2**30:,.1f} GiB would be needed for {reader.n_tokens:,} tokens at "
            f"{len(reader.sites)} sites",
            f"{most_bytes / 2**30:,.1f} GiB are allowed",
            "fewer sites or tokens, bfloat16, more room, or a stream, which keeps nothing",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} could not be made ({error.strerror})", "a folder that can be written") from error
    index = _Index.open(folder, {**reader.spec(), "dtype": dtype})
    index.truncate(reader.sites)
    done, everything = index.tokens, reader.n_tokens
    for number, windows in reader.portions[len(index.portions) :]:
        if stop.now or stop.soon:
            raise CancelledError("reading was stopped", f"the same call goes on from {folder}")
        if progress is not None:
            progress(done, everything)
        blocks = list(reader.read(windows))
        rows = {site: torch.cat([block[site] for block in blocks]) for site in reader.sites}
        tokens = sum(map(len, windows))
        index.append(number, tokens, rows)
        done += tokens
    if progress is not None:
        progress(everything, everything)
    if not sum(portion["rows"] for portion in index.portions):
        raise UsageError("the text has no token to learn from", "the first of each window and other sinks are left out")
    weights = tuple(one.weight for one in reader.texts)
    return index.activations(reader.sites, weights)


class _Index:
    """What a folder says that it holds."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], portions: list[dict[str, Any]]) -> None:
        self.folder, self.settings, self.portions = folder, settings, portions

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any]) -> "_Index":
        settings = json.loads(json.dumps(settings))
        path = folder / INDEX
        if not path.exists():
            return cls(folder, settings, [])
        try:
            found = json.loads(path.read_bytes())
            kept, portions, version = found["settings"], list(found["portions"]), int(found["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} could not be read ({type(error).__name__}: {error})",
                "an index of activations",
                "another folder",
            ) from error
        others = sorted(name for name in {*kept, *settings} if kept.get(name) != settings.get(name))
        if others or version != FORMAT:
            raise UsageError(
                f"{folder} holds activations of other {', '.join(others) or 'format'}",
                "a cache goes on with its own only",
                "another folder, or the same settings",
            )
        return cls(folder, settings, portions)

    @property
    def tokens(self) -> int:
        """Tokens that were read for what is kept, sinks among them."""
        return sum(portion["tokens"] for portion in self.portions)

    def truncate(self, sites: tuple[Site, ...]) -> None:
        """Check every portion, and cut off what was being written when the reading stopped.

        Raises:
            StorageError: a portion is not what was written.
        """
        for site in sites:
            path = _file(self.folder, site)
            try:
                with path.open("r+b" if path.exists() else "w+b") as file:
                    for number, portion in enumerate(self.portions):
                        one = portion["sites"][str(site)]
                        if hashlib.sha256(file.read(one["bytes"])).hexdigest() != one["sha256"]:
                            raise StorageError(
                                f"portion {number} of {path} is damaged",
                                "its checksum is another",
                                f"remove {self.folder}",
                            )
                    file.truncate(sum(portion["sites"][str(site)]["bytes"] for portion in self.portions))
            except OSError as error:
                raise StorageError(f"{path} could not be read ({error.strerror})", "a file of activations") from error

    def append(self, text: int, tokens: int, rows: Mapping[Site, Tensor]) -> None:
        """Keep a portion: first its numbers, then the index that says so."""
        entry: dict[str, Any] = {"text": text, "tokens": tokens, "rows": len(next(iter(rows.values()))), "sites": {}}
        for site, table in rows.items():
            kept = table.to(DTYPES[self.settings["dtype"]]).contiguous()
            content = kept.view(torch.uint8).numpy().tobytes()
            path = _file(self.folder, site)
            try:
                with path.open("ab") as file:
                    file.write(content)
                    file.flush()
            except OSError as error:
                raise StorageError(
                    f"{path} could not be written ({error.strerror})", f"{len(content):,} bytes of room are needed"
                ) from error
            total, squares = sums(kept)
            entry["sites"][str(site)] = {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "sum": total.tolist(),
                "squares": squares,
            }
        self.portions.append(entry)
        content = json.dumps({"format": FORMAT, "settings": self.settings, "portions": self.portions})
        write_atomically(self.folder / INDEX, content.encode())

    def activations(self, sites: tuple[Site, ...], weights: tuple[float, ...]) -> CachedActivations:
        """What is kept, to be trained on."""
        return CachedActivations(
            self.folder,
            sites,
            self.settings["model"],
            DTYPES[self.settings["dtype"]],
            self.settings,
            tuple(self.portions),
            weights,
        )


def _file(folder: Path, site: Site) -> Path:
    return folder / f"{site}.bin"
