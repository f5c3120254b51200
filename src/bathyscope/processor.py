"""What this processor is slow at: products in half precision, where it has no instructions for them."""

import time
from functools import cache

import torch

from bathyscope.model import HALF, Model

SLOWER = 1.5
"""From how many times slower on it is worth telling; with instructions for them such products are quicker."""

Shape = tuple[int, int, int]

SHAPE: Shape = (16, 512, 512)
"""The product that is timed unless said, (rows, width in) by (width in, width out): 25 ms in all where it is slow."""

REPEATS = 12
MULTIPLICATIONS = 12 * 16 * 512 * 512
"""How often it is timed at most, and how many multiplications of each dtype that may take, but three times at least."""


def slow_half(model: Model) -> str | None:
    """Say so where half precision is slower than float32, which is more exact besides.

    One small product is timed in both, once a process. Asked of models on a CPU only.

    Args:
        model: the model.

    Returns:
        One sentence for people with the measured factor, or None where there is nothing to tell.

    Example:
        >>> import bathyscope
        >>> from bathyscope.processor import slow_half
        >>> slow_half(bathyscope.load()) is None  # float32
        True
    """
    if model.dtype not in HALF or model.device.type != "cpu":
        return None
    slower = times_slower(model.dtype)
    if slower < SLOWER:
        return None
    name = str(model.dtype).removeprefix("torch.")
    return f"this processor multiplies {name} {slower:.0f} times slower than float32: --dtype float32 is quicker"


@cache
def times_slower(dtype: torch.dtype, shape: Shape = SHAPE) -> float:
    """How many times slower than in float32 a product is on one core of this CPU; below 1 where it is quicker.

    Args:
        dtype: of both factors.
        shape: rows, width in and width out of the product. Instructions for matrices need large ones to pay.
    """
    n_rows, width_in, width_out = shape
    taken: dict[torch.dtype, list[float]] = {dtype: [], torch.float32: []}
    factors = {
        one: (torch.ones(n_rows, width_in, dtype=one), torch.ones(width_out, width_in, dtype=one)) for one in taken
    }
    n_threads = torch.get_num_threads()
    # Alone, since threads wait for one another wherever a processor is busy; in turns, and the least of each counts.
    torch.set_num_threads(1)
    try:
        for _ in range(max(3, min(REPEATS, MULTIPLICATIONS // (n_rows * width_in * width_out)))):
            for one, (rows, weight) in factors.items():
                began = time.perf_counter()
                torch.nn.functional.linear(rows, weight)
                taken[one].append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(n_threads)
    return min(taken[dtype]) / max(1e-9, min(taken[torch.float32]))
