"""Circuits and coders that the server was started with, by name, and what pages draw of them.

Files are opened before the server listens. A request names one of these, as they are named here, and nothing else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bathyscope.circuits import CircuitResult, Examples, examples_of
from bathyscope.circuits.viewer import View
from bathyscope.circuits.viewer.page import page_data as graph_data
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.pages import embedded_json
from bathyscope.sae import LatentReadings, SparseCoder
from bathyscope.sae.reading.dashboard import page_data as latents_data

NAME = r"^[A-Za-z0-9_.-]{1,80}$"
"""What a circuit or a coder can be called."""


@dataclass(frozen=True, eq=False)
class OpenedCircuit:
    """A graph, and what a live ablation needs where it is a circuit of coders' latents.

    Args:
        view: as it is drawn.
        path: of its file, as it was typed.
        circuit: where it is one.
        coders: those that it was found with, by where they lie.
        model: the served model that it was found in; None for a graph that is looked at only.
        folder: where its coders lie, if that was typed.
    """

    view: View
    path: str
    circuit: CircuitResult | None = None
    coders: tuple[SparseCoder, ...] = ()
    model: str | None = None
    folder: str | None = None

    @property
    def pairs(self) -> int:
        """How many pairs latents can be ablated in."""
        return len(self.circuit.pairs) if self.circuit and self.coders and self.model else 0

    @cached_property
    def drawn(self) -> bytes:
        """What the viewer draws, as JSON."""
        return embedded_json(graph_data(self.view)).encode()

    def examples(self, model: Model, limit: int) -> Examples:
        """The first of the pairs that the circuit was found on."""
        assert self.circuit is not None
        return examples_of(model, self.circuit.pairs[:limit])

    def told(self) -> dict[str, Any]:
        """What a page is told before it asks for the graph."""
        return {"title": self.view.captions[0], "model": self.model, "pairs": self.pairs}


@dataclass(frozen=True, eq=False)
class OpenedCoder:
    """A coder to steer with, what a text says of its latents, or both.

    Args:
        path: of the coder's folder, or of the readings where there is no coder.
        site: what it encodes.
        n_latents: how many latents it has.
        coder: where it was named.
        readings: where they were named.
        model: the served model that it is for; None without a coder.
    """

    path: str
    site: str
    n_latents: int
    coder: SparseCoder | None = None
    readings: LatentReadings | None = None
    model: str | None = None

    @cached_property
    def drawn(self) -> bytes:
        """What the dashboard draws, as JSON.

        Raises:
            UsageError: no text was read.
        """
        if self.readings is None:
            raise UsageError(
                f"of {self.path} no features were read",
                "a saved result of bathyscope sae features",
                "bathyscope serve --features FILE",
            )
        return embedded_json(latents_data(self.readings, self.readings.facts())).encode()

    def told(self) -> dict[str, Any]:
        """What a page is told before it asks for the latents."""
        told = {"site": self.site, "n_latents": self.n_latents, "model": self.model}
        return {**told, "read": self.readings is not None, "steers": self.coder is not None}


def names_of(paths: Iterable[str]) -> list[str]:
    """A name for each path, which can stand in an address: its last part, with a number where two are alike.

    Example:
        >>> from bathyscope.web.opened import names_of
        >>> names_of(["a/verb agreement.json", "b/verb agreement.json", "c/resid_post.8/"])
        ['verb-agreement', 'verb-agreement-2', 'resid_post.8']
    """
    found: list[str] = []
    for path in paths:
        last = Path(path).name.removesuffix(".json")
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-")[:70] or "unnamed"
        name, more = plain, 2
        while name in found:
            name, more = f"{plain}-{more}", more + 1
        found.append(name)
    return found
