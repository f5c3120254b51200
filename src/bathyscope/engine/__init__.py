"""The engine: methods compile to cells, a plan turns cells into the least work, execution carries it out."""

from bathyscope.engine.cells import Cell, Given, Patch, Read
from bathyscope.engine.collect import Collected, collect
from bathyscope.engine.events import CancelledError, Event, Finished, FirstToken, Listener, Stop, TextGrew
from bathyscope.engine.execute import execute
from bathyscope.engine.keys import cell_key
from bathyscope.engine.partition import PlannedBatch
from bathyscope.engine.plan import Plan, plan
from bathyscope.engine.stored import CarriedOut, carry_out, check_storable

__all__ = [
    "CancelledError",
    "CarriedOut",
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
    "TextGrew",
    "carry_out",
    "cell_key",
    "check_storable",
    "collect",
    "execute",
    "plan",
]
