"""One call of the next-token study, resolved: which text, which places, which lenses, which cells."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, TypedDict

from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.mappings import Affine
from bathyscope.model import Model
from bathyscope.sites import parse_layers
from bathyscope.store import Store
from bathyscope.studies.measuring import WINDOWS, Measuring
from bathyscope.studies.next_token_study.fitted import LensFit, lens_folder
from bathyscope.studies.next_token_study.portions import Portion
from bathyscope.studies.next_token_study.ways import FITTED, METHODS, PROMPTED, READOUT, Way, check_methods, ways_of
from bathyscope.studies.places import Place, draw_places
from bathyscope.studies.unseen import parted
from bathyscope.texts import Texts

FIT_POSITIONS: Final = 20_000
LENGTH: Final = 128


class NextTokenChoices(TypedDict, total=False):
    """What the next-token study takes besides the model and the text.

    Args:
        positions: how many positions are measured at, 1,000 unless said.
        per_window: at most so many of one window; unless said 4, or more where the text has few windows.
        length: tokens of a window, 128 unless said.
        seed: decides which positions, the bootstrap, and what is random in a fit; 0 unless said.
        layers: after which layers: "all" (the default), "embed", "0-10", a number, several.
        methods: some of `METHODS`, all unless said.
        tuned_lens: from `fitting.fit_tuned_lens`; fitted here, on the text that is not measured on, unless given.
        jacobian_lens: from `fitting.fit_jacobian_lens`; likewise.
        fit_positions: on how many positions a tuned lens is fitted here, 20,000 unless said.
        held_out: share of the documents that is measured on, the last of them; unless said 0.3, or less where the
            given lenses have seen more of this text; 1 for all, where none has seen any.
    """

    positions: int
    per_window: int | None
    length: int
    seed: int
    layers: int | str | Sequence[int]
    methods: Sequence[str]
    tuned_lens: Affine | None
    jacobian_lens: Affine | None
    fit_positions: int
    held_out: float | None


@dataclass(frozen=True)
class Asked:
    """What is measured, but for the lenses that have to be fitted first.

    Args:
        model: the model.
        to_fit: the documents that lenses may be fitted on, if any.
        measured: those that are measured on.
        places: where.
        layers: after which layers.
        methods: by which methods.
        lenses: the fitted lenses that are there, by method.
        choices: what was asked.
    """

    model: Model
    to_fit: Texts | None
    measured: Texts
    places: tuple[Place, ...]
    layers: tuple[int, ...]
    methods: tuple[str, ...]
    lenses: dict[str, Affine]
    choices: NextTokenChoices

    @classmethod
    def of(cls, model: Model, texts: Texts, choices: NextTokenChoices) -> "Asked":
        """Resolve a call, with all that can be refused refused.

        Raises:
            UsageError: too little text, an unknown method or layer, or a lens that does not fit.
        """
        methods = tuple(choices.get("methods", METHODS))
        check_methods(methods)
        lenses = _given(methods, choices)
        lacking = [method for method in methods if method in FITTED and method not in lenses]
        layers = parse_layers(choices.get("layers", "all"), model.n_layers)
        for way in ways_of(model, [method for method in methods if method not in lacking], lenses):
            way.check(model, layers)
        to_fit, measured = parted(texts, choices.get("held_out"), list(lenses.values()))
        if to_fit is None and lacking:
            raise UsageError(
                f"all of the text was to be measured on, and the {lacking[0]} is to be fitted on some",
                "a lens is measured on text that it has not seen",
                "--held-out 0.3, or a lens that was fitted on other text",
            )
        places = draw_places(
            model,
            measured,
            positions=choices.get("positions", 1000),
            per_window=choices.get("per_window"),
            length=_length(model, choices),
            seed=choices.get("seed", 0),
        )
        return cls(model, to_fit, measured, places, layers, methods, lenses, choices)

    @property
    def seed(self) -> int:
        """Decides everything that is drawn."""
        return self.choices.get("seed", 0)

    def fits(self) -> tuple[LensFit, ...]:
        """The lenses that are needed and were not given."""
        if self.to_fit is None:
            return ()
        settings: dict[str, dict[str, Any]] = {
            "tuned-lens": {
                "n_positions": self.choices.get("fit_positions", FIT_POSITIONS),
                "length": _length(self.model, self.choices),
            },
            "jacobian-lens": {},
        }
        return tuple(
            LensFit(method, self.model, self.to_fit, {"seed": self.seed, **settings[method]})
            for method in self.methods
            if method in FITTED and method not in self.lenses
        )

    def fitted(self, store: Store | None, progress: Progress | None, stop: Stop | None) -> "Ready":
        """The same with every lens: those that were not given are found where they are kept, or fitted."""
        folder = lens_folder(store)
        found = {fit.method: fit.run(folder, progress=progress, stop=stop) for fit in self.fits()}
        return Ready(self, {**self.lenses, **found})


@dataclass(frozen=True)
class Ready:
    """A call with everything that its cells depend on.

    Args:
        asked: the call.
        lenses: every fitted lens that it needs, by method.
    """

    asked: Asked
    lenses: dict[str, Affine]

    def measuring(self, budget: int, progress: Progress | None = None, stop: Stop | None = None) -> Measuring:
        """What is to be measured: a few windows at a time, for each of them every method."""
        asked, ways = self.asked, self.ways()
        windows = [tuple(places) for _, places in groupby(asked.places, key=lambda place: place.window)]
        groups = [
            [Portion(way, places, asked.layers) for way in ways for places in windows[first : first + WINDOWS]]
            for first in range(0, len(windows), WINDOWS)
        ]
        return Measuring(asked.model, groups, budget, progress, stop)

    def ways(self) -> tuple[Way, ...]:
        """The methods, checked against the model and the layers.

        Raises:
            UsageError: a lens is not for this model or not for these layers.
        """
        found = ways_of(self.asked.model, self.asked.methods, self.lenses)
        for way in found:
            way.check(self.asked.model, self.asked.layers)
        return found

    def spec(self) -> dict[str, Any]:
        """What is measured, as JSON values."""
        asked = self.asked
        places = "".join(f"{place.tokens.ids}{place.position}" for place in asked.places)
        return {
            "text": asked.measured.describe(),
            "positions": len(asked.places),
            "windows": asked.places[-1].window + 1,
            "length": _length(asked.model, asked.choices),
            "seed": asked.seed,
            "places": hashlib.sha256(places.encode()).hexdigest(),
            "layers": list(asked.layers),
            "methods": list(asked.methods),
            "lenses": {method: _lens_spec(lens) for method, lens in self.lenses.items()},
            "prompts": {way.method: way.inspection.tokens.text for way in self.ways() if way.method in PROMPTED},
            "models": [asked.model.loadable()],
            **READOUT.spec(),
        }


def argument(method: str) -> str:
    """What the lens of a method is called as an argument."""
    return method.replace("-", "_")


def _given(methods: Sequence[str], choices: NextTokenChoices) -> dict[str, Affine]:
    """The lenses that were given, by method."""
    found = {method: lens for method in FITTED if isinstance(lens := choices.get(argument(method)), Affine)}
    if unused := found.keys() - set(methods):
        raise UsageError(
            f"a {min(unused)} was given, and the methods {', '.join(methods)}", "a lens is given to be measured"
        )
    return found


def _length(model: Model, choices: NextTokenChoices) -> int:
    """Tokens of a window; as many as the model has positions for, where that is fewer than usual."""
    return choices.get("length", min(LENGTH, model.max_length or LENGTH))


def _lens_spec(lens: Affine) -> dict[str, Any]:
    fit = lens.fit
    return {
        "fingerprint": lens.fingerprint(),
        "text": dict(fit.text),
        "n_samples": fit.n_samples,
        "options": dict(fit.options),
    }
