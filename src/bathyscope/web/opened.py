"""Circuits, coders and mappings that the server was started with, by name, and what pages are told of them.

Files are opened before the server listens. A request names one of these, as they are named here, and nothing else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from bathyscope.circuits import CircuitResult, Editor, examples_of
from bathyscope.circuits.viewer import View
from bathyscope.circuits.viewer.page import page_data as graph_data
from bathyscope.errors import UsageError
from bathyscope.mappings import Affine
from bathyscope.mappings.layers import lens_layers
from bathyscope.model import Model
from bathyscope.pages import embedded_json
from bathyscope.sae import LatentReadings, SparseCoder
from bathyscope.sae.reading.dashboard import page_data as latents_data
from bathyscope.soft_prompts import SoftPrompt

NAME = r"^[A-Za-z0-9_.-]{1,80}$"
"""What a circuit, a coder or a mapping can be called."""
LENSES: Final = {
    "tuned-lens": "tuned-lens",
    "jacobian-lens": "jacobian-lens",
    "relation": "attribute-lens",
    "future-lens": "future-lens",
    "soft-prompt": "future-lens",
}
"""The lens that looks through what was fitted by a method; all others make a linear shortcut."""
SHORTCUT: Final = "linear-shortcut"
EDITORS = 2
"""Numbers of pairs whose runs and gradients are kept of a circuit,"""
KEPT_BYTES = 256 * 2**20
"""and at most so much for each."""


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
    _editors: dict[int, Editor] = field(default_factory=dict, repr=False)

    @property
    def pairs(self) -> int:
        """How many pairs latents can be ablated in."""
        return len(self.circuit.pairs) if self.circuit and self.coders and self.model else 0

    @cached_property
    def drawn(self) -> bytes:
        """What the viewer draws, as JSON."""
        return embedded_json(graph_data(self.view)).encode()

    def editor(self, model: Model, limit: int) -> Editor:
        """What edits latents in the first of the pairs that the circuit was found on.

        It is kept for the next question, since most of what a first edit needs does not depend on what is edited. For
        the worker's thread only.
        """
        assert self.circuit is not None
        chosen = self.circuit.pairs[:limit]
        found = self._editors.pop(len(chosen), None) or Editor(self.coders, examples_of(model, chosen))
        numbers = 2 * len(chosen) * len(self.circuit.positions) * model.d_model * len(self.coders)
        if 4 * numbers <= KEPT_BYTES:
            self._editors[len(chosen)] = found  # as the last of them
        while len(self._editors) > EDITORS:
            del self._editors[next(iter(self._editors))]
        return found

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


@dataclass(frozen=True, eq=False)
class OpenedMapping:
    """What `bathyscope mapping fit` wrote.

    Args:
        path: of its file, as it was typed.
        mapping: what is in it.
        source, target: the served models that it was fitted on.
    """

    path: str
    mapping: Affine | SoftPrompt
    source: str
    target: str

    @property
    def lens(self) -> str | None:
        """The lens that it is for; None where it leads into another model."""
        if self.source != self.target:
            return None
        return LENSES.get("soft-prompt" if isinstance(self.mapping, SoftPrompt) else self.mapping.fit.method, SHORTCUT)

    @property
    def layers(self) -> int | tuple[int, ...]:
        """What a lens reads where nobody says which layers."""
        return self.mapping.layer if isinstance(self.mapping, SoftPrompt) else lens_layers(self.mapping)

    def told(self) -> dict[str, Any]:
        """What a page is told of it."""
        told = {"method": self.mapping.fit.method, "lens": self.lens, "writes": isinstance(self.mapping, Affine)}
        return {**told, "source": self.source, "target": self.target}


def names_of(paths: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A name for each path, which can stand in an address: its last part, with a number where two are alike.

    Args:
        paths: the paths.
        taken: names that mean something else.

    Example:
        >>> from bathyscope.web.opened import names_of
        >>> names_of(["a/verb agreement.json", "b/verb agreement.json", "c/resid_post.8/"])
        ['verb-agreement', 'verb-agreement-2', 'resid_post.8']
    """
    found: list[str] = []
    other = set(taken)
    for path in paths:
        last = Path(path).name.removesuffix(".json").removesuffix(".safetensors")
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip(".-")[:70] or "unnamed"
        name, more = plain, 2
        while name in found or name in other:
            name, more = f"{plain}-{more}", more + 1
        found.append(name)
    return found
