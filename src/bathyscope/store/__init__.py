"""The run store: finished cells, kept so that none is ever lost or computed twice.

Importing it loads neither torch nor transformers.
"""

from bathyscope.store.canonical import canonical, spec_key
from bathyscope.store.opening import data_dir
from bathyscope.store.records import CheckReport, FinishedCell, Incident, RunInfo
from bathyscope.store.store import Store

__all__ = ["CheckReport", "FinishedCell", "Incident", "RunInfo", "Store", "canonical", "data_dir", "spec_key"]
