"""SelfIE: one representation stands at several placeholders, and the model says what it means (arXiv 2403.10949)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from bathyscope import prompts
from bathyscope.engine import CancelledError, Stop
from bathyscope.forward import run
from bathyscope.interventions import Replace, Write
from bathyscope.lens_result import LensResult
from bathyscope.lenses.vocabulary import LensOptions, looked
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.patchscope_request import Target
from bathyscope.patchscope_result import PatchscopeCell
from bathyscope.prompts import InspectionPrompt
from bathyscope.readouts import Generate
from bathyscope.sites import Site

ROWS = 8
"""Texts whose relevancy is measured together: their logits are kept meanwhile, at every token."""

WRITTEN_AFTER = 0
"""The paper's default: the input of block 1, which is what block 0 returns."""


def selfie(
    model: Model,
    text: Prompt,
    *,
    prompt: InspectionPrompt | None = None,
    target_layer: int = WRITTEN_AFTER,
    new_tokens: int = 20,
    **options: Unpack[LensOptions],
) -> LensResult:
    """What the model says of each representation when it stands at every placeholder of an interpretation prompt.

    Each cell has a relevancy for every token of its text: by how much the token's probability differs
    from what it is when nothing is written, from 0 (the model would have said this anyway) to 1.

    Args:
        model: the model.
        text: what it reads.
        prompt: with the placeholders; the paper's own, in the model's chat template where it has one.
        target_layer: where the representation is written.
        new_tokens: length of the text.
        options: see `LensOptions`.

    Example:
        >>> import bathyscope
        >>> found = bathyscope.lenses.selfie(
        ...     bathyscope.load(), "Barack Obama", position="last", layer=5, new_tokens=3
        ... )
        >>> len(found.cells[0].relevancy) == 3 and all(0 <= one <= 1 for one in found.cells[0].relevancy)
        True
    """
    prompt = prompt or prompts.selfie(chat=bool(model.tokenizer.chat_template))
    inspection = prompts.prepare(model, prompt)
    tokens = model.tokenize(text)
    found = looked(model, tokens, Target(prompt=inspection, layer=target_layer), None, options, Generate(new_tokens))
    scores = _relevancy(model, inspection.tokens, found.cells, found.representations, options.get("stop"))
    result = LensResult.of("selfie", found)
    cells = (replace(cell, relevancy=score) for cell, score in zip(result.cells, scores, strict=True))
    return replace(result, cells=tuple(cells))


def _relevancy(
    model: Model, prompt: Tokens, cells: Sequence[PatchscopeCell], values: Tensor, stop: Stop | None
) -> list[tuple[float, ...]]:
    """For each token of each cell's text, |probability with the write less probability without it|."""
    found: list[tuple[float, ...]] = []
    for first in range(0, len(cells), ROWS):
        if stop is not None and stop.now:
            raise CancelledError("the run was stopped", "what was written is kept where there is a store")
        some = slice(first, first + ROWS)
        rows, writes = [], []
        for row, (cell, value) in enumerate(zip(cells[some], values[some], strict=True)):
            ids = prompt.ids + cell.ids
            rows.append(Tokens("", ids, ("",) * len(ids)))
            writes.append(Write(Site.parse(cell.target_site), Replace(value), cell.target_positions, row))
        patched, plain = run(model, rows, writes=writes).logits, run(model, rows).logits
        for cell, ours, others in zip(cells[some], patched, plain, strict=True):
            written = torch.tensor(cell.ids, dtype=torch.long)
            before = slice(len(prompt) - 1, len(prompt) - 1 + len(written))
            shares = (torch.softmax(logits[before].float().cpu(), -1) for logits in (ours, others))
            gap = torch.sub(*(share.gather(-1, written[:, None]).squeeze(-1) for share in shares)).abs()
            found.append(tuple(gap.tolist()))
    return found
