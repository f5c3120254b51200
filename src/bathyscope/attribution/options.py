"""What the estimates of a pair's nodes take and share: which sites, which way, and how many effects are measured."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from torch import Tensor

from bathyscope.attribution.effects import measured_effects
from bathyscope.attribution.result import Node
from bathyscope.causal.pairs import Pair, pair
from bathyscope.causal.patching import DIRECTIONS, Direction
from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.readouts import Metric
from bathyscope.sites import EMBEDDING_LAYER, GLOBAL, PER_HEAD, Site, check_component, parse_layers, residual_site

MEASURED = 100
"""How many effects are measured, unless said."""
UNWRITTEN = ("pattern", *sorted(GLOBAL - {"embed"}))


class AttributionOptions(TypedDict, total=False):
    """What attribution patching and integrated gradients take besides a model, two prompts and a metric.

    Args:
        sites: components, such as "resid_post" (the default), "attn_out", "mlp_out", "z", "mlp_post", or several.
        layers: of which blocks: "all" (the default), "embed", "0-10", a number, several.
        direction: "denoising" (the default) writes what the clean run holds into the corrupted one, "noising" the
            other way round.
        measure: how many effects are measured, those of the largest attributions first; 100 unless said, None for all.
        progress: called with what is done and what there is to do.
        stop: looked at after every batch.
    """

    sites: str | Sequence[str]
    layers: int | str | Sequence[int]
    direction: Direction
    measure: int | None
    progress: Progress | None
    stop: Stop | None


@dataclass(frozen=True)
class Asked:
    """A call, resolved.

    Args:
        pair: the prompts and the metric.
        sites: whole sites, all heads together.
        target: the prompt that is written into.
        source: the prompt that what is written comes from.
        measure: how many effects are measured; None for all.
        options: as they were given.
    """

    pair: Pair
    sites: tuple[Site, ...]
    target: Tokens
    source: Tokens
    measure: int | None
    options: AttributionOptions

    @classmethod
    def of(cls, model: Model, clean: Prompt, corrupted: Prompt, metric: Metric, options: AttributionOptions) -> "Asked":
        """Check and resolve a call.

        Raises:
            UsageError: prompts of different lengths, an option or a site that does not exist.
        """
        if unknown := sorted(options.keys() - AttributionOptions.__annotations__.keys()):
            known = ", ".join(AttributionOptions.__annotations__)
            raise UsageError(f"the option {unknown[0]!r} was given to an attribution", f"options are {known}")
        direction = options.get("direction", "denoising")
        if direction not in DIRECTIONS:
            raise UsageError(f"direction={direction!r} was given", f"it is {' or '.join(DIRECTIONS)}")
        measure = options.get("measure", MEASURED)
        if measure is not None and measure < 0:
            raise UsageError(f"measure={measure} was given", "a number of effects from 0, or None for all")
        found = pair(model, clean, corrupted, metric)
        target, source = (found.corrupted, found.clean) if direction == "denoising" else (found.clean, found.corrupted)
        sites = _sites(model, options.get("sites", "resid_post"), options.get("layers", "all"))
        return cls(found, sites, target, source, measure, options)

    def spec(self, method: str) -> dict[str, object]:
        """What was asked, as JSON values."""
        return {
            "method": method,
            "clean": {"prompt": self.pair.clean.text, "ids": list(self.pair.clean.ids)},
            "corrupted": {"prompt": self.pair.corrupted.text, "ids": list(self.pair.corrupted.ids)},
            "sites": [str(site) for site in self.sites],
            "direction": self.options.get("direction", "denoising"),
            "measure": self.measure,
            **self.pair.metric.spec(),
        }

    def nodes(self, site: Site, products: Tensor) -> list[Node]:
        """Nodes of a whole site, from attributions of its numbers, (positions, ...site shape)."""
        summed = products.double().sum(-1)
        tokens = self.pair.clean.texts  # one name for a position, whichever run is written into
        if site.component not in PER_HEAD:
            return [Node.of(site, at, tokens[at], float(one)) for at, one in enumerate(summed)]
        return [
            Node.of(replace(site, head=head), at, tokens[at], float(summed[at, head]))
            for at in range(len(summed))
            for head in range(summed.shape[1])
        ]

    def measured(self, model: Model, nodes: Sequence[Node]) -> list[Node]:
        """The nodes, those of the largest attributions with their measured effects."""
        order = sorted(range(len(nodes)), key=lambda index: -abs(nodes[index].attribution))[: self.measure]
        if not order:
            return list(nodes)
        places = [(Site.parse(nodes[index].site), nodes[index].position) for index in order]
        progress, stop = self.options.get("progress"), self.options.get("stop")
        found = measured_effects(
            model, self.target, self.source, self.pair.metric, places, progress=progress, stop=stop
        )
        effects = dict(zip(order, found.effects, strict=True))
        return [replace(node, effect=effects.get(index)) for index, node in enumerate(nodes)]


def check_attributed(components: str | Sequence[str]) -> list[str]:
    """The components that are meant: names without a layer, of what can be written.

    Raises:
        SiteError: there is no such component.
        UsageError: it has no attribution.
    """
    names = components.replace(" ", "").split(",") if isinstance(components, str) else list(components)
    for name in names:
        check_component(name)
        if name in UNWRITTEN:
            raise UsageError(
                f"attributions at {name!r} were asked for",
                "components of blocks have attributions, such as resid_post, attn_out, mlp_out, z and mlp_post",
                "z",
            )
    return names


def _sites(model: Model, components: str | Sequence[str], layers: int | str | Sequence[int]) -> tuple[Site, ...]:
    names = check_attributed(components)
    chosen = parse_layers(layers, model.n_layers)
    found = []
    for name in names:
        for layer in chosen:
            if name == "resid_post" or (name == "embed" and layer == EMBEDDING_LAYER):
                found.append(model.site(residual_site(layer)))
            elif layer != EMBEDDING_LAYER and name != "embed":
                found.append(model.site(Site(name, layer)))
    if not found:
        raise UsageError(
            f"layers {layers} of {', '.join(names)} were asked for", "there is no such site", 'layers="all"'
        )
    return tuple(dict.fromkeys(found))
