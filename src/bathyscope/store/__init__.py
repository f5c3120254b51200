"""The run store: finished cells, kept so that none is ever lost or computed twice.

Importing it loads neither torch nor transformers.
"""

from bathyscope.store.canonical import canonical, cell_key
from bathyscope.store.opening import data_dir
from bathyscope.store.records import CheckReport, Incident, Record, RunInfo
from bathyscope.store.store import Store

__all__ = ["CheckReport", "Incident", "Record", "RunInfo", "Store", "canonical", "cell_key", "data_dir"]
