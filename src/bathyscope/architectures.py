"""What it means for a family to keep a component somewhere: `Tap` and `Architecture`.

Knows no weights and registers nothing; the families themselves are rows of data in `families`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from bathyscope.errors import SiteError
from bathyscope.sites import GLOBAL, Site

Axes = Literal["batch pos width", "batch pos head width", "batch head pos width", "batch head pos key", "rows width"]


@dataclass(frozen=True)
class Tap:
    """The module that a component's activation passes through, and how to find it there.

    Args:
        module: path below the block, or below the model for the components in `sites.GLOBAL`.
        side: whether the activation is what the module receives or what it returns.
        item: which element, where the module returns a tuple.
        axes: how the module lays the tensor out; "rows width" is batch and position in one axis.
        columns: for heads in a flat or fused tensor, the columns of each head, (n_heads, d_head).
        multiplier: what the model multiplies the tensor by before adding it to the residual stream.
        in_place: the very tensor goes on along the residual stream, so a write must change it in place.
        absent: why some blocks of the family lack this module, if they may.
    """

    module: str
    side: Literal["in", "out"] = "out"
    item: int = 0
    axes: Axes = "batch pos width"
    columns: Tensor | None = field(default=None, compare=False)
    multiplier: float = 1.0
    in_place: bool = False
    absent: str = ""


@dataclass(frozen=True)
class Architecture:
    """What a family's modules are called, and the sizes that their activations have.

    Args:
        family: the config's `model_type`.
        blocks: path of the list of blocks.
        taps: component to `Tap`, or to the reason why this family has no such site.
        norm: path of the final norm, or None.
        project_out: path of a projection between the final norm and the unembedding, or None.
        attention_interface: whether attention goes through transformers' exchangeable functions.
        logit_multiplier, logit_divisor, logit_softcap: what happens to the logits after the unembedding.
    """

    family: str
    blocks: str
    taps: Mapping[str, Tap | str]
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    norm: str | None
    project_out: str | None = None
    attention_interface: bool = True
    logit_multiplier: float = 1.0
    logit_divisor: float = 1.0
    logit_softcap: float | None = None

    def tap(self, site: Site) -> Tap:
        """The tap of a site.

        Raises:
            SiteError: this family has no such site (with the reason), or no such layer or head.
        """
        tap = self.taps[site.component]
        if isinstance(tap, str):
            raise SiteError(f"{self.family} has no site {site.component}", tap)
        if site.component not in GLOBAL and not 0 <= (site.layer or 0) < self.n_layers:
            raise SiteError(f"{site} does not exist", f"this model has blocks 0 to {self.n_layers - 1}")
        heads = self.n_kv_heads if site.component in ("k", "v") else self.n_heads
        if site.head is not None and site.head >= heads:
            raise SiteError(f"{site} does not exist", f"{site.component} has heads 0 to {heads - 1} in this model")
        return tap

    def width(self, component: str) -> tuple[int, ...]:
        """The shape of a residual-stream activation or of one head's; other widths are known once they are read."""
        if component in ("q", "k", "v", "z"):
            return (self.n_kv_heads if component in ("k", "v") else self.n_heads, self.d_head)
        return (self.d_model,)

    def module_path(self, site: Site) -> str:
        """The full path of the module that a site is read at, for example `model.layers.5.mlp`."""
        module = self.tap(site).module
        if site.component in GLOBAL:
            return module
        return ".".join(part for part in (self.blocks, str(site.layer), module) if part)

    def site_at(self, path: str) -> Site | None:
        """The site that a Hugging Face module path names, `PATH` for what it returns and `PATH:in` for its input."""
        module, _, side = path.partition(":")
        for component, tap in self.taps.items():
            if isinstance(tap, str) or tap.side != (side or "out") or tap.item or tap.columns is not None:
                continue
            for layer in (None,) if component in GLOBAL else range(self.n_layers):
                site = Site(component, layer)
                if self.module_path(site) == module:
                    return site
        return None
