"""Sites: the names of the places in a model where an activation can be read or written.

Knows names only: which module holds a site is in `architectures`, and no torch is imported here.
Components carry TransformerLens's names. `layer` is the block's own number from 0 to
n_layers - 1, never counted from the end, and -1 stands for the embedding.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bathyscope.errors import SiteError, nearest

EMBEDDING_LAYER: Final = -1
"""The layer number of the embedding, wherever a layer is asked for or printed."""

COMPONENTS: Final[dict[str, str]] = {
    "embed": "the token's embedding as it enters the residual stream, before learned positions",
    "resid_pre": "the residual stream that a block reads",
    "resid_mid": "the residual stream between attention and MLP (sequential blocks only)",
    "resid_post": "the residual stream that a block returns, before the final norm",
    "attn_out": "what attention adds to the residual stream",
    "mlp_out": "what the MLP adds to the residual stream",
    "q": "queries per head, after a query norm and before rotary positions",
    "k": "keys per head, after a key norm and before rotary positions",
    "v": "values per head",
    "z": "each head's mixed values, before the output projection",
    "pattern": "attention probabilities per head (eager attention only; read only)",
    "mlp_post": "MLP neurons: the input of the MLP's output projection",
    "final_norm": "the residual stream after the final norm",
    "logits": "the model's own logits",
}
GLOBAL: Final = frozenset({"embed", "final_norm", "logits"})
PER_HEAD: Final = frozenset({"q", "k", "v", "z", "pattern"})

_CANONICAL = re.compile(r"(?P<component>[a-z_]+)(?:\.(?P<layer>\d+))?(?:\.(?P<head>\d+))?")
_TRANSFORMER_LENS: Final = (
    (re.compile(r"hook_embed"), "embed"),
    (re.compile(r"ln_final\.hook_normalized"), "final_norm"),
    (re.compile(r"blocks\.(\d+)\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)"), None),
    (re.compile(r"blocks\.(\d+)\.attn\.hook_(q|k|v|z|pattern)"), None),
    (re.compile(r"blocks\.(\d+)\.mlp\.hook_(post)"), "mlp_post"),
)


@dataclass(frozen=True, order=True)
class Site:
    """A place where an activation can be read or written.

    Args:
        component: one of `COMPONENTS`.
        layer: block number; -1 for `embed`; None for `final_norm` and `logits`.
        head: one head of a per-head component, or None for all of them.

    Raises:
        SiteError: the three do not name a site.

    Example:
        >>> from bathyscope.sites import Site
        >>> Site.parse("z.5.3")
        Site('z.5.3')
        >>> Site.parse("blocks.5.hook_resid_post") == Site("resid_post", 5)
        True
    """

    component: str
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        name = self.component
        check_component(name)
        if name == "embed":
            object.__setattr__(self, "layer", EMBEDDING_LAYER)
        elif name in GLOBAL and self.layer is not None:
            raise SiteError(f"{name} was given layer {self.layer}", "it has no layer", name)
        elif name not in GLOBAL and (self.layer is None or self.layer < 0):
            raise SiteError(
                f"{name} was given layer {self.layer}", "layers are counted from 0, never from the end", f"{name}.0"
            )
        if self.head is not None and (name not in PER_HEAD or self.head < 0):
            raise SiteError(
                f"{name} was given head {self.head}", f"only {', '.join(sorted(PER_HEAD))} have heads", "z.5.3"
            )

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read `component[.layer[.head]]` or a TransformerLens hook name.

        Hugging Face module paths depend on the family; `Model.site` reads those as well.

        Raises:
            SiteError: the text names no site.
        """
        if isinstance(text, Site):
            return text
        if match := _CANONICAL.fullmatch(text):
            layer, head = match["layer"], match["head"]
            component = match["component"]
            if component in COMPONENTS and not (component in GLOBAL and layer is not None):
                return cls(component, _number(layer), _number(head))
        for pattern, component in _TRANSFORMER_LENS:
            if match := pattern.fullmatch(text):
                groups = match.groups()
                return cls(component or groups[1], int(groups[0])) if groups else cls(component or "")
        raise SiteError(
            f"{text!r} is not a site",
            f"write component.layer or component.layer.head, with a component of {', '.join(COMPONENTS)}",
            _likely(text),
        )

    def __str__(self) -> str:
        parts = [self.component]
        if self.component not in GLOBAL:
            parts.append(str(self.layer))
        if self.head is not None:
            parts.append(str(self.head))
        return ".".join(parts)

    def __repr__(self) -> str:
        return f"Site({str(self)!r})"


def check_component(name: str) -> None:
    """Refuse what is no component, such as a site, which has a layer as well.

    Raises:
        SiteError: with the component that is most like it.
    """
    if name not in COMPONENTS:
        known = f"components, without a layer, are {', '.join(COMPONENTS)}"
        raise SiteError(f"no component is called {name!r}", known, nearest(name, COMPONENTS))


def residual_site(layer: int) -> Site:
    """The residual stream at a layer: `embed` for -1, `resid_post.layer` otherwise.

    Example:
        >>> from bathyscope.sites import residual_site
        >>> [str(residual_site(layer)) for layer in (-1, 3)]
        ['embed', 'resid_post.3']
    """
    return Site("embed") if layer == EMBEDDING_LAYER else Site("resid_post", layer)


def parse_layers(text: str | int | Sequence[int], n_layers: int) -> tuple[int, ...]:
    """Read a choice of layers: `all`, `embed`, `3`, `3,7` or `0-10` (both ends included), or the layers themselves.

    `all` is the embedding (-1) and every block. A layer that is named twice is one.

    Raises:
        SiteError: the text is not a choice of layers, none is chosen, or a layer does not exist.

    Example:
        >>> from bathyscope.sites import parse_layers
        >>> parse_layers("embed,0-2", n_layers=4)
        (-1, 0, 1, 2)
    """
    layers: list[int] = [] if isinstance(text, (str, int)) else list(text)
    for part in str(text).split(",") if isinstance(text, (str, int)) else ():
        part = part.strip()
        if part == "all":
            layers += range(EMBEDDING_LAYER, n_layers)
        elif part in ("embed", "-1"):
            layers.append(EMBEDDING_LAYER)
        elif match := re.fullmatch(r"(\d+)(?:-(\d+))?", part):
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise SiteError(f"layers {part!r} run backwards", "write the lower layer first", f"{last}-{first}")
            check_layer(last, n_layers)  # before a range of any length is written out
            layers += range(first, last + 1)
        else:
            raise SiteError(f"{text!r} is not a choice of layers", "write all, embed, 3, 3,7 or 0-10", "all")
    if not layers:
        raise SiteError("no layer was given", "at least one is needed", "all")
    for layer in layers:
        check_layer(layer, n_layers)
    return tuple(dict.fromkeys(layers))


def check_layer(layer: int, n_layers: int) -> None:
    """Refuse a layer that a model of `n_layers` blocks does not have."""
    if not EMBEDDING_LAYER <= layer < n_layers:
        raise SiteError(
            f"layer {layer} does not exist",
            f"this model has layers -1 (the embedding) and 0 to {n_layers - 1}, never counted from the end",
            f"0-{n_layers - 1}",
        )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _likely(text: str) -> str:
    """The site that a text which names none is most like."""
    name, number = nearest(text, COMPONENTS), re.search(r"\d+", text)
    return name if name in GLOBAL else f"{name}.{number[0] if number else 0}"
