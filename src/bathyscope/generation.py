"""Greedy generation under interventions, with a key-value cache.

What all prompts share before the first written position is run once; rows that have ended leave the
batch. `engine` does the same for cells, starting from what it has prefilled itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.batches import Batch, Prompts, as_rows, check_batch_size, check_writes, writes_within
from bathyscope.bypass import is_altered
from bathyscope.errors import UsageError
from bathyscope.hooks import Hooks
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens

Progress = Callable[[int, int], None]
"""Called with what is done and what there is to do."""

ROW_BUDGET = 2 * 2**30
"""Bytes of key-value cache that one batch of generations may take."""

LEAVE = 4
"""Rows that have ended leave the batch once they are one in so many: leaving copies the others' cache."""


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
    check_writes(writes, len(rows))
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens={max_new_tokens} was given", "at least 1")
    if max_new_tokens == 1 and any(write.when == "generated" for write in writes):
        raise UsageError('a write with when="generated" was given with one new token', "", "max_new_tokens=2")
    longest = max(len(row) for row in rows) + max_new_tokens
    model.check_length(longest - 1)
    check_batch_size(1 if batch_size is None else batch_size)
    size = batch_size or max(1, ROW_BUDGET // kv.row_bytes(model.architecture, model.dtype, longest))
    found: list[Continuation] = []
    for first in range(0, len(rows), size):
        batch = rows[first : first + size]
        done = first * max_new_tokens

        def tick(step: int, done: int = done, n_rows: int = len(batch)) -> None:
            if progress is not None:
                progress(done + step * n_rows, len(rows) * max_new_tokens)

        inside = writes_within(writes, first, len(batch))
        started, hidden = _prefill(model, batch, inside, max_new_tokens)
        later = [write for write in inside if write.when != "prompt"]
        written: list[tuple[int, ...]] = []
        for written in decode(started, model.choose(hidden), max_new_tokens, later):
            tick(max(len(ids) for ids in written))
        found += [continuation(model, ids) for ids in written]
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
    check_writes(writes, len(rows))
    check_batch_size(batch_size)
    if any(write.when == "generated" for write in writes):
        raise UsageError('a write with when="generated" was given where nothing is generated', "", "generate(...)")
    found = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        found.append(model.decide(_prefill(model, batch, writes_within(writes, first, len(batch)), 0)[1]))
        if progress is not None:
            progress(first + len(batch), len(rows))
    return torch.cat(found)


def decode(
    batch: Batch, first: Tensor, new_tokens: int, writes: Sequence[Write] = ()
) -> Iterator[list[tuple[int, ...]]]:
    """Go on from a batch that has read its prompts, one token at a time.

    Args:
        batch: the batch; its cache must have room for the new tokens.
        first: the first new token of each row, (rows,).
        new_tokens: at most so many for each row.
        writes: those that happen at generated tokens.

    Yields:
        After each token, the ids of every row so far; the end-of-text token, where there is one, is the last.
    """
    model, stops = batch.model, batch.model.stop_ids
    written: list[tuple[int, ...]] = [(token,) for token in first.tolist()]
    rows, tokens = list(range(len(written))), first
    hooks = Hooks(model, batch.window, writes=writes)
    # Inference mode leaves out what autograd would need, a fiftieth of a step; what is made in it cannot be trained on,
    # so that it is for steps that nobody else looks into.
    quiet = torch.no_grad if writes or is_altered(model) else torch.inference_mode
    yield list(written)
    for _ in range(new_tokens - 1):
        going = [index for index, row in enumerate(rows) if written[row][-1] not in stops]
        if not going:
            return
        # Writes count the rows of the batch, so none may leave while there are any.
        if not writes and len(rows) - len(going) >= max(1, len(rows) // LEAVE):
            kept = torch.tensor(going, device=tokens.device)
            batch.keep(kept)
            rows, tokens = [rows[index] for index in going], tokens[kept]
        batch.advance()
        # In force during the step alone: whoever takes what is yielded may run the model before the next.
        with quiet(), hooks:
            tokens = model.choose(batch.last(tokens[:, None]))
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if written[row][-1] not in stops:
                written[row] = (*written[row], token)
        yield list(written)
    if new_tokens > 1:
        hooks.check()


def continuation(model: Model, ids: Sequence[int]) -> Continuation:
    """New token ids as a text, without the end-of-text token."""
    stopped = ids[-1] in model.stop_ids
    kept = tuple(ids[:-1] if stopped else ids)
    return Continuation(kept, model.decode(kept), stopped)


def _prefill(model: Model, rows: Sequence[Tokens], writes: Sequence[Write], new_tokens: int) -> tuple[Batch, Tensor]:
    """Read the prompts, writing into them: the batch, ready to go on, and its last hidden states, (rows, width)."""
    during = [write for write in writes if write.when != "generated"]
    for write in writes:
        if write.site.component == "logits":
            raise UsageError("a write at the logits was given to a generation", "it would be the readout itself", "run")
    prefix = _shared_prefix(rows, during)
    capacity = max(len(row) for row in rows) + new_tokens
    with torch.no_grad():
        known = _run_prefix(model, rows[0], prefix)
        cache = kv.rows_cache(model.n_layers, len(rows), capacity, known=known, start=prefix)
        batch = Batch(model, rows, prefix, cache)
        with Hooks(model, batch.window, writes=during) as hooks:
            hidden = batch.last()
    hooks.check()
    return batch, hidden


def _shared_prefix(rows: Sequence[Tokens], writes: Sequence[Write]) -> int:
    """How many tokens all rows share before the first write; 0 where rows differ in length."""
    length = len(rows[0])
    if len(rows) == 1 or any(len(row) != length for row in rows):
        return 0
    shared = length - 1
    for write in writes:
        shared = min([shared, *write.indices(length)])
    for row in rows[1:]:
        same = (index for index in range(shared) if row.ids[index] != rows[0].ids[index])
        shared = next(same, shared)
    return shared


def _run_prefix(model: Model, row: Tokens, length: int) -> kv.Cache | None:
    if not length:
        return None
    cache = kv.prefix_cache()
    Batch(model, [Tokens("", row.ids[:length], row.texts[:length])], cache=cache).last()
    return cache
