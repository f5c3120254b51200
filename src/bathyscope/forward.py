"""Passes through a model: capture, run, generate, differentiate.

Prompts of different lengths run as one left-padded batch with explicit positions and mask; all
positions given and returned are the prompt's own token indices. Knows nothing of methods.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.errors import InterventionError, UsageError
from bathyscope.hooks import Hooks, Window, token_index
from bathyscope.interventions import Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.sites import Site

Prompts = Prompt | Sequence[Prompt]
Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

ROW_BUDGET = 2 * 2**30
"""Bytes of key-value cache that one batch of generations may take."""


class Activations(Mapping[Site, tuple[Tensor, ...]]):
    """What was read: for each site a tensor for every prompt, (positions, ...site shape), without padding.

    Site shapes are (d_model,) for the residual stream and contributions, (heads, d_head) for q, k, v
    and z, (heads, positions) for pattern, (d_mlp,) for mlp_post, (d_vocab,) for logits; a site with a
    head leaves the heads out. Indexed by `Site` or by its name.
    """

    def __init__(self, by_site: Mapping[Site, tuple[Tensor, ...]]) -> None:
        self._by_site = dict(by_site)

    def __getitem__(self, site: Site | str) -> tuple[Tensor, ...]:
        return self._by_site[Site.parse(site)]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._by_site)

    def __len__(self) -> int:
        return len(self._by_site)


@dataclass(frozen=True)
class Run:
    """What a pass gave.

    Args:
        tokens: the prompts as the model read them.
        logits: for each prompt, (positions, d_vocab).
        activations: what was read.
    """

    tokens: tuple[Tokens, ...]
    logits: tuple[Tensor, ...]
    activations: Activations


@dataclass(frozen=True)
class Continuation:
    """What a model wrote after one prompt, greedily.

    Args:
        ids: the new token ids, without the one that stopped it.
        text: the same as text.
        stopped: whether the model ended it before the limit.
    """

    ids: tuple[int, ...]
    text: str
    stopped: bool


def run(
    model: Model,
    prompts: Prompts,
    *,
    reads: Sequence[Site | str] = (),
    writes: Sequence[Write] = (),
    batch_size: int = 32,
) -> Run:
    """Run prompts, reading some sites and writing others.

    Args:
        model: the model.
        prompts: one prompt or several.
        reads: sites to keep.
        writes: what to write; `Write.row` counts the prompts.
        batch_size: how many prompts run together.

    Raises:
        UsageError: a prompt, site or position that does not exist.
        InterventionError: a write that never happened, or a value that does not fit.

    Example:
        >>> import bathyscope
        >>> from bathyscope.interventions import Ablate, Write
        >>> model = bathyscope.load()
        >>> plain = bathyscope.run(model, "The keys to the cabinet")
        >>> ablated = bathyscope.run(model, "The keys to the cabinet", writes=[Write("mlp_out.0", Ablate())])
        >>> plain.logits[0].shape == ablated.logits[0].shape, bool((plain.logits[0] == ablated.logits[0]).all())
        (True, False)
    """
    rows = as_rows(model, prompts)
    sites = [model.site(site) for site in reads]
    _check_writes(writes, len(rows))
    if any(write.when == "generated" for write in writes):
        raise UsageError('a write with when="generated" was given to a run without generation', "", "generate(...)")
    logits: list[Tensor] = []
    by_site: dict[Site, list[Tensor]] = {site: [] for site in sites}
    for first in range(0, len(rows), batch_size):
        batch = _Batch(model, rows[first : first + batch_size])
        inside = _within(writes, first, len(batch.pads))
        with torch.no_grad(), Hooks(model, batch.window, reads=sites, writes=inside) as hooks:
            whole = batch.forward()
        hooks.check()
        logits += [whole[row, pad:].clone() for row, pad in enumerate(batch.pads)]
        for site in sites:
            by_site[site] += hooks.activations(site)
    return Run(tuple(rows), tuple(logits), Activations({site: tuple(rows) for site, rows in by_site.items()}))


def capture(model: Model, prompts: Prompts, sites: Sequence[Site | str], *, batch_size: int = 32) -> Activations:
    """Read sites while prompts run.

    Args:
        model: the model.
        prompts: one prompt or several.
        sites: what to read.
        batch_size: how many prompts run together.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> bathyscope.capture(model, "Diana, Princess of Wales", ["resid_post.3"])["resid_post.3"][0].shape
        torch.Size([6, 576])
    """
    return run(model, prompts, reads=sites, batch_size=batch_size).activations


def differentiate(
    model: Model,
    prompt: Prompt,
    metric: Callable[[Tensor], Tensor],
    sites: Sequence[Site | str],
    *,
    writes: Sequence[Write] = (),
) -> dict[Site, Tensor]:
    """Gradients of a metric of the logits with respect to activations.

    Args:
        model: the model.
        prompt: one prompt.
        metric: from logits, (positions, d_vocab), to a scalar.
        sites: with respect to what.
        writes: interventions in force during the pass.

    Returns:
        For each site a gradient of its activation's shape, (positions, ...site shape).

    Raises:
        UsageError: the pattern was asked for, or the metric is no scalar.
        InterventionError: a gradient is not finite (a quantised or half-precision model may overflow).

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> gradients = bathyscope.differentiate(model, "The keys", lambda logits: logits[-1, 0], ["resid_post.5"])
        >>> [tuple(gradient.shape) for gradient in gradients.values()]
        [(2, 576)]
    """
    rows = as_rows(model, [prompt])
    wanted = [model.site(site) for site in sites]
    _check_writes(writes, 1)
    batch = _Batch(model, rows)
    with torch.enable_grad(), Hooks(model, batch.window, reads=wanted, writes=writes, graph=True) as hooks:
        value = metric(batch.forward()[0])
        if value.ndim or not value.requires_grad:
            raise UsageError(f"the metric returned shape {tuple(value.shape)}", "a scalar made from the logits")
        gradients = hooks.gradients(value, wanted)
    hooks.check()
    for site, gradient in zip(wanted, gradients, strict=True):
        if not torch.isfinite(gradient).all():
            raise InterventionError(f"the gradient at {site} is not finite in {model.dtype}", "", "dtype=float32")
    return dict(zip(wanted, gradients, strict=True))


def generate(
    model: Model,
    prompts: Prompts,
    *,
    max_new_tokens: int = 20,
    writes: Sequence[Write] = (),
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> tuple[Continuation, ...]:
    """Continue prompts greedily, with a key-value cache, under interventions.

    What all prompts share before the first written position is run once. A prompt ends at the
    model's end-of-text tokens.

    Args:
        model: the model.
        prompts: one prompt or several.
        max_new_tokens: at most so many.
        writes: what to write, into the prompt, or at every generated token (`Write.when`).
        batch_size: how many prompts run together; by default what fits `ROW_BUDGET`.
        progress: called with the tokens generated and those there may be.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> bathyscope.generate(model, "The capital of France is", max_new_tokens=2)[0].text
        ' Paris.'
    """
    rows = as_rows(model, prompts)
    _check_writes(writes, len(rows))
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens={max_new_tokens} was given", "at least 1")
    if max_new_tokens == 1 and any(write.when == "generated" for write in writes):
        raise UsageError('a write with when="generated" was given with one new token', "", "max_new_tokens=2")
    longest = max(len(row) for row in rows) + max_new_tokens
    model.check_length(longest - 1)
    size = batch_size or max(1, ROW_BUDGET // kv.row_bytes(model.architecture, model.dtype, longest))
    found: list[Continuation] = []
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        done = first * max_new_tokens

        def tick(step: int, done: int = done, n_rows: int = len(batch)) -> None:
            if progress is not None:
                progress(done + step * n_rows, len(rows) * max_new_tokens)

        found += _continue(model, batch, _within(writes, first, len(batch)), max_new_tokens, tick)
    return tuple(found)


def next_logits(
    model: Model,
    prompts: Prompts,
    *,
    writes: Sequence[Write] = (),
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Logits after the last token of each prompt, (prompts, d_vocab), under interventions.

    Like `generate` it runs once what all prompts share before the first written position.
    """
    rows = as_rows(model, prompts)
    _check_writes(writes, len(rows))
    found = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        found.append(_prefill(model, batch, _within(writes, first, len(batch)), 0)[1])
        if progress is not None:
            progress(first + len(batch), len(rows))
    return torch.cat(found)


def as_rows(model: Model, prompts: Prompts) -> list[Tokens]:
    """One prompt or several, as tokens.

    Raises:
        UsageError: there is none, or one is empty or too long.
    """
    single = isinstance(prompts, (str, Tokens)) or (len(prompts) > 0 and isinstance(prompts[0], int))
    rows = [model.tokenize(prompt) for prompt in ([prompts] if single else prompts)]  # type: ignore[arg-type]
    if not rows:
        raise UsageError("no prompt was given", "at least one is needed")
    return rows


class _Batch:
    """Rows of tokens on their way through the model, left-padded."""

    def __init__(self, model: Model, rows: Sequence[Tokens], prefix: int = 0, new_tokens: int = 0) -> None:
        self.model = model
        longest = max(len(row) for row in rows)
        self.pads = tuple(longest - len(row) for row in rows)
        self.ids = torch.tensor(
            [[0] * pad + list(row.ids) for pad, row in zip(self.pads, rows, strict=True)], device=model.device
        )
        self.window = Window(self.pads, longest, prefix, longest - prefix)
        self.cache: kv.Cache | None = None
        self.capacity = longest + new_tokens

    def forward(self, ids: Tensor | None = None, *, last_only: bool = False) -> Tensor:
        """Logits of the window's columns, (rows, columns or 1, d_vocab)."""
        window = self.window
        ids = self.ids[:, window.start :] if ids is None else ids
        n_rows, columns = len(self.pads), window.start + window.length
        offset = torch.tensor(self.pads, device=ids.device)[:, None]
        positions = torch.arange(window.start, columns, device=ids.device)[None] - offset
        mask = None
        if any(self.pads):
            mask = (torch.arange(columns, device=ids.device)[None] >= offset).long().expand(n_rows, -1)
        options = {"logits_to_keep": 1} if last_only and _keeps_logits(self.model) else {}
        logits = self.model.hf(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions.clamp_min(0),
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            **options,
        ).logits
        return logits[:, -1:] if last_only else logits


def _prefill(model: Model, rows: Sequence[Tokens], writes: Sequence[Write], new_tokens: int) -> tuple[_Batch, Tensor]:
    """Read the prompts, writing into them: the batch, ready to go on, and its last logits, (rows, d_vocab)."""
    prefix = _shared_prefix(rows, writes)
    batch = _Batch(model, rows, prefix, new_tokens)
    during = [write for write in writes if write.when != "generated"]
    # A head that keeps one position has no place for a write at another.
    last_only = not any(write.site.component == "logits" for write in during)
    with torch.no_grad():
        batch.cache = kv.rows_cache(model.n_layers, batch.capacity, _run_prefix(model, rows[0], prefix))
        with Hooks(model, batch.window, writes=during) as hooks:
            logits = batch.forward(last_only=last_only)[:, -1]
    hooks.check()
    return batch, logits


def _continue(
    model: Model, rows: Sequence[Tokens], writes: Sequence[Write], new_tokens: int, tick: Callable[[int], None]
) -> list[Continuation]:
    batch, logits = _prefill(model, rows, writes, new_tokens)
    window, steps = batch.window, [logits.argmax(-1)]
    stops = torch.tensor(sorted(model.stop_ids), device=model.device)
    stopped = torch.isin(steps[0], stops)
    during = [write for write in writes if write.when != "prompt"]
    tick(1)
    with torch.no_grad(), Hooks(model, window, writes=during) as hooks:
        window.length, window.start = 1, window.prompt
        while len(steps) < new_tokens and not stopped.all():
            logits = batch.forward(steps[-1][:, None], last_only=True)[:, -1]
            steps.append(logits.argmax(-1))
            stopped |= torch.isin(steps[-1], stops)
            window.start += 1
            tick(len(steps))
    if len(steps) > 1:
        hooks.check()
    return [_cut(model, ids) for ids in torch.stack(steps, 1).tolist()]


def _cut(model: Model, ids: Sequence[int]) -> Continuation:
    end = next((index for index, token in enumerate(ids) if token in model.stop_ids), len(ids))
    kept = tuple(ids[:end])
    return Continuation(kept, model.decode(kept), end < len(ids))


def _shared_prefix(rows: Sequence[Tokens], writes: Sequence[Write]) -> int:
    """How many tokens all rows share before the first write; 0 where rows differ in length."""
    length = len(rows[0])
    if len(rows) == 1 or any(len(row) != length for row in rows):
        return 0
    shared = length - 1
    for write in writes:
        if write.when != "generated":
            position = write.position
            positions = (0,) if position is None else (position,) if isinstance(position, int) else position
            shared = min([shared, *(token_index(token, length) for token in positions)])
    for row in rows[1:]:
        same = (index for index in range(shared) if row.ids[index] != rows[0].ids[index])
        shared = next(same, shared)
    return shared


def _run_prefix(model: Model, row: Tokens, length: int) -> kv.Cache | None:
    if not length:
        return None
    batch = _Batch(model, [Tokens("", row.ids[:length], row.texts[:length])])
    batch.cache = kv.prefix_cache()
    batch.forward(last_only=True)
    return batch.cache


def _keeps_logits(model: Model) -> bool:
    return "logits_to_keep" in inspect.signature(model.hf.forward).parameters


def _check_writes(writes: Sequence[Write], n_rows: int) -> None:
    for write in writes:
        if write.row is not None and not 0 <= write.row < n_rows:
            raise UsageError(f"a write at row {write.row} was given", f"there are {n_rows} prompts, rows from 0")


def _within(writes: Sequence[Write], first: int, n_rows: int) -> list[Write]:
    """The writes of a batch of rows, counted from its own first row."""
    inside = []
    for write in writes:
        if write.row is None:
            inside.append(write)
        elif first <= write.row < first + n_rows:
            inside.append(Write(write.site, write.intervention, write.position, write.row - first, write.when))
    return inside
