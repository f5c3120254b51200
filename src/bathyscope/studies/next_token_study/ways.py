"""The ways to read a next token out of a representation, by name: each is a place to write and a mapping."""

from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bathyscope import prompts
from bathyscope.engine import Cell, Read
from bathyscope.errors import UsageError
from bathyscope.lenses.vocabulary import behind_last_block
from bathyscope.mappings import Affine, Identity, Mapping
from bathyscope.model import Model
from bathyscope.prompts import Inspection
from bathyscope.readouts import PrecisionAtK, Readout, Several, Surprisal
from bathyscope.sites import EMBEDDING_LAYER, Site, residual_site
from bathyscope.studies.places import Place

LOGIT_LENS: Final = "logit-lens"
FITTED: Final = ("tuned-lens", "jacobian-lens")
"""The methods with a mapping that is fitted to the model first."""
PROMPTED: Final = {"token-identity": prompts.token_identity, "bare-placeholder": prompts.bare}
"""The methods that write into a prompt, at the layer that was read."""
METHODS: Final = (LOGIT_LENS, *FITTED, *PROMPTED)

READOUT: Final[Readout] = Several((PrecisionAtK(1), Surprisal()))
"""What every method is measured by: against what the model itself says next."""


@dataclass(frozen=True)
class Way:
    """How one method reads a representation.

    Args:
        method: its name.
        inspection: the prompt that is written into.
        site: where; None for the site that was read.
        mapping: what happens on the way.
    """

    method: str
    inspection: Inspection
    site: Site | None = None
    mapping: Mapping = field(default_factory=Identity)

    def cell(self, place: Place, layer: int) -> Cell:
        """The measurement of one place and layer."""
        read = residual_site(layer)
        return Cell(
            target=self.inspection.tokens,
            readout=READOUT,
            source=Read(place.tokens, read, place.position),
            site=self.site or read,
            positions=self.inspection.positions,
            mapping=self.mapping,
        )

    @property
    def controlled(self) -> bool:
        """Whether there is a prompt that says something with nothing written into it, too."""
        return self.method in PROMPTED

    def control(self, place: Place) -> Cell:
        """That prompt with nothing written into it, compared with the same place."""
        against = Read(place.tokens, residual_site(EMBEDDING_LAYER), place.position)
        return Cell(self.inspection.tokens, READOUT, against=against)

    def check(self, model: Model, layers: Sequence[int]) -> None:
        """Refuse a mapping that is not for this model, or not for these layers."""
        sites = {(residual_site(layer), self.site or residual_site(layer)) for layer in layers}
        self.mapping.check(model, model, sites)


def ways_of(model: Model, methods: Sequence[str], fitted: AnyMapping[str, Affine]) -> tuple[Way, ...]:
    """The methods of a study.

    Args:
        model: the model.
        methods: their names.
        fitted: by name the mappings of those that have one.

    Raises:
        UsageError: a mapping is missing, or another method's.
    """
    behind = behind_last_block(model).prompt
    assert isinstance(behind, Inspection)
    last = Site("resid_post", model.n_layers - 1)
    found = []
    for method in methods:
        if method in PROMPTED:
            found.append(Way(method, prompts.prepare(model, PROMPTED[method]())))
        elif method in FITTED:
            found.append(Way(method, behind, last, _mapping(method, fitted)))
        else:
            found.append(Way(method, behind, last))
    return tuple(found)


def check_methods(methods: Sequence[str]) -> None:
    """Refuse what is no method, and none at all.

    Raises:
        UsageError: naming those that are.
    """
    if unknown := [method for method in methods if method not in METHODS]:
        raise UsageError(f"no method is called {unknown[0]!r}", f"methods are {', '.join(METHODS)}")
    if not methods or len(set(methods)) < len(methods):
        raise UsageError(
            f"the methods {', '.join(methods) or '(none)'} were given", "each once, and at least one", LOGIT_LENS
        )


def _mapping(method: str, fitted: AnyMapping[str, Affine]) -> Affine:
    found = fitted.get(method)
    if found is None or found.fit.method != method:
        given = "nothing" if found is None else f"a mapping fitted as {found.fit.method!r}"
        raise UsageError(
            f"{given} was given for the {method}",
            "it is fitted to the model first",
            f"bathyscope mapping fit --method {method} --text FILE --out FILE",
        )
    return found
