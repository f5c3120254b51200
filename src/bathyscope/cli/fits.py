"""The methods of `bathyscope mapping fit` by name: from what was asked to a call of `bathyscope.fitting`.

Imports no method: names are found when one is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bathyscope.cli import text_files
from bathyscope.cli.fit_request import LENGTH, POSITIONS, Request
from bathyscope.errors import UsageError, nearest
from bathyscope.sites import residual_site

if TYPE_CHECKING:
    from bathyscope.mappings import Affine
    from bathyscope.soft_prompts import SoftPrompt

TUNED_POSITIONS: Final = 100_000
"""Positions of a tuned lens unless said."""
JACOBIAN_PROMPTS, JACOBIAN_LENGTH = 96, 64
"""Prompts of a Jacobian lens unless said, and their tokens."""
AHEAD, SOFT_AHEAD = 1, 3
"""Tokens ahead of a linear future lens, and of a soft prompt, unless said."""
PREFIXES: Final = 1_000
"""Positions that a soft prompt learns from unless said."""


@dataclass(frozen=True)
class Method:
    """One way to fit.

    Args:
        fit: from what was asked to a mapping.
        takes: the options it has besides the model and the output.
    """

    fit: Callable[[Request], "Affine | SoftPrompt"]
    takes: frozenset[str]


def _affine(asked: Request, method: str) -> "Affine":
    from bathyscope.fitting import fit_affine

    pairs = [(residual_site(layer), residual_site(target)) for layer, target in asked.pairs()]
    return fit_affine(
        asked.source,
        asked.target,
        asked.texts(),
        pairs=pairs,
        method=method,
        n_positions=asked.positions or POSITIONS,
        length=asked.length(),
        progress=asked.progress,
        stop=asked.stop,
    )


def _tuned(asked: Request) -> "Affine":
    from bathyscope.fitting import fit_tuned_lens

    return fit_tuned_lens(
        asked.source,
        asked.texts(TUNED_POSITIONS),
        layers=asked.source_layers(),
        n_positions=asked.positions or TUNED_POSITIONS,
        length=asked.length(),
        seed=asked.seed or 0,
        checkpoint=asked.checkpoint,
        progress=asked.progress,
        stop=asked.stop,
    )


def _jacobian(asked: Request) -> "Affine":
    from bathyscope.fitting import fit_jacobian_lens

    length = asked.length(JACOBIAN_LENGTH)
    return fit_jacobian_lens(
        asked.source,
        asked.texts(JACOBIAN_PROMPTS * JACOBIAN_LENGTH),
        layers=asked.source_layers(),
        n_prompts=JACOBIAN_PROMPTS if asked.positions is None else max(1, asked.positions // length),
        length=length,
        seed=asked.seed or 0,
        checkpoint=asked.checkpoint,
        progress=asked.progress,
        stop=asked.stop,
    )


def _relation(asked: Request) -> "Affine":
    from bathyscope.engine import CancelledError
    from bathyscope.fitting import fit_relation

    layer = asked.one_layer("relation")
    if asked.text is None:
        raise UsageError(
            "no --text was given with --method relation",
            "it is fitted on lines such as: The capital of [France] is",
            "--text capitals.txt",
        )
    prompts, subjects = text_files.read_statements(Path(asked.text))

    def tick(done: int, total: int) -> None:
        if asked.stop.now or asked.stop.soon:
            raise CancelledError("the fit was stopped", "nothing of it is kept")
        asked.progress(done, total)

    return fit_relation(asked.source, prompts, subjects, layer=layer, progress=tick)


def _future(asked: Request) -> "Affine":
    from bathyscope.fitting import fit_future_lens

    return fit_future_lens(
        asked.source,
        asked.texts(),
        layers=asked.source_layers(),
        n_ahead=AHEAD if asked.ahead is None else asked.ahead,
        n_positions=asked.positions or POSITIONS,
        length=asked.length(),
        progress=asked.progress,
        stop=asked.stop,
    )


def _soft_prompt(asked: Request) -> "SoftPrompt":
    from bathyscope.fitting import fit_soft_prompt

    layer = asked.one_layer("soft-prompt")
    return fit_soft_prompt(
        asked.source,
        asked.texts(PREFIXES * LENGTH),
        layer=layer,
        n_ahead=SOFT_AHEAD if asked.ahead is None else asked.ahead,
        n_positions=asked.positions or PREFIXES,
        seed=asked.seed or 0,
        progress=asked.progress,
        stop=asked.stop,
    )


_ALONE: Final = frozenset({"text", "column", "layers", "positions", "seed"})
_BETWEEN: Final = _ALONE | {"target_layers", "target_model"}

METHODS: Final[dict[str, Method]] = {
    "ridge": Method(partial(_affine, method="ridge"), _BETWEEN),
    "least-squares": Method(partial(_affine, method="least-squares"), _BETWEEN),
    "linear": Method(partial(_affine, method="linear"), _BETWEEN),
    "scalar-affine": Method(partial(_affine, method="scalar-affine"), _BETWEEN),
    "procrustes": Method(partial(_affine, method="procrustes"), _BETWEEN),
    "mean-shift": Method(partial(_affine, method="mean-shift"), _BETWEEN),
    "tuned-lens": Method(_tuned, _ALONE),
    "jacobian-lens": Method(_jacobian, _ALONE),
    "relation": Method(_relation, frozenset({"text", "layers"})),
    "future-lens": Method(_future, _ALONE | {"ahead"}),
    "soft-prompt": Method(_soft_prompt, _ALONE | {"ahead"}),
}
"""Every method by the name that is typed."""
ALIASES: Final = {"affine": "ridge"}


def method_name(name: str) -> str:
    """A method's own name, from what was typed.

    Raises:
        UsageError: no method has that name.

    Example:
        >>> from bathyscope.cli.fits import method_name
        >>> method_name("affine")
        'ridge'
    """
    name = ALIASES.get(name, name)
    if name not in METHODS:
        raise UsageError(
            f"--method {name} was given",
            f"methods are {', '.join(METHODS)}",
            f"--method {nearest(name, METHODS)}",
        )
    return name


def check(method: str, given: set[str]) -> None:
    """Refuse options that a method does not have.

    Raises:
        UsageError: naming the methods that have it.
    """
    for option in sorted(given - METHODS[method].takes):
        having = ", ".join(name for name, one in METHODS.items() if option in one.takes)
        raise UsageError(
            f"--{option.replace('_', '-')} was given with --method {method}", f"only {having} have it", "--method ridge"
        )
