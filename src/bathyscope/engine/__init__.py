"""The engine: methods compile to cells, a plan turns cells into the least work, execution carries it out."""

from bathyscope.engine.cells import Cell, Read, cell_key
from bathyscope.engine.execute import (
    CancelledError,
    Collected,
    Event,
    Finished,
    FirstToken,
    Stop,
    TextGrew,
    collect,
    execute,
)
from bathyscope.engine.plan import Plan, PlannedBatch, plan
from bathyscope.engine.runs import StoredRun, run_stored

__all__ = [
    "CancelledError",
    "Cell",
    "Collected",
    "Event",
    "Finished",
    "FirstToken",
    "Plan",
    "PlannedBatch",
    "Read",
    "Stop",
    "StoredRun",
    "TextGrew",
    "cell_key",
    "collect",
    "execute",
    "plan",
    "run_stored",
]
