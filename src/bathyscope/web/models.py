"""What the server was started with, by name: models, and circuits, coders and mappings that are for them."""

from collections.abc import Iterator, Mapping
from typing import Any

from bathyscope.errors import ModelError, UsageError
from bathyscope.model import Model
from bathyscope.web.opened import OpenedCircuit, OpenedCoder, OpenedMapping


class Models:
    """Loaded models by name; the first is meant where none is named.

    Args:
        loaded: by the name that pages show.
        arguments: for each what `--model` or `bathyscope.load` are given; None for the embedded model.
        circuits: by the name that pages and addresses have.
        coders: the same of coders.
        mappings: the same of mappings.
    """

    def __init__(
        self,
        loaded: Mapping[str, Model],
        arguments: Mapping[str, str | None] | None = None,
        *,
        circuits: Mapping[str, OpenedCircuit] | None = None,
        coders: Mapping[str, OpenedCoder] | None = None,
        mappings: Mapping[str, OpenedMapping] | None = None,
    ) -> None:
        self._loaded = dict(loaded)
        self._arguments = dict(arguments or {})
        self.circuits, self.coders = dict(circuits or {}), dict(coders or {})
        self.mappings = dict(mappings or {})

    def __iter__(self) -> Iterator[tuple[str, Model]]:
        return iter(self._loaded.items())

    def named(self, name: str | None) -> Model:
        """A model by its name.

        Raises:
            ModelError: it was not named at the start.
        """
        if name is None:
            return next(iter(self._loaded.values()))
        if name not in self._loaded:
            known = ", ".join(self._loaded)
            raise ModelError(f"no model {name[:80]!r} is served", f"there are {known}", "bathyscope serve --model NAME")
        return self._loaded[name]

    def circuit(self, name: str) -> OpenedCircuit:
        """A circuit by its name.

        Raises:
            UsageError: it was not named at the start.
        """
        return _found(self.circuits, name, "circuit", "--circuit FILE")

    def coder(self, name: str) -> OpenedCoder:
        """A coder by its name.

        Raises:
            UsageError: it was not named at the start.
        """
        return _found(self.coders, name, "coder", "--coder DIR")

    def mapping(self, name: str) -> OpenedMapping:
        """A mapping by its name.

        Raises:
            UsageError: it was not named at the start.
        """
        return _found(self.mappings, name, "mapping", "--mapping FILE")

    def known(self, name: str | None) -> str:
        """The name of a model, the first one's where none is named.

        Raises:
            ModelError: it was not named at the start.
        """
        self.named(name)
        return next(iter(self._loaded)) if name is None else name

    def identify(self) -> None:
        """Read all weights once, which the store names cells by; else the first question would wait for it."""
        for model in self._loaded.values():
            _ = model.fingerprint

    def argument(self, name: str | None) -> str | None:
        """What is typed for it; None for the embedded model."""
        return self._arguments.get(name or next(iter(self._loaded), ""))

    def like(self, loadable: Mapping[str, Any]) -> Model:
        """The model that a stored run names, if it is served.

        Raises:
            ModelError: it is not.
        """
        for model in self._loaded.values():
            if model.loadable() == dict(loadable):
                return model
        name = str(loadable.get("name"))
        raise ModelError(f"the run is of {name[:80]!r}, which is not served", "", f"bathyscope serve --model {name}")


def _found(there: Mapping[str, Any], name: str, kind: str, option: str) -> Any:
    if name not in there:
        known = ", ".join(there) or "none"
        raise UsageError(f"no {kind} {name[:80]!r} is served", f"there are {known}", f"bathyscope serve {option}")
    return there[name]
