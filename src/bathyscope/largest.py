"""The largest numbers of long rows, and what a softmax divides by: exact, in fewer passes over memory than by torch."""

import torch
from torch import Tensor

LEAST_GAIN = 2
"""How many times fewer numbers have to be looked through for groups to be worth it."""
PLACES = 2**16
"""Places in a row that 16 bits can tell apart."""
ROWS = 8
"""Rows whose exponentials are made at once: of a whole vocabulary they fit into a cache."""


def largest(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and values of the k largest of each row, (rows, k), in no order; of equal ones any.

    The k largest are in the k groups whose own largest are largest, and there are fewer of these to look through:
    of 4,608 numbers the 32 largest take two thirds of the time, of a vocabulary the 10 largest a fifth.

    Args:
        rows: (rows, n).
        k: how many; all where there are fewer.

    Example:
        >>> import torch
        >>> from bathyscope.largest import largest
        >>> indices, values = largest(torch.arange(64.0)[None], 2)
        >>> sorted(indices[0].tolist()), sorted(values[0].tolist())
        ([62, 63], [62.0, 63.0])
    """
    n = rows.shape[-1]
    size = _group(n, k)
    if size == 1:
        best = _places(rows, min(k, n))
        return best, rows.gather(1, best)
    groups = n // size
    # Every so many-th number is of one group: their largest is found for many groups at once.
    best = _places(rows.reshape(-1, size, groups).amax(1), k)
    where = (best[:, None] + torch.arange(0, n, groups, device=rows.device)[:, None]).flatten(1)
    values = rows.gather(1, where)
    best = _places(values, k)
    return where.gather(1, best), values.gather(1, best)


def log_normaliser(rows: Tensor, most: Tensor | None = None) -> Tensor:
    """The logarithm of the sum of exponentials of each row, (rows, 1).

    Args:
        rows: (rows, n).
        most: the largest number of each row, (rows, 1), where it is known already.

    Example:
        >>> import torch
        >>> from bathyscope.largest import log_normaliser
        >>> log_normaliser(torch.zeros(1, 4)).exp().tolist()
        [[4.0]]
    """
    most = rows.amax(-1, keepdim=True) if most is None else most
    if not torch.isfinite(most).all():
        return rows.logsumexp(-1, keepdim=True)
    room = rows.new_empty(min(ROWS, len(rows)), rows.shape[-1])
    sums = [
        torch.sub(part, own, out=room[: len(part)]).exp_().sum(-1, keepdim=True)
        for part, own in zip(rows.split(ROWS), most.split(ROWS), strict=True)
    ]
    return most + torch.cat(sums).log_()


def _places(rows: Tensor, k: int) -> Tensor:
    """Where the k largest of each row stand, (rows, k), in no order."""
    n = rows.shape[-1]
    if rows.dtype != torch.bfloat16 or rows.device.type != "cpu" or n > PLACES or bool(rows.isnan().any()):
        return rows.topk(k, dim=-1, sorted=False).indices
    # A number of 16 bits and its place are one integer, and NumPy parts integers several times as fast as torch finds
    # the largest numbers. Of negative numbers all bits but the sign are turned round: so integers are in their order.
    bits = rows.view(torch.int16).to(torch.int32)
    keys = ((bits ^ (bits >> 15 & 0x7FFF)) << 16) | torch.arange(n, dtype=torch.int32)
    keys.numpy().partition(n - k, axis=-1)
    return (keys[:, n - k :] & (PLACES - 1)).long()


def _group(n: int, k: int) -> int:
    """How many numbers make a group: the power of two nearest to the fewest comparisons; 1 for none."""
    size = 1
    while n % (2 * size) == 0 and (2 * size) ** 2 * k <= 2 * n:
        size *= 2
    return size if n >= LEAST_GAIN * (n // size + size * k) else 1
