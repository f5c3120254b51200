"""What a page is told while cells are computed: where they belong, their first words, and themselves.

Messages hold numbers of cells, whose places the first message gives; so a grid of hundreds of cells that grow at every
decoding step stays small.
"""

from dataclasses import asdict
from typing import Any

from bathyscope.engine import Event, Finished, Plan, Read
from bathyscope.model import Model
from bathyscope.sites import EMBEDDING_LAYER, Site
from bathyscope.web.worker import Job


def tokens_of(model: Model, text: str) -> list[str]:
    """The tokens of a text, as text."""
    return list(model.tokenize(text).texts)


def grid_of(plan: Plan, model: Model, text: str) -> dict[str, Any]:
    """The tokens that are read, and of each cell its layer, its position and the layer that is written to.

    Args:
        plan: of cells that read, without controls.
        model: that is read.
        text: what it reads.
    """
    cells = [
        [_layer(cell.source.site), cell.source.position, None if cell.site is None else _layer(cell.site)]
        for cell in plan.cells
        if isinstance(cell.source, Read)
    ]
    return {"tokens": tokens_of(model, text), "cells": cells, "estimate": plan.seconds}


class Teller:
    """Turns the engine's events into messages: one for all texts of a decoding step, one for a finished batch.

    Args:
        job: what is told.
        n_cells: how many cells the page knows; what comes after them are controls.
    """

    def __init__(self, job: Job, n_cells: int) -> None:
        self._job, self._n_cells = job, n_cells
        self._texts: dict[str, str] = {}
        self._last = -1

    def listen(self, plan: Plan, event: Event) -> None:
        """Hear one event of an execution."""
        if isinstance(event, Finished):
            self._texts.clear()
            self._last = -1
            cells = plan.batches[event.batch].cells
            finished = [
                [cell, asdict(reading)]
                for cell, reading in zip(cells, event.readings, strict=True)
                if cell < self._n_cells
            ]
            self._job.tell("cells", cells=finished)
            return
        if event.cell <= self._last:  # the batch begins its next step
            self._tell()
        self._last = event.cell
        if event.cell < self._n_cells:
            self._texts[str(event.cell)] = event.text

    def _tell(self) -> None:
        if self._texts:
            self._job.tell("texts", texts=dict(self._texts))
            self._texts.clear()


def _layer(site: Site) -> int:
    return EMBEDDING_LAYER if site.layer is None else site.layer
