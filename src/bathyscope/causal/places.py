"""Which sites of a model are changed: components, layers and heads made into sites, and windows of them."""

from collections.abc import Sequence
from typing import Any

from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.patchscope_request import Layers, layers_of
from bathyscope.sites import EMBEDDING_LAYER, GLOBAL, PER_HEAD, Site, check_component, residual_site


def check_components(components: str | Sequence[str], *, heads: bool = False) -> tuple[str, ...]:
    """The components that are meant: names without a layer, which every block has.

    Raises:
        SiteError: there is no such component.
        UsageError: it has no layers, or no heads where heads are asked for.
    """
    names = (components,) if isinstance(components, str) else tuple(dict.fromkeys(components))
    for name in names:
        check_component(name)
        if name in GLOBAL:
            raise UsageError(f"{name} was given as a component", "those that every block has", "resid_post")
        if heads and name not in PER_HEAD:
            raise UsageError(f"heads of {name} were asked for", f"{', '.join(sorted(PER_HEAD))} have heads", "z")
    return names


def sites_of(model: Model, components: str | Sequence[str], layers: Layers, *, heads: bool) -> tuple[Site, ...]:
    """Sites of components, by component and layer; each head by itself where heads are asked for.

    A component that none of the layers has, such as the MLP of the embedding, is left out beside another that does.

    Raises:
        UsageError: a component has no layers or no heads, or none has any of the layers.
        SiteError: there is no such component, or this model has no such site or layer.
    """
    names = check_components(components, heads=heads)
    found: list[Site] = []
    for name in names:
        for layer in layers_of(layers, model, name):
            if name == "resid_post" or layer != EMBEDDING_LAYER:
                found += _at_layer(model, name, layer, heads=heads)
    if not found:
        raise UsageError(
            f"layers {layers} of {', '.join(names)} were given", "only resid_post has the embedding for a layer", "all"
        )
    return tuple(found)


def said(components: str | Sequence[str], layers: Layers, *, heads: bool = False) -> dict[str, Any]:
    """What `sites_of` was given, as JSON values."""
    several = components if isinstance(components, str) else list(components)
    return {"component": several, "layers": layers if isinstance(layers, int | str) else list(layers), "heads": heads}


def _at_layer(model: Model, name: str, layer: int, *, heads: bool) -> list[Site]:
    if name == "resid_post" and layer == EMBEDDING_LAYER:
        return [model.site(residual_site(layer))]
    site = model.site(Site(name, layer))
    count = model.architecture.n_kv_heads if name in ("k", "v") else model.architecture.n_heads
    return [model.site(Site(name, layer, head)) for head in range(count)] if heads else [site]


def window_of(site: Site, window: int, n_layers: int) -> tuple[Site, ...]:
    """The sites of a window of layers around one, cut off at the model's ends (arXiv 2202.05262, section 2).

    Example:
        >>> from bathyscope.causal.places import window_of
        >>> from bathyscope.sites import Site
        >>> [one.layer for one in window_of(Site("mlp_out", 1), 4, 30)]
        [0, 1, 2]
    """
    if window < 1:
        raise UsageError(f"a window of {window} layers was given", "at least 1")
    if window == 1 or site.layer is None or site.layer == EMBEDDING_LAYER:
        return (site,)
    first = max(0, site.layer - window // 2)
    last = min(n_layers, site.layer - window // 2 + window)
    return tuple(Site(site.component, layer, site.head) for layer in range(first, last))


def named(site: Site, positions: Sequence[int], tokens: Tokens) -> dict[str, Any]:
    """What a cell says of its place: its site, layer and head, and the position and token where there is one."""
    one = positions[0] if len(positions) == 1 else None
    token = "" if one is None else tokens.texts[one]
    return {"site": str(site), "layer": site.layer, "head": site.head, "position": one, "token": token}


def window_notes(window: int) -> tuple[str, ...]:
    """What a reader has to know of windows of layers."""
    return () if window == 1 else (f"each layer stands for a window of {window} layers around it",)
