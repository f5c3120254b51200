"""The models that the server was started with: no request can name another."""

from collections.abc import Mapping
from typing import Any

from bathyscope.errors import ModelError
from bathyscope.model import Model


class Models:
    """Loaded models by name; the first is meant where none is named.

    Args:
        loaded: by the name that pages show.
        arguments: for each what `--model` or `bathyscope.load` are given; None for the embedded model.
    """

    def __init__(self, loaded: Mapping[str, Model], arguments: Mapping[str, str | None] | None = None) -> None:
        self._loaded = dict(loaded)
        self._arguments = dict(arguments or {})

    def __iter__(self) -> Any:
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
