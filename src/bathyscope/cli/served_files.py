"""The files that `bathyscope serve` is started with: circuits, coders, what texts say of these, and mappings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bathyscope.cli import choices, circuit_files, circuit_request, mapping_choice
from bathyscope.cli.sae_features import open_coder
from bathyscope.embedded import EMBEDDED_NAME
from bathyscope.errors import UsageError

if TYPE_CHECKING:
    from bathyscope.model import Model
    from bathyscope.sae import LatentReadings, SparseCoder
    from bathyscope.web.opened import OpenedCircuit, OpenedCoder, OpenedMapping

PLAIN_MAPPINGS: Final = ("identity", "norm-match")
"""What no file's mapping is called, since pages offer these beside it."""


class ServedFiles:
    """What is opened before a model is: so that a wrong file is told at once.

    Args:
        circuits: files of graphs.
        folder: where the circuits' coders lie; where they lay then unless said.
        coders: folders of coders.
        features: saved results of `bathyscope sae features`.
        mappings: files of `bathyscope mapping fit`.

    Raises:
        UsageError: a file that cannot be read, is of something else, or does not belong to the others.
    """

    def __init__(
        self,
        circuits: Sequence[Path] | None,
        folder: Path | None,
        coders: Sequence[str] | None,
        features: Sequence[Path] | None,
        mappings: Sequence[Path] | None = None,
    ) -> None:
        if folder is not None and not circuits:
            raise UsageError("--coders was given without a circuit", "it says where a circuit's coders lie", "--coder")
        self._folder = folder
        self._circuits = {path: circuit_files.read(path) for path in circuits or ()}
        self._theirs = {
            path: circuit_request.circuit_coders(graph.circuit, folder) if graph.circuit else {}
            for path, graph in self._circuits.items()
        }
        self._coders = {path: open_coder(path) for path in coders or ()}
        self._readings = {path: _readings(path) for path in features or ()}
        self._mappings = {path: mapping_choice.load_any(path) for path in mappings or ()}

    def models(self) -> list[str | None]:
        """The models that these were made from, by what `--model` takes; the embedded one where none is known."""
        circuits = [one.circuit for one in self._circuits.values() if one.circuit]
        own = [one.provenance["models"][0]["model"] for one in circuits]
        own += [one.provenance["models"][0]["model"] for one in self._readings.values()]
        own += [one.model["model"] for one in self._coders.values() if one.model.get("model")]
        fits = [one.fit for one in self._mappings.values()]
        own += [end["model"] for fit in fits for end in (fit.source, fit.target) if end.get("model")]
        return list(dict.fromkeys(None if one == EMBEDDED_NAME else str(one) for one in own)) or [None]

    def circuits(self, loaded: "Mapping[str, Model]") -> "dict[str, OpenedCircuit]":
        """The circuits by name, each with the model that it was found in.

        Raises:
            UsageError: that model is not served.
        """
        from bathyscope.web.opened import OpenedCircuit, names_of

        found = {}
        for name, (path, graph) in zip(names_of(map(str, self._circuits)), self._circuits.items(), strict=True):
            theirs = tuple(self._theirs[path].values())
            made_in = graph.circuit.provenance["models"][0]["model"] if graph.circuit else None
            model = _model_of(theirs, loaded, str(path), made_in) if theirs else None
            folder = None if self._folder is None else str(self._folder)
            found[name] = OpenedCircuit(graph.view, str(path), graph.circuit, theirs, model, folder)
        return found

    def coders(self, loaded: "Mapping[str, Model]") -> "dict[str, OpenedCoder]":
        """The coders by name, with what a text says of them; and readings of which no coder was named.

        Raises:
            UsageError: a coder's model is not served.
        """
        from bathyscope.web.opened import OpenedCoder, names_of

        left = dict(self._readings)
        opened = []
        for path, coder in self._coders.items():
            own = next((file for file, one in left.items() if _is_of(one, coder)), None)
            readings = None if own is None else left.pop(own)
            made_in = readings.provenance["models"][0]["model"] if readings else None
            model = _model_of((coder,), loaded, path, made_in)
            opened.append(OpenedCoder(path, str(coder.site), coder.n_latents, coder, readings, model))
        opened += [OpenedCoder(str(path), one.site, one.n_latents, readings=one) for path, one in left.items()]
        return dict(zip(names_of(one.path for one in opened), opened, strict=True))

    def mappings(self, loaded: "Mapping[str, Model]") -> "dict[str, OpenedMapping]":
        """The mappings by name, each with the models that it was fitted on.

        Raises:
            UsageError: one of these is not served.
        """
        from bathyscope.web.opened import OpenedMapping, names_of

        names = names_of(map(str, self._mappings), taken=PLAIN_MAPPINGS)
        found = {}
        for name, (path, mapping) in zip(names, self._mappings.items(), strict=True):
            source, target = (_fitted_on(path, end, loaded) for end in (mapping.fit.source, mapping.fit.target))
            found[name] = OpenedMapping(str(path), mapping, source, target)
        return found


def _fitted_on(path: Path, end: "Mapping[str, Any]", loaded: "Mapping[str, Model]") -> str:
    """The served model that a mapping was fitted on, by its weights."""
    for name, model in loaded.items():
        if model.fingerprint == end.get("fingerprint"):
            return name
    raise UsageError(
        f"{path} was fitted on {end.get('model')}",
        f"served are {', '.join(loaded)}; a mapping belongs to the very weights that it was fitted on, dtype included",
        f"bathyscope serve --model {end.get('model')}",
    )


def _readings(path: Path) -> "LatentReadings":
    from bathyscope.results import Result
    from bathyscope.sae import LatentReadings

    with choices.refusing():
        found = Result.load(path)
    if not isinstance(found, LatentReadings):
        raise UsageError(
            f"{path} holds a result of kind {found.kind}", "features are needed", "bathyscope sae features --out FILE"
        )
    return found


def _is_of(readings: "LatentReadings", coder: "SparseCoder") -> bool:
    return readings.provenance["spec"].get("coder") == coder.fingerprint


def _model_of(coders: "Sequence[SparseCoder]", loaded: "Mapping[str, Model]", path: str, made_in: str | None) -> str:
    """The served model that coders are for.

    A coder that knows its model's weights tells; others fit many a model, so that the name decides that the circuit or
    the features were made in.
    """
    known = all(coder.model.get("fingerprint") for coder in coders)
    named = {name: model for name, model in loaded.items() if made_in in (None, model.provenance()["model"])}
    refusal = UsageError(
        f"{path} was made in {made_in}", f"served are {', '.join(loaded)}", f"bathyscope serve --model {made_in}"
    )
    for name, model in (loaded if known else named).items():
        try:
            for coder in coders:
                coder.check(model)
        except UsageError as error:
            refusal = error
        else:
            return name
    raise refusal
