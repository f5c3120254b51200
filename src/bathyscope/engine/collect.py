"""A whole plan carried out, and all that it gives gathered."""

from dataclasses import dataclass

from torch import Tensor

from bathyscope.engine.events import Finished, Listener, Stop, watched
from bathyscope.engine.execute import execute
from bathyscope.engine.plan import Plan
from bathyscope.errors import StorageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.readouts import Reading


@dataclass(frozen=True)
class Collected:
    """What all cells of a plan gave, in the cells' order.

    Args:
        readings: one a cell.
        representations: what was read at each cell's source, None for a control.
    """

    readings: tuple[Reading, ...]
    representations: tuple[Tensor | None, ...]

    def of_sources(self, n_cells: int) -> list[Tensor]:
        """What was read for the first cells, each of which has a source.

        Raises:
            StorageError: one is lacking: an earlier version kept the cell without it, under the same key.
        """
        found = [one for one in self.representations[:n_cells] if one is not None]
        if len(found) < n_cells:
            raise StorageError(
                f"{n_cells - len(found)} cells were stored without what was read at their source",
                "an earlier version kept the cells of causal methods so",
                "bathyscope runs delete, for the run of the causal method, or another store",
            )
        return found


def collect(
    plan: Plan,
    source: Model,
    target: Model,
    *,
    progress: Progress | None = None,
    stop: Stop | None = None,
    listen: Listener | None = None,
) -> Collected:
    """Carry out a whole plan and gather what it gives.

    Args:
        plan: the plan.
        source: the model that representations are read from.
        target: the model that they are written to.
        progress: called with the tokens that are there and those there may be.
        stop: looked at at every decoding step and after every batch.
        listen: called with the plan and each event of its execution.

    Example:
        >>> import bathyscope
        >>> from bathyscope.engine import Cell, collect, plan
        >>> from bathyscope.readouts import NextToken
        >>> model = bathyscope.load()
        >>> planned = plan([Cell(model.tokenize("The capital of France is"), NextToken(1))], model, model)
        >>> collect(planned, model, model).readings[0].text
        ' Paris'
    """
    readings: dict[int, Reading] = {}
    representations: dict[int, Tensor | None] = {}
    for event in watched(execute(plan, source, target, stop=stop), plan, progress, listen=listen):
        if isinstance(event, Finished):
            cells = plan.batches[event.batch].cells
            readings |= zip(cells, event.readings, strict=True)
            representations |= zip(cells, event.representations, strict=True)
    order = range(len(plan.cells))
    return Collected(tuple(readings[cell] for cell in order), tuple(representations[cell] for cell in order))
