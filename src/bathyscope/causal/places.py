"""Which sites of a model are changed: components, layers and heads made into sites, and windows of them."""

from collections.abc import Sequence

from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.sites import EMBEDDING_LAYER, GLOBAL, PER_HEAD, Site, check_layer, parse_layers, residual_site

Layers = int | str | Sequence[int]
"""A layer, several, or text such as "all", "embed", "3,7" or "0-10"; -1 is the embedding."""


def layers_of(model: Model, layers: Layers, component: str = "resid_post") -> tuple[int, ...]:
    """The layers that are meant; "all" has the embedding for the residual stream only.

    Raises:
        SiteError: a layer that does not exist.
        UsageError: no layer at all.
    """
    if layers == "all" and component != "resid_post":
        return tuple(range(model.n_layers))
    found = parse_layers(layers, model.n_layers) if isinstance(layers, (int, str)) else tuple(dict.fromkeys(layers))
    for layer in found:
        check_layer(layer, model.n_layers)
    if component != "resid_post":
        found = tuple(layer for layer in found if layer != EMBEDDING_LAYER)
    if not found:
        raise UsageError(f"no layer of {component} was given", "at least one is needed", "all")
    return found


def sites_of(model: Model, component: str, layers: Layers, *, heads: bool) -> tuple[Site, ...]:
    """Sites of a component, by layer; each head by itself where heads are asked for.

    Raises:
        UsageError: the component has no layers, or no heads.
        SiteError: this model has no such site.
    """
    if component in GLOBAL:
        raise UsageError(f"{component} was given as a component", "those that every block has", "resid_post")
    if heads and component not in PER_HEAD:
        raise UsageError(f"heads of {component} were asked for", f"{', '.join(sorted(PER_HEAD))} have heads", "z")
    found: list[Site] = []
    for layer in layers_of(model, layers, component):
        if component == "resid_post" and layer == EMBEDDING_LAYER:
            found.append(model.site(residual_site(layer)))
            continue
        site = model.site(Site(component, layer))
        count = model.architecture.n_kv_heads if component in ("k", "v") else model.architecture.n_heads
        found += [model.site(Site(component, layer, head)) for head in range(count)] if heads else [site]
    return tuple(found)


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
