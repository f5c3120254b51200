"""Forward passes written out by hand, to compare the library against code that shares nothing with it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

READ_ONLY = ("pattern", "logits")


@dataclass(frozen=True)
class Edit:
    """Overwrite `site` at one position with `value`, where the forward pass computes it.

    `value` has the site's shape without its position: (d_model,), or (heads, d_head) for q, k, v and z.
    With `head`, it is (d_head,) and the other heads keep what they computed.
    """

    site: str
    position: int
    value: Tensor
    head: int | None = None


class Tape:
    """Every site of one forward pass, as it is after the edits."""

    def __init__(self, edits: Sequence[Edit], n_positions: int):
        for edit in edits:
            if edit.site.split(".")[0] in READ_ONLY:
                raise ValueError(f"{edit.site} cannot be edited")
            if not 0 <= edit.position < n_positions:
                raise ValueError(f"position {edit.position} is not one of {n_positions}")
        self.edits = edits
        self.rows: dict[str, list[Tensor]] = {}

    def record(self, site: str, value: Tensor) -> Tensor:
        """Take the site's value at the next position, and return what the pass must go on with."""
        rows = self.rows.setdefault(site, [])
        for edit in self.edits:
            if edit.site == site and edit.position == len(rows):
                value = value.clone()
                target = value if edit.head is None else value[edit.head]
                if edit.value.shape != target.shape:
                    raise ValueError(f"{site} takes {tuple(target.shape)}, not {tuple(edit.value.shape)}")
                target.copy_(edit.value)
        rows.append(value)
        return value

    def sites(self) -> dict[str, Tensor]:
        missed = {edit.site for edit in self.edits} - self.rows.keys()
        if missed:
            raise ValueError(f"no such site: {', '.join(sorted(missed))}")
        return {
            site: torch.stack(rows, dim=1 if site.startswith("pattern.") else 0) for site, rows in self.rows.items()
        }


def attend(
    tape: Tape, layer: int, queries: list[Tensor], keys: list[Tensor], values: list[Tensor], scale: float
) -> list[Tensor]:
    """Causal attention over per-position (heads, d_head) tensors; gives z per position, and records pattern and z."""
    n_heads, n_kv_heads = queries[0].shape[0], keys[0].shape[0]
    mixed = []
    for position, query in enumerate(queries):
        weights = query.new_zeros(n_heads, len(queries))
        z = torch.zeros_like(query)
        for head in range(n_heads):
            kv_head = head * n_kv_heads // n_heads
            scores = torch.stack([query[head] @ keys[past][kv_head] * scale for past in range(position + 1)])
            weights[head, : position + 1] = torch.softmax(scores, dim=0)
            for past in range(position + 1):
                z[head] += weights[head, past] * values[past][kv_head]
        tape.record(f"pattern.{layer}", weights)
        mixed.append(tape.record(f"z.{layer}", z))
    return mixed


def greedy(
    forward: Callable[[list[int], list[Edit]], dict[str, Tensor]], token_ids: list[int], edits: Sequence[Edit], n: int
) -> list[int]:
    """The n next tokens, running the whole text again for each; an edit waits until its position exists."""
    text = list(token_ids)
    for _ in range(n):
        logits = forward(text, [edit for edit in edits if edit.position < len(text)])["logits"]
        text.append(int(logits[-1].argmax()))
    return text[len(token_ids) :]
