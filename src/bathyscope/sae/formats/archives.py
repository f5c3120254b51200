"""What numpy and torch save: zip archives, looked through before anything is unpacked, and none of their code run.

Both read a tensor's size from the archive and believe it. So sizes are compared here with the archive's own first.
"""

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import torch
from torch import Tensor

from bathyscope.errors import StorageError
from bathyscope.sae.formats.tensors import NamedTensors, check_size

MOST_SQUEEZED: Final = 16
"""How much smaller than its content an archive may be. Trained weights do not even shrink to a half."""

MOST_OF_A_DIRECTORY: Final = 2**20
"""Bytes of what torch writes about its tensors; a coder has ten."""

NAMES: Final = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage")
"""What a file of tensors, numbers and text asks torch for; anything else is refused by its name."""


def read_numpy(path: Path) -> NamedTensors:
    """The arrays of an npz file.

    Raises:
        StorageError: it is damaged, announces more than it holds, or holds Python objects.
    """
    with _opened(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                _check_array(path, entry, file)
        with np.load(path, allow_pickle=False) as arrays:
            return NamedTensors(path, {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files})


def names_in_torch(path: Path) -> frozenset[str]:
    """The names in the dict that a file of torch holds, of which no tensor is read.

    Raises:
        StorageError: as `read_torch` does.
    """
    with _opened(path) as archive:
        return frozenset(map(str, _mapped(path, archive)))


def read_torch(path: Path) -> dict[str, Any]:
    """The dict that a file of torch holds: tensors, numbers, text and dicts of these.

    Raises:
        StorageError: it is damaged, announces more than it holds, or asks for anything but tensors.
    """
    with _opened(path) as archive:
        return {str(name): _own(path, str(name), value) for name, value in _mapped(path, archive).items()}


def tensors_of(path: Path, found: dict[str, Any]) -> NamedTensors:
    """The tensors of what `read_torch` found."""
    return NamedTensors(path, {name: value for name, value in found.items() if isinstance(value, Tensor)})


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive that is as large as it says; whatever fails while it is read is told as one thing."""
    try:
        with zipfile.ZipFile(path) as archive:
            announced, size = sum(entry.file_size for entry in archive.infolist()), path.stat().st_size
            if announced > MOST_SQUEEZED * size:
                raise ValueError(f"it announces {announced:,} bytes, and has {size:,}")
            yield archive
    except StorageError:
        raise
    except Exception as error:  # numpy and torch raise what their readers raise, of any kind
        reason = " ".join(str(error).split())[:200]
        raise StorageError(
            f"{path} could not be read ({type(error).__name__}: {reason})",
            "a whole archive of arrays, with no Python objects in it, is needed",
        ) from error


def _mapped(path: Path, archive: zipfile.ZipFile) -> dict[Any, Any]:
    """What a file of torch holds, looked through first; its tensors are those of the file, and not read yet."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, as torch never writes it")
    about = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
    if len(about) != 1 or about[0].file_size > MOST_OF_A_DIRECTORY:
        raise ValueError("its directory is missing or too large")
    _check_names(archive.read(about[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Mapped, since torch would otherwise believe what the file says of the length of a storage.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(found, dict):
        raise TypeError(f"it holds a {type(found).__name__}")
    return found


def _check_array(path: Path, entry: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """Compare the length that an array announces with that of its entry."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    check_size(path, entry.filename, shape)
    if dtype.hasobject:
        raise ValueError(f"{entry.filename} holds Python objects")
    numbers = 1
    for length in shape:
        numbers *= length
    if file.tell() + numbers * dtype.itemsize != entry.file_size:
        raise ValueError(f"{entry.filename} announces the shape {shape}, and has {entry.file_size:,} bytes")


def _check_names(directory: bytes) -> None:
    """Refuse a directory that names anything but tensors. It is read as a list of opcodes, and never run."""
    for opcode, argument, _ in pickletools.genops(directory):
        if opcode.name in ("INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"it asks for Python objects ({opcode.name})")
        if opcode.name == "GLOBAL" and not NAMES.fullmatch(str(argument)):
            raise ValueError(f"it asks for {str(argument).replace(' ', '.')}")


def _own(path: Path, name: str, value: Any) -> Any:
    """A tensor in memory of its own, that the file has all numbers of; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    check_size(path, name, tuple(value.shape))
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name} announces the shape {tuple(value.shape)}, and repeats fewer numbers")
    return value.detach().clone()
