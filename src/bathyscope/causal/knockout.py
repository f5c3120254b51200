"""Attention knockout: what an answer loses when some tokens may not look at others (arXiv 2304.14767)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

from bathyscope import prompts
from bathyscope.causal.measuring import RunOptions, concluded, measure
from bathyscope.causal.places import named, said, window_notes, window_of
from bathyscope.causal.result import CausalCell, CausalResult
from bathyscope.engine import Cell
from bathyscope.errors import SiteError, UsageError
from bathyscope.interventions import CutEdges, Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_request import Layers, layers_of
from bathyscope.prompts import Position
from bathyscope.readouts import Metric, Probability
from bathyscope.sites import EMBEDDING_LAYER, Site

WINDOW: Final = 9
"""Layers that are cut together, as in the published runs."""

Keys = str | Mapping[str, Position]
"""Which tokens are not looked at: "each" in turn, or groups of them by name."""


@dataclass(frozen=True)
class _Group:
    """Keys that are cut together."""

    name: str
    keys: tuple[int, ...]


def attention_knockout(
    model: Model,
    prompt: Prompt,
    metric: Metric,
    *,
    queries: Position = "last",
    keys: Keys = "each",
    layers: Layers = "all",
    heads: bool = False,
    window: int = WINDOW,
    **options: Unpack[RunOptions],
) -> CausalResult:
    """Keep some tokens from attending to others in a window of layers, and measure what the answer loses.

    The edges are taken out of the attention mask, so that what attention is left still sums to 1. A token's look at
    itself is never taken.

    Args:
        model: the model, with any attention.
        prompt: what it reads.
        metric: what is measured of the next token; the published one is `Probability(answer)`.
        queries: the tokens that may not look.
        keys: what they may not look at: "each" token before them in turn, or groups by name, such as
            {"subject": (1, 2)} or {"subject": "Space Needle"}, where a text means all of its tokens.
        layers: the middle of each window.
        heads: whether each head is cut by itself.
        window: how many neighbouring layers are cut together.
        options: see `RunOptions`.

    Returns:
        For each window and group the change of the metric: of a probability as a share of it, -1 where nothing of it
        is left; of others the difference.

    Raises:
        UsageError: a group that no query could look at.
        SiteError: a layer without attention.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.causal import attention_knockout
        >>> from bathyscope.readouts import Probability
        >>> found = attention_knockout(
        ...     bathyscope.load(), "The capital of France is", Probability(" Paris"), keys={"subject": "France"},
        ...     layers=15, window=30,
        ... )
        >>> found.cells[0].effect < -0.5
        True
    """
    metric.check(model, model)
    tokens = model.tokenize(prompt)
    asking = prompts.resolve(tokens, queries)
    groups = _groups(tokens, keys, asking)
    sites = [site for layer in _blocks(layers, model) for site in _sites(model, layer, heads=heads)]
    cuts = [(site, group) for site in sites for group in groups]
    windows = [window_of(site, window, model.n_layers) for site, _ in cuts]
    cells = [
        _cell(model, tokens, metric, asking, *one) for one in zip((group for _, group in cuts), windows, strict=True)
    ]
    spec: dict[str, Any] = {
        "method": "attention-knockout",
        "sites": list(dict.fromkeys(str(site) for site, _ in cuts)),
        **said("pattern", layers, heads=heads),
        "queries": list(asking),
        "keys": {group.name: list(group.keys) for group in groups} if keys != "each" else "each",
        "window": window,
    }
    measured = measure(model, [*cells, Cell(tokens, metric)], metric, spec, {"prompt": tokens}, **options)
    *values, plain = measured.values
    unit = plain if isinstance(metric, Probability) else 1.0
    found = [
        CausalCell(
            **{**named(site, group.keys, tokens), "token": group.name}, value=value, effect=(value - plain) / unit
        )
        for (site, group), value in zip(cuts, values, strict=True)
    ]
    asked = ", ".join(f"{index} {tokens.texts[index]!r}" for index in asking)
    return concluded(
        model,
        measured,
        spec,
        effect=f"change of the {metric.in_words()}"
        + (" as a share of it (-1: nothing is left)" if unit == plain else ""),
        metric=metric,
        prompts={"prompt": tokens},
        cells=found,
        values={"uncut": plain},
        notes=[
            f"{asked} may not attend to the token of the column",
            *window_notes(window),
            *_sink(groups),
            *_sliding(model, tokens),
        ],
    )


def _blocks(layers: Layers, model: Model) -> tuple[int, ...]:
    """The blocks that are meant.

    Raises:
        SiteError: the embedding is among them.
    """
    found = layers_of(layers, model, "pattern")
    if EMBEDDING_LAYER in found:
        blocks = ",".join(str(layer) for layer in found if layer != EMBEDDING_LAYER)
        raise SiteError(
            f"layers {layers} were given", "the embedding has no attention to cut", blocks or f"0-{model.n_layers - 1}"
        )
    return found


def _groups(tokens: Tokens, keys: Keys, asking: Sequence[int]) -> list[_Group]:
    """Groups of keys, each with a token that a query could look at besides itself.

    Raises:
        UsageError: nothing could look at a group.
    """
    last = max(asking)
    if keys == "each":
        return [_Group(tokens.texts[index], (index,)) for index in range(last)]
    found = []
    for name, position in ({keys: keys} if isinstance(keys, str) else keys).items():
        if isinstance(position, (str, prompts.Span)) and position not in ("last", "all"):
            group = prompts.span_tokens(tokens, position, called="keys")
        else:
            group = prompts.resolve(tokens, position)
        if min(group) >= last:
            raise UsageError(
                f"the keys {name!r} are tokens {list(group)}, and the last query is token {last}",
                f"attention to others looks back only; the tokens are {tokens.numbered()}",
                "earlier keys, or later queries",
            )
        found.append(_Group(name, tuple(group)))
    return found


def _sites(model: Model, layer: int, *, heads: bool) -> list[Site]:
    """The pattern of a layer, whole or by head."""
    found = [Site("pattern", layer, head) for head in range(model.architecture.n_heads)]
    return found if heads else [Site("pattern", layer)]


def _cell(
    model: Model, tokens: Tokens, metric: Metric, asking: Sequence[int], group: _Group, sites: Sequence[Site]
) -> Cell:
    """A run in which edges of some layers are cut."""
    for site in sites:
        model.architecture.tap(site)  # a family that keeps no pattern says so before anything is run
    cuts = []
    for query in asking:
        if keys := tuple(key for key in group.keys if key < query):
            cuts += [Write(site, CutEdges(keys, missing_ok=True), query) for site in sites]
    return Cell(tokens, metric, also=tuple(cuts))


def _sink(groups: Sequence[_Group]) -> list[str]:
    """What has to be known of the first token."""
    if not any(0 in group.keys for group in groups):
        return []
    return ["the first token is often an attention sink: its cut has effects of its own, whatever the token says"]


def _sliding(model: Model, tokens: Tokens) -> list[str]:
    """What has to be known of layers that do not look back as far as the prompt goes."""
    window = getattr(model.hf.config, "sliding_window", None) or getattr(model.hf.config, "window_size", None)
    if window is None or window >= len(tokens):
        return []
    return [f"layers with a sliding window look back {window} tokens: there is nothing to cut beyond, and no effect"]
