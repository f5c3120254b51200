"""Documents that the model writes itself, for when there is no text at hand."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from bathyscope import kv
from bathyscope.batches import Batch
from bathyscope.errors import UsageError
from bathyscope.model import Model, Tokens
from bathyscope.texts.base import Texts, sha256_of

TOGETHER: Final = 64
"""Documents that are written at once."""


def sampled_texts(model: Model, *, n_documents: int = 64, n_tokens: int = 128, seed: int = 0) -> Texts:
    """Text that the model writes by itself: sampled at temperature 1 from its first special token.

    It begins with BOS, or with EOS where the model has no BOS, and ends at EOS or after `n_tokens`. It is
    written when it is first asked for. The same seed gives the same text, and no random number of
    anybody else's is used up.

    Args:
        model: the model.
        n_documents: how many documents are written; blank ones are left out.
        n_tokens: at most so many tokens each.
        seed: decides the text.

    Raises:
        UsageError: the model has neither token, or no positions for so many.

    Example:
        >>> import bathyscope
        >>> from bathyscope.texts import sampled_texts
        >>> texts = sampled_texts(bathyscope.load(), n_documents=2, n_tokens=3, seed=1)
        >>> list(texts.documents()) == list(texts.documents()), texts.describe()["seed"]
        (True, 1)
    """
    if n_documents < 1 or n_tokens < 1:
        raise UsageError(f"n_documents={n_documents} and n_tokens={n_tokens} were given", "at least 1 of each")
    if model.max_length is not None and n_tokens > model.max_length:
        given = f"sampled documents of {n_tokens} tokens were asked for"
        raise UsageError(given, f"{model.name} reads at most {model.max_length}", f"n_tokens={model.max_length}")
    special = model.tokenizer.bos_token_id, model.tokenizer.eos_token_id
    begin = next((token for token in special if isinstance(token, int)), None)
    if begin is None:
        raise UsageError(f"{model.name} has neither a BOS nor an EOS token", "sampled text begins with it", "a text")
    return _Sampled(model, begin, n_documents, n_tokens, seed)


@dataclass(frozen=True)
class _Sampled(Texts):
    model: Model
    begin: int
    n_documents: int
    n_tokens: int
    seed: int

    @override
    def documents(self) -> Iterator[str]:
        return iter(self.written)

    @override
    def describe(self) -> dict[str, Any]:
        return {
            "name": "sampled",
            "format": "sampled from the model",
            "model": self.model.name,
            "fingerprint": self.model.fingerprint,
            "n_documents": self.n_documents,
            "n_tokens": self.n_tokens,
            "seed": self.seed,
            "sha256": sha256_of(self.written),
        }

    @cached_property
    def written(self) -> tuple[str, ...]:
        """The documents, written once."""
        generator = torch.Generator().manual_seed(self.seed)
        # Every token's chance is drawn beforehand: what is written does not depend on the batches.
        chances = torch.rand(self.n_documents, self.n_tokens, generator=generator, dtype=torch.float64)
        texts = [self.model.decode(ids) for some in chances.split(TOGETHER) for ids in self._write(some)]
        return tuple(text for text in texts if text.strip())

    def _write(self, chances: Tensor) -> list[list[int]]:
        """Token ids of documents that are written together, without the EOS that ended them."""
        model, n_rows = self.model, len(chances)
        cache = kv.rows_cache(model.n_layers, n_rows, self.n_tokens)
        batch = Batch(model, [Tokens("", (self.begin,), ())] * n_rows, cache=cache)
        written: list[list[int]] = [[] for _ in range(n_rows)]
        going, ids = set(range(n_rows)), None
        with torch.no_grad():
            for chance in chances.T:
                if ids is not None:
                    batch.advance()
                ids = _drawn(model.decide(batch.last(ids)), chance)
                for row, token in enumerate(ids.squeeze(1).tolist()):
                    if token in model.stop_ids:
                        going.discard(row)
                    elif row in going:
                        written[row].append(token)
                if not going:
                    break
        return written


def _drawn(logits: Tensor, chance: Tensor) -> Tensor:
    """A token of each row by its chance, (rows,), at temperature 1, (rows, 1)."""
    below = torch.softmax(logits.double(), -1).cumsum(-1)
    found = torch.searchsorted(below, (chance.to(below.device) * below[:, -1])[:, None], right=True)
    return found.clamp_max(logits.shape[-1] - 1)
