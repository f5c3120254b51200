"""Batch: rows of tokens on their way through a model, left-padded, with explicit positions and mask.

All positions that callers give and get are a prompt's own token indices; padding is known here only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bathyscope import kv
from bathyscope.attention import sharing
from bathyscope.errors import InterventionError, UsageError
from bathyscope.float32_stream import Float32Stream
from bathyscope.interventions import Write
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.window import Window

Prompts = Prompt | Sequence[Prompt]
"""One prompt or several."""


class Batch:
    """Rows of tokens and the window of columns that the next pass computes.

    Args:
        model: the model.
        rows: the prompts.
        start: the first column to compute; what stands before it is in `cache`.
        cache: keys and values so far, or None for a single pass without one.
        shared: whether the cache keeps what stands before `start` once for all rows.
    """

    def __init__(
        self,
        model: Model,
        rows: Sequence[Tokens],
        start: int = 0,
        cache: kv.Cache | None = None,
        *,
        shared: bool = False,
    ) -> None:
        self.model, self.cache, self.shared = model, cache, shared
        self._stream = Float32Stream(model)
        longest = max(len(row) for row in rows)
        self.pads = tuple(longest - len(row) for row in rows)
        self.ids = torch.tensor(
            [[0] * pad + list(row.ids) for pad, row in zip(self.pads, rows, strict=True)], device=model.device
        )
        self.window = Window(self.pads, longest, start, longest - start)

    def logits(self) -> Tensor:
        """A pass over the window: logits, (rows, columns, d_vocab)."""
        with self._stream:
            return self.model.hf(**self._inputs(None)).logits

    def last(self, ids: Tensor | None = None) -> Tensor:
        """A pass over the window: what the unembedding would be given at its last column, (rows, width).

        Args:
            ids: the tokens of a window beyond the prompt, (rows, 1).
        """
        with self._stream, sharing(self.model, shared=self.shared):
            hidden = self.model.hf.base_model(**self._inputs(ids)).last_hidden_state[:, -1]
        check_finite(hidden, self.model)
        return hidden

    def advance(self) -> None:
        """Move the window to the next column."""
        window = self.window
        window.start, window.length = window.start + window.length, 1

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only, (rows kept,)."""
        self.pads = tuple(self.pads[row] for row in rows.tolist())
        self.window.pads = self.pads
        if self.cache is not None:
            kv.keep_rows(self.cache, rows)

    def _inputs(self, ids: Tensor | None) -> dict[str, Tensor | kv.Cache | bool | None]:
        window = self.window
        ids = self.ids[:, window.start :] if ids is None else ids
        n_rows, columns = len(self.pads), window.start + window.length
        offset = torch.tensor(self.pads, device=ids.device)[:, None]
        positions = torch.arange(window.start, columns, device=ids.device)[None] - offset
        mask = None
        if any(self.pads):
            mask = (torch.arange(columns, device=ids.device)[None] >= offset).long().expand(n_rows, -1)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions.clamp_min(0),
            "past_key_values": self.cache,
            "use_cache": self.cache is not None,
        }


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


def check_finite(hidden: Tensor, model: Model) -> None:
    """Refuse to go on from values that are no numbers."""
    if not torch.isfinite(hidden).all():
        raise InterventionError(
            f"{model.name} computed values that are not finite", "what was written may be too large"
        )


def check_batch_size(size: int) -> None:
    """Refuse a batch of no rows."""
    if size < 1:
        raise UsageError(f"batch_size={size} was given", "at least 1")


def check_writes(writes: Sequence[Write], n_rows: int) -> None:
    """Refuse a write at a row that is not there."""
    for write in writes:
        if write.row is not None and not 0 <= write.row < n_rows:
            raise UsageError(f"a write at row {write.row} was given", f"there are {n_rows} prompts, rows from 0")


def writes_within(writes: Sequence[Write], first: int, n_rows: int) -> list[Write]:
    """The writes of a batch of rows, counted from its own first row."""
    inside = []
    for write in writes:
        if write.row is None:
            inside.append(write)
        elif first <= write.row < first + n_rows:
            inside.append(Write(write.site, write.intervention, write.position, write.row - first, write.when))
    return inside
