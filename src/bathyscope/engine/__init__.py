"""The engine: methods compile to cells, a plan turns cells into the least work, execution carries it out."""

from bathyscope.engine.cells import Cell, Read, cell_key
from bathyscope.engine.execute import Collected, Event, Finished, FirstToken, TextGrew, collect, execute
from bathyscope.engine.plan import Plan, PlannedBatch, plan

__all__ = [
    "Cell",
    "Collected",
    "Event",
    "Finished",
    "FirstToken",
    "Plan",
    "PlannedBatch",
    "Read",
    "TextGrew",
    "cell_key",
    "collect",
    "execute",
    "plan",
]
