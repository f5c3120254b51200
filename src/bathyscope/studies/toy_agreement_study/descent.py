"""The one loop that trains the toy's network and its coder: whole data, Adam, every loss kept."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def descend(
    parameters: Sequence[Tensor],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    rate: float,
    after: Callable[[], None] | None = None,
) -> tuple[float, ...]:
    """Change parameters in place until a loss is small.

    Args:
        parameters: what is learned.
        loss: of the parameters as they stand, ().
        steps: how many.
        rate: Adam's.
        after: called behind each step, without gradients.

    Returns:
        The loss before each step, and behind the last.

    Example:
        >>> import torch
        >>> from bathyscope.studies.toy_agreement_study.descent import descend
        >>> x = torch.ones((), requires_grad=True)
        >>> losses = descend([x], lambda: (x - 3) ** 2, steps=200, rate=0.1)
        >>> losses[0], round(losses[-1], 3)
        (4.0, 0.0)
    """
    optimiser = torch.optim.Adam(parameters, lr=rate)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        found = loss()
        found.backward()
        optimiser.step()
        losses.append(float(found.detach()))
        if after is not None:
            with torch.no_grad():
                after()
    with torch.no_grad():
        return (*losses, float(loss()))
