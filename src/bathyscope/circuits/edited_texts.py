"""What edits do away from the pairs: the loss of a text, and what a model writes on."""

from collections.abc import Iterator, Sequence

import torch

from bathyscope.errors import UsageError
from bathyscope.forward import run
from bathyscope.generation import generate
from bathyscope.interventions import Write
from bathyscope.model import Model, Tokens
from bathyscope.sae.evaluate import batches
from bathyscope.texts import Texts, windows

ROWS = 8
"""Windows of a text that are run together: their logits are all held."""


def edited_loss(model: Model, texts: Texts, n_tokens: int, writes: Sequence[Write]) -> dict[str, float]:
    """Mean cross-entropy of the next token, "before" and "after" writes, in nats, with its "tokens".

    Args:
        model: the model.
        texts: what it reads.
        n_tokens: at most so many tokens of it.
        writes: what is written.

    Raises:
        UsageError: the text is too short.
    """
    sums, count = [0.0, 0.0], 0
    for block in batches(_first(windows(model, texts, length=min(128, model.max_length or 128)), n_tokens), ROWS):
        for number, wanted in enumerate(((), writes)):
            for window, logits in zip(block, run(model, block, writes=wanted).logits, strict=True):
                targets = torch.tensor(window.ids[1:], device=logits.device)
                loss = torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="sum")
                sums[number] += float(loss)
        count += sum(len(window) - 1 for window in block)
    if not count:
        raise UsageError("the text has no window of two tokens", "a longer text is needed")
    return {"before": sums[0] / count, "after": sums[1] / count, "tokens": count}


def edited_writing(
    model: Model, prompts: Sequence[str], new_tokens: int, writes: Sequence[Write]
) -> list[dict[str, str]]:
    """Each prompt with what the model writes on "before" and "after" writes."""
    found = []
    for prompt in prompts:
        texts = [generate(model, prompt, max_new_tokens=new_tokens, writes=one)[0].text for one in ((), writes)]
        found.append({"prompt": prompt, "before": texts[0], "after": texts[1]})
    return found


def _first(found: Iterator[Tokens], n_tokens: int) -> Iterator[Tokens]:
    """Windows until these many tokens have been predicted."""
    count = 0
    for window in found:
        if count >= n_tokens:
            return
        count += len(window) - 1
        yield window
