"""Which positions of a window a fit may use: not its first, and no other attention sink.

A sink is a position that heads attend to when they have nothing to say. Its residual stream is
hundreds of times longer than any other and hardly depends on the text: squared errors would be its
errors. Knows nothing of what is fitted.
"""

from typing import Final

from torch import Tensor

TIMES_THE_MEDIAN: Final = 10.0
"""A position whose norm is over so many times the median norm of its window is a sink."""


def usable(residual: Tensor) -> Tensor:
    """Which positions of one window are no attention sinks.

    Left out are position 0, which is one in most models, and every position whose norm is over
    `TIMES_THE_MEDIAN` times the window's median (arXiv 2309.17453, 2402.17762).

    Args:
        residual: the residual stream along a window, (positions, d_model).

    Returns:
        Whether each position may be used, (positions,).

    Example:
        >>> import torch
        >>> from bathyscope.fitting import usable
        >>> usable(torch.tensor([[1.0], [1.0], [50.0], [2.0], [1.0]])).tolist()
        [False, True, False, True, True]
    """
    norms = residual.float().norm(dim=-1)
    kept = norms <= TIMES_THE_MEDIAN * norms.median()
    kept[0] = False
    return kept
