"""Layers: where a fitted mapping reads and writes when nobody says: at those that it was fitted for."""

from bathyscope.errors import UsageError
from bathyscope.mappings.affine import Affine
from bathyscope.model import Model
from bathyscope.sites import EMBEDDING_LAYER, Site, parse_layers

Chosen = str | tuple[int, ...]
"""Layers by number, or in words such as "all" or "same"."""


def lens_layers(mapping: Affine, to: int | None = None) -> tuple[int, ...]:
    """The layers that have a way to one layer, lowest first; -1 is the embedding.

    Args:
        mapping: what was fitted.
        to: that layer; the last that there is a way to unless said.

    Example:
        >>> import torch
        >>> from bathyscope.mappings import Affine, Fit, Term
        >>> from bathyscope.mappings.layers import lens_layers
        >>> from bathyscope.sites import Site
        >>> pairs = [(Site("resid_post", one), Site("resid_post", 5)) for one in (2, 3)]
        >>> lens_layers(Affine({pair: Term(torch.tensor(1.0)) for pair in pairs}, Fit("linear", {}, {})))
        (2, 3)
    """
    ways = {(EMBEDDING_LAYER if one.layer is None else one.layer, other.layer or 0) for one, other in mapping.terms}
    end = max(target for _, target in ways) if to is None else to
    return tuple(sorted(layer for layer, target in ways if target == end))


def mapped_layers(
    mapping: Affine, models: tuple[Model, Model], layers: str | None, target_layer: str | None
) -> tuple[Chosen, Chosen]:
    """Where to read and to write: as was said; where nothing was, at layers that a mapping was fitted for.

    Args:
        mapping: what is applied.
        models: the source and the target.
        layers: as was said, None where nothing was.
        target_layer: likewise.

    Raises:
        UsageError: the mapping was fitted on other models, or no target layer goes with all source layers.
    """
    mapping.check(*models, set())  # before its layers are taken for those of the models
    if layers is not None and target_layer is not None:
        return layers, target_layer
    reached: dict[int, set[int]] = {}
    for source, target in mapping.terms:
        reached.setdefault(_number(source, models[0]), set()).add(_number(target, models[1]))
    if target_layer is not None:
        targets = None if target_layer == "same" else set(parse_layers(target_layer, models[1].n_layers))
        found = tuple(one for one in sorted(reached) if reached[one] >= (targets or {one}))
        return found or "all", target_layer  # which the mapping refuses by name where there is none
    sources = tuple(sorted(reached)) if layers is None else parse_layers(layers, models[0].n_layers)
    if all(one in reached.get(one, ()) for one in sources):
        return sources, "same"
    common = tuple(sorted(set.intersection(*(reached.get(one, set()) for one in sources))))
    if not common:
        raise UsageError(
            f"a target layer for the layers {listed(sources)} is needed",
            f"this {mapping.fit.method} was fitted for none that goes with all of them",
            "--layers and --target-layer",
        )
    return sources, common


def listed(layers: int | str | tuple[int, ...]) -> str:
    """Layers as people read them.

    Example:
        >>> from bathyscope.mappings.layers import listed
        >>> listed((3, 7)), listed(tuple(range(30)))
        ('3,7', '0 to 29 (30 of them)')
    """
    if isinstance(layers, int | str):
        return str(layers)
    return ",".join(map(str, layers)) if len(layers) <= 8 else f"{layers[0]} to {layers[-1]} ({len(layers)} of them)"


def _number(site: Site, model: Model) -> int:
    """The layer of a site; what has none stands behind the last block."""
    return model.n_layers - 1 if site.layer is None else site.layer
