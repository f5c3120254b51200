"""Which mapping is applied: from what was typed to the mapping, and to the layers that one was fitted for."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bathyscope.cli import choices, terminal
from bathyscope.errors import StorageError, UsageError, nearest

if TYPE_CHECKING:
    from bathyscope.mappings import Affine, Mapping
    from bathyscope.model import Model
    from bathyscope.patchscope_request import Layers
    from bathyscope.soft_prompts import SoftPrompt

MAPPINGS: Final = ("identity", "norm-match", "scale:2")
"""Mappings without a file, as they are typed."""


def mapping(name: str | None, factor: float | None) -> "Mapping":
    """What is done to a vector before it is written: a name, a name with a factor, or a file.

    Raises:
        UsageError: it is none of these, or a factor is missing, not finite, or has nothing to scale.
    """
    from bathyscope import mappings

    if factor is not None:
        if name not in (None, "scale"):
            raise UsageError(f"both --mapping {name} and --scale were given", "one mapping is applied", "one of them")
        return mappings.Scale(_finite(factor, f"--scale {factor}"))
    if name in (None, "identity"):
        return mappings.Identity()
    if name == "norm-match":
        return mappings.NormMatch()
    kind, colon, number = name.partition(":")
    if kind == "scale" and not Path(name).exists():
        if not colon:
            raise UsageError("--mapping scale was given without --scale", "a factor is needed", "--mapping scale:2")
        return mappings.Scale(_finite(number, f"--mapping {name}"))
    if not Path(name).exists():
        raise UsageError(
            f"--mapping {name} was given",
            f"it is neither a name ({', '.join(MAPPINGS)}) nor a file that is there",
            f"--mapping {nearest(name, MAPPINGS)}",
        )
    return load(Path(name))


def load(path: Path) -> "Affine":
    """A mapping that was fitted and saved.

    Raises:
        UsageError: the file is missing, damaged, or something else.
    """
    from bathyscope.mappings import Affine

    with choices.refusing():
        return Affine.load(path)


def load_any(path: Path, *, ahead: int | None = None) -> "Affine | SoftPrompt":
    """A mapping or a soft prompt.

    Args:
        path: its file.
        ahead: how many tokens ahead it is to say, None where that was not typed.

    Raises:
        UsageError: the file is missing, damaged, or something else, or a mapping, which says one token only.
    """
    from bathyscope.soft_prompts import SoftPrompt

    try:
        return SoftPrompt.load(path)
    except StorageError:  # then it should be the usual thing
        mapping = load(path)
    if ahead is not None:
        raise UsageError(
            f"--ahead {ahead} was given with --mapping {path}",
            f"that {mapping.fit.method} is for one number of tokens of its own",
            "one of them",
        )
    return mapping


def layers_for(
    mapping: "Mapping", models: "tuple[Model, Model]", layers: str | None, target_layer: str | None
) -> "tuple[Layers, Layers]":
    """Where to read and to write: as was typed; where nothing was, at layers that the mapping was fitted for.

    Args:
        mapping: what is applied.
        models: the source and the target.
        layers: as was typed, None where nothing was.
        target_layer: likewise.

    Raises:
        UsageError: the mapping was fitted on other models, or no target layer goes with all source layers.
    """
    from bathyscope.mappings import Affine
    from bathyscope.mappings.layers import listed, mapped_layers

    if not isinstance(mapping, Affine):
        return layers or "all", target_layer or "same"
    found = mapped_layers(mapping, models, layers, target_layer)
    said = layers is not None and target_layer is not None
    fewer = layers is None and found[0] != "all" and len(found[0]) <= models[0].n_layers
    if not said and (fewer or (target_layer is None and found[1] != "same")):
        where = "the same" if found[1] == "same" else listed(found[1])
        terminal.note(f"layers {listed(found[0])} to {where}, which this {mapping.fit.method} was fitted for")
    return found


def lens_layers(fitted: "Affine | SoftPrompt", to: int | None) -> "dict[str, Layers]":
    """What a lens reads where no layers were typed: those with a way to one layer, or to the last there is.

    They are said where they are not all layers of the model. Nothing is returned where there are none, which the
    mapping itself refuses, and for a soft prompt, which is for one layer.
    """
    from bathyscope.mappings import Affine
    from bathyscope.mappings.layers import lens_layers as layers_of
    from bathyscope.mappings.layers import listed

    if not isinstance(fitted, Affine):
        return {}
    found = layers_of(fitted, to)
    if 0 < len(found) <= fitted.fit.source.get("n_layers", 0):
        terminal.note(f"layers {listed(found)}, which this {fitted.fit.method} was fitted for")
    return {"layer": found} if found else {}


def published(path: Path, model: "Model") -> "Affine":
    """A Jacobian lens in the published form, which does not say what model it is for.

    Raises:
        UsageError: the file is missing, damaged, something else, or for a model of another shape.
    """
    from bathyscope.fitting import load_jacobian_lens

    with choices.refusing():
        return load_jacobian_lens(path, model)


def _finite(number: str | float, given: str) -> float:
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise UsageError(f"{given} was given", "a finite number is needed", "--mapping scale:2")
    return factor
