"""Path patching: what a sender does by way of chosen receivers only (arXiv 2304.05969).

Three runs: the clean and the corrupted one; the corrupted one with the clean sender, everything but sender and
receivers held at its corrupted value, in which the receivers are read; and the corrupted one with those written.
MLPs are held as heads are; where they are left free (arXiv 2211.00593), an effect "on the logits" includes theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Unpack

from bathyscope.causal.measuring import RunOptions, check_apart, concluded, measure, share
from bathyscope.causal.pairs import Pair, pair
from bathyscope.causal.places import named, sites_of
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell, Given, Patch, Read
from bathyscope.errors import UsageError
from bathyscope.forward import Activations, capture, run
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model, Prompt
from bathyscope.patchscope_request import Layers
from bathyscope.readouts import Metric
from bathyscope.sites import Site

LOGITS: Final = Site("logits")
PROJECTIONS: Final = ("q", "k", "v")
ATTENTION: Final = (*PROJECTIONS, "z", "attn_out")
RECEIVING: Final = (*ATTENTION, "mlp_out")
"""What can receive: each is computed from the residual stream in one step."""
SENDING: Final = ("embed", "z", "attn_out", "mlp_out")
"""What can send: each is added to the residual stream once."""

ROWS: Final = 32


def path_patching(
    model: Model,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    *,
    senders: str | Sequence[str] = ("z", "mlp_out"),
    receivers: str | Site | Sequence[str | Site] = "logits",
    layers: Layers = "all",
    heads: bool = True,
    **options: Unpack[RunOptions],
) -> CausalResult:
    """Write a sender's clean output into the corrupted run, as chosen receivers alone see it.

    Everything but the receivers keeps its corrupted value while they are read, final norm and all, so that the effect
    of a sender on "logits" is exactly its direct one. With every component a receiver, it is activation patching.

    Args:
        model: the model.
        clean: the prompt whose answer is right.
        corrupted: one of as many tokens, whose answer is another.
        metric: one number of the next token's logits.
        senders: components whose outputs are sent, each layer (and head) in a run of its own, at all positions: some of
            "embed", "z", "attn_out" and "mlp_out".
        receivers: sites, such as "logits" or ["q.9.3", "mlp_out.10"]; "all" for every attention, MLP and the logits.
        layers: of the senders that have layers.
        heads: whether each head of z is a sender by itself.
        options: see `RunOptions`; the runs in which receivers are read are not stored.

    Returns:
        An effect a sender: 0 leaves the corrupted run as it was, 1 makes its metric that of the clean one.

    Raises:
        UsageError: prompts of different lengths, or a receiver that receives nothing or stands before a sender.
        SiteError: a site that the model does not have.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal import path_patching
        >>> from bathyscope.readouts import LogitDiff
        >>> found = path_patching(
        ...     bathyscope.load(), "The boats", "The boat", LogitDiff(" they", " it"), senders="mlp_out", layers="0,29"
        ... )
        >>> [cell.site for cell in found.cells]
        ['mlp_out.0', 'mlp_out.29']
    """
    asked = _Asked(model, pair(model, clean, corrupted, metric), _receivers(model, receivers))
    sites = _senders(model, senders, layers, heads=heads)
    check_apart(model, metric, asked.pair.corrupted, asked.pair.clean)
    if receivers != "all":
        asked.check(sites)
    cells = asked.direct(sites) if LOGITS in asked.receivers else asked.through(sites)
    both = asked.pair
    ends = [Cell(both.corrupted, metric), Cell(both.clean, metric)]
    spec: dict[str, Any] = {
        "method": "path-patching",
        "senders": [str(site) for site in sites],
        "receivers": [str(site) for site in asked.receivers],
    }
    prompts = {"clean": both.clean, "corrupted": both.corrupted}
    measured = measure(model, [*cells, *ends], metric, spec, prompts, **options)
    *values, start, end = measured.values
    every = range(len(both.clean))
    found = [
        CausalCell(**named(site, every, both.clean), value=value, effect=share(value, start, end))
        for site, value in zip(sites, values, strict=True)
    ]
    shown = ", ".join(map(str, asked.receivers[:6])) + (" and others" if len(asked.receivers) > 6 else "")
    return concluded(
        model,
        measured,
        spec,
        effect="how far the metric of the corrupted run moves to that of the clean one (0 to 1)",
        metric=metric,
        prompts=prompts,
        cells=found,
        values={"corrupted": start, "clean": end},
        notes=[f"each sender is seen by {shown}; all else keeps its corrupted value on the way there"],
    )


@dataclass(frozen=True)
class _Asked:
    """One call, resolved."""

    model: Model
    pair: Pair
    receivers: tuple[Site, ...]

    def direct(self, senders: Sequence[Site]) -> list[Cell]:
        """For each sender the run in which all but it and the receivers is held, read at the logits."""
        return [self._sent(sender, also=tuple(self._held(sender))) for sender in senders]

    def through(self, senders: Sequence[Site]) -> list[Cell]:
        """For each sender the corrupted run with its receivers as that run has them."""
        both, every = self.pair, tuple(range(len(self.pair.clean)))
        cells = []
        for first in range(0, len(senders), ROWS):
            some = senders[first : first + ROWS]
            read = self._received(some)
            for row, sender in enumerate(some):
                after = [site for site in self.receivers if self._follows(site, sender)]
                patches = tuple(
                    Patch(Given(read[site][row][position], site), site, (position,))
                    for site in after
                    for position in every
                )
                start = patches[0]
                cells.append(
                    Cell(both.corrupted, both.metric, start.source, start.site, start.positions, more=patches[1:])
                )
        return cells

    def _received(self, senders: Sequence[Site]) -> Activations:
        """What the receivers hold for each sender, a row a sender."""
        sent = capture(self.model, self.pair.clean, list(dict.fromkeys(senders)))
        writes = []
        for row, sender in enumerate(senders):
            own = [Write(sender, Replace(sent[sender][0])), *self._held(sender)]
            writes += [replace(write, row=row) for write in own]
        rows = [self.pair.corrupted] * len(senders)
        return run(self.model, rows, reads=self.receivers, writes=writes, batch_size=ROWS).activations

    def _sent(self, sender: Site, also: tuple[Write, ...]) -> Cell:
        both = self.pair
        reads = [Patch(Read(both.clean, sender, one), sender, (one,)) for one in range(len(both.clean))]
        first, *rest = reads
        return Cell(both.corrupted, both.metric, first.source, sender, first.positions, also=also, more=tuple(rest))

    def _held(self, sender: Site) -> list[Write]:
        """Writes that keep what follows a sender, and receives nothing, at its corrupted value."""
        return [write for site, write in self._corrupted.items() if self._follows(site, sender)]

    @cached_property
    def _corrupted(self) -> dict[Site, Write]:
        """What holds each component that receives nothing at its value in the corrupted run, made once."""
        held = [site for layer in range(self.model.n_layers) for site in self._holding(layer)]
        found = capture(self.model, self.pair.corrupted, held) if held else {}
        return {site: Write(site, Replace(found[site][0])) for site in held}

    def _holding(self, layer: int) -> list[Site]:
        """What has to be held in a block."""
        own = [site for site in self.receivers if site.layer == layer]
        held = [] if Site("mlp_out", layer) in own else [Site("mlp_out", layer)]
        attention = [site for site in own if site.component in ATTENTION]
        if not attention:
            return [Site("attn_out", layer), *held]
        if any(site.component == "attn_out" or site == Site("z", layer) for site in attention):
            return held  # all of attention receives
        return [*self._heads_holding(layer, attention), *held]

    def _heads_holding(self, layer: int, receiving: Sequence[Site]) -> list[Site]:
        """Of a block whose attention receives in part: the projections, and the heads, that do not."""
        architecture = self.model.architecture
        n_heads, n_kv_heads = architecture.n_heads, architecture.n_kv_heads
        counts = {"q": n_heads, "k": n_kv_heads, "v": n_kv_heads, "z": n_heads}
        free = {
            (site.component, head)
            for site in receiving
            for head in (range(counts[site.component]) if site.head is None else (site.head,))
        }
        whole = {head for name, head in free if name == "z"}  # a head that receives does so by all it is made of
        group = n_heads // n_kv_heads
        made_of = {("q", head) for head in whole} | {(name, head // group) for head in whole for name in ("k", "v")}
        reached = {("z", head) for head in range(n_heads) if {("q", head), *((n, head // group) for n in "kv")} & free}
        kept = free | made_of | reached
        return [
            self.model.site(Site(name, layer, head))
            for name, count in counts.items()
            for head in range(count)
            if (name, head) not in kept
        ]

    def check(self, senders: Sequence[Site]) -> None:
        """Refuse senders that no receiver follows, and receivers that follow no sender.

        Raises:
            UsageError: naming it.
        """
        for sender in senders:
            if not any(self._follows(site, sender) for site in self.receivers):
                raise UsageError(
                    f"{sender} is sent to {', '.join(map(str, self.receivers))}",
                    "a receiver must come after its sender",
                    "layers of the senders below the receivers",
                )
        for site in self.receivers:
            if not any(self._follows(site, sender) for sender in senders):
                raise UsageError(f"{site} was given as a receiver", "it comes after none of the senders", "a later one")

    def _follows(self, site: Site, sender: Site) -> bool:
        """Whether a sender's output reaches a component: of later blocks, and a sequential block's MLP."""
        if site.layer is None or sender.layer is None or site.layer != sender.layer:
            return site.layer is None or (sender.layer is not None and site.layer > sender.layer)
        parallel = isinstance(self.model.architecture.taps["resid_mid"], str)
        return site.component == "mlp_out" and sender.component in ("z", "attn_out") and not parallel


def _senders(model: Model, senders: str | Sequence[str], layers: Layers, *, heads: bool) -> list[Site]:
    names = [senders] if isinstance(senders, str) else list(dict.fromkeys(senders))
    found: list[Site] = []
    for name in names:
        if name not in SENDING:
            raise UsageError(f"{name} was given as a sender", f"senders are {', '.join(SENDING)}", "z")
        if name == "embed":
            found.append(model.site(Site("embed")))
        else:
            found += sites_of(model, name, layers, heads=heads and name == "z")
    return found


def _receivers(model: Model, receivers: str | Site | Sequence[str | Site]) -> tuple[Site, ...]:
    if receivers == "all":
        parts = [Site(name, layer) for layer in range(model.n_layers) for name in ("attn_out", "mlp_out")]
        return (*map(model.site, parts), LOGITS)
    given = [receivers] if isinstance(receivers, (str, Site)) else receivers
    found = tuple(dict.fromkeys(model.site(one) for one in given))
    for site in found:
        if site != LOGITS and site.component not in RECEIVING:
            raise UsageError(f"{site} was given as a receiver", f"logits, or sites of {', '.join(RECEIVING)}", "logits")
    if not found:
        raise UsageError("no receiver was given", "at least one is needed", "logits")
    return found
