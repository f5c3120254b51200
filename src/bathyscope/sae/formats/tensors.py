"""Named tensors of a file, read within limits, and asked for by name and shape.

A file of somebody else's may announce what it does not hold. What is announced is compared with the file's own size
before memory is taken for it: here for safetensors, in `archives` for what numpy and torch save.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bathyscope.errors import StorageError

MOST_NUMBERS: Final = 2**33
"""Numbers of one tensor. The largest published coders have 2^20 latents of width 4,608."""

DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class NamedTensors:
    """Tensors by name, and the file that they stand in.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from bathyscope.sae.formats.tensors import NamedTensors
        >>> NamedTensors(Path("sae.safetensors"), {"b_dec": torch.zeros(3)}).take("b_dec", 3).tolist()
        [0.0, 0.0, 0.0]
    """

    path: Path
    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "NamedTensors":
        """Read a safetensors file.

        Raises:
            StorageError: it is missing, damaged, or announces more than it holds.
        """
        try:
            # safetensors itself refuses a header that does not fit the file, before it reads a tensor.
            with safe_open(path, "pt") as file:
                names = list(file.keys())
                for name in names:
                    check_size(path, name, file.get_slice(name).get_shape())
                # Copies: what is mapped changes with the file, and products depend on how memory is aligned.
                return cls(path, {name: file.get_tensor(name).clone() for name in names})
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError) as error:
            raise StorageError(
                f"{path} could not be read ({type(error).__name__}: {error})", "a whole safetensors file is needed"
            ) from error

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of floating-point numbers and of one shape.

        Raises:
            StorageError: it is missing, of another shape, or of another kind of number.
        """
        found = self._floats(name)
        if tuple(found.shape) != shape:
            turned = " (it is transposed)" if tuple(found.shape) == shape[::-1] else ""
            self.refuse(f"has {name} of shape {tuple(found.shape)}", f"{shape} is needed{turned}")
        return found

    def matrix(self, name: str) -> Tensor:
        """A matrix of floating-point numbers, of any shape.

        Raises:
            StorageError: it is missing, no matrix, empty, or of another kind of number.
        """
        found = self._floats(name)
        if found.ndim != 2 or 0 in found.shape:
            self.refuse(f"has {name} of shape {tuple(found.shape)}", "a matrix is needed")
        return found

    def whole(self, name: str) -> int:
        """A number from 1 that is kept as a tensor.

        Raises:
            StorageError: it is missing, or something else.
        """
        found = self._get(name)
        if found.numel() != 1 or found.is_floating_point() or int(found) < 1:
            self.refuse(f"has {name}={found.flatten()[:4].tolist()}", "one number from 1 is needed")
        return int(found)

    def refuse(self, why: str, expected: str = "", remedy: str = "") -> NoReturn:
        """Say that the file is not what it should be."""
        raise StorageError(f"{self.path} {why}", expected, remedy)

    def _get(self, name: str) -> Tensor:
        if name not in self.tensors:
            self.refuse(f"has no {name}; it has {', '.join(sorted(self.tensors)[:12]) or 'nothing'}")
        return self.tensors[name]

    def _floats(self, name: str) -> Tensor:
        found = self._get(name)
        if found.dtype not in DTYPES:
            self.refuse(f"has {name} in {found.dtype}", f"one of {', '.join(map(str, DTYPES))} is needed")
        return found


def check_size(path: Path, name: str, shape: tuple[int, ...] | list[int]) -> None:
    """Refuse a tensor that announces more numbers than any coder has.

    Raises:
        StorageError: naming the tensor.
    """
    numbers = 1
    for length in shape:
        numbers *= length
    if numbers > MOST_NUMBERS:
        raise StorageError(f"{path} announces {name} of shape {tuple(shape)}", f"at most {MOST_NUMBERS:,} numbers")
