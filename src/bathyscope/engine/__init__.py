"""The engine: methods compile to cells, a plan turns cells into the least work, execution carries it out."""

from bathyscope.engine.cells import Cell, Given, Patch, Read, cell_key
from bathyscope.engine.collect import Collected, collect
from bathyscope.engine.events import CancelledError, Event, Finished, FirstToken, Listener, Stop, TextGrew
from bathyscope.engine.execute import execute
from bathyscope.engine.partition import PlannedBatch
from bathyscope.engine.plan import Plan, plan
from bathyscope.engine.runs import StoredRun, run_stored

__all__ = [
    "CancelledError",
    "Cell",
    "Collected",
    "Event",
    "Finished",
    "FirstToken",
    "Given",
    "Listener",
    "Patch",
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
