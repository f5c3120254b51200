"""Model: a Hugging Face model with its tokenizer and architecture, and the few things asked of it directly.

Knows how text becomes tokens and how the residual stream becomes logits. Reading, writing and
running are in `forward`; finding and opening checkpoints is in `loading`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bathyscope.architectures import Architecture, Tap
from bathyscope.errors import SiteError, UsageError
from bathyscope.largest import largest
from bathyscope.sites import Site

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


HALF = (torch.bfloat16, torch.float16)

REFINED = 16
"""How many of the best logits half precision computes again."""


@dataclass(frozen=True)
class Tokens:
    """A prompt as the model reads it.

    Args:
        text: the prompt.
        ids: token ids, special tokens included.
        texts: each token as text, for people.
        offsets: where each token stands in `text`, (first, past the last); a special token that was
            added has none of it, (0, 0). Empty where only ids were given.
    """

    text: str
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def __hash__(self) -> int:
        return self._hash  # thousands of cells ask for that of the same prompt

    @cached_property
    def _hash(self) -> int:
        return hash((self.text, self.ids))

    def numbered(self) -> str:
        """The tokens with their positions, on one line, for error messages.

        Example:
            >>> from bathyscope.model import Tokens
            >>> Tokens("hi you", (7, 9), ("hi", " you")).numbered()
            "0 'hi', 1 ' you'"
        """
        return ", ".join(f"{index} {text!r}" for index, text in enumerate(self.texts))


Prompt = str | Tokens | Sequence[int]
"""A prompt: text, or tokens, or token ids."""


@dataclass(frozen=True, eq=False)
class Model:
    """A causal language model whose activations can be read and written.

    Args:
        hf: the Hugging Face model, in evaluation mode. Nothing in it is changed.
        tokenizer: its fast tokenizer.
        architecture: where the family keeps each component.
        name: what it was loaded as.
        revision: the revision that was asked for.

    Example:
        >>> import bathyscope
        >>> model = bathyscope.load()
        >>> model.n_layers, model.d_model
        (30, 576)
        >>> model.tokenize("Diana, Princess of Wales").texts[-1]
        ' Wales'
    """

    hf: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    architecture: Architecture
    name: str
    revision: str | None = None
    _modules: dict[str, nn.Module] = field(default_factory=dict, repr=False)
    _texts: dict[int, str] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {self.architecture.family}, {self.n_layers} layers, d_model {self.d_model})"

    @property
    def n_layers(self) -> int:
        """Number of blocks; layers are -1 (the embedding) and 0 to n_layers - 1."""
        return self.architecture.n_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.architecture.d_model

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, in order."""
        return cast(nn.ModuleList, self.hf.get_submodule(self.architecture.blocks))

    @property
    def attention(self) -> str:
        """The attention implementation that the model was loaded with, such as "sdpa" or "eager"."""
        return self.hf.config._attn_implementation or "eager"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.hf.dtype

    @cached_property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embedding."""
        return self._embedding.device

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return len(self._embedding)

    def has_tokens_of(self, other: "Model") -> bool:
        """Whether a token id means the same text in another model."""
        same = self.tokenizer is other.tokenizer or self.tokenizer.get_vocab() == other.tokenizer.get_vocab()
        return same and self.vocabulary == other.vocabulary

    @cached_property
    def max_length(self) -> int | None:
        """The longest sequence that the model has positions for, or None where it has no limit."""
        return getattr(self.hf.config, "max_position_embeddings", None)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end a generation."""
        stops: set[int] = set()
        for config in (self.hf.generation_config, self.hf.config, self.tokenizer):
            found = getattr(config, "eos_token_id", None)
            stops.update([found] if isinstance(found, int) else found or ())
        return frozenset(stops)

    def site(self, text: str | Site) -> Site:
        """Read a site's name: canonical, TransformerLens's, or a Hugging Face module path.

        `model.layers.5.mlp` is what that module returns, `model.layers.5:in` what it receives.

        Raises:
            SiteError: no site has this name, or this model has no such site.
        """
        try:
            site = Site.parse(text)
        except SiteError:
            found = self.architecture.site_at(str(text))
            if found is None:
                raise
            site = found
        self.tap(site)
        return site

    def tap(self, site: Site) -> Tap:
        """Where a site is met, having made sure that this model has it.

        Raises:
            SiteError: with the reason.
        """
        tap = self.architecture.tap(site)
        if site.component == "pattern" and self.attention != "eager":
            raise SiteError(
                "the attention pattern cannot be read",
                f"{self.attention} attention never makes it; eager attention does",
                'bathyscope.load(..., attention="eager")',
            )
        self.module(self.architecture.module_path(site), tap, site)
        return tap

    def module(self, path: str, tap: Tap, site: Site) -> nn.Module:
        """The module at a path, found once."""
        if path not in self._modules:
            try:
                self._modules[path] = self.hf.get_submodule(path)
            except AttributeError:
                reason = tap.absent or f"this checkpoint has no module {path}"
                raise SiteError(f"{self.name} has no site {site}", reason) from None
        return self._modules[path]

    def tokenize(self, prompt: Prompt) -> Tokens:
        """Turn a prompt into tokens, with the special tokens that the tokenizer adds, never twice.

        Raises:
            UsageError: the prompt is empty, too long, or holds ids that the model does not have.
        """
        if isinstance(prompt, Tokens):
            tokens = prompt
        elif isinstance(prompt, str):
            tokens = self._tokenize_text(prompt)
        else:
            ids = tuple(int(token) for token in prompt)
            tokens = Tokens(self.decode(ids), ids, self.token_texts(ids))
        vocabulary = self.vocabulary
        if not tokens.ids:
            raise UsageError("an empty prompt was given", "a prompt needs at least one token")
        if not all(0 <= token < vocabulary for token in tokens.ids):
            raise UsageError(f"token ids {tokens.ids} were given", f"this model has ids 0 to {vocabulary - 1}")
        self.check_length(len(tokens))
        return tokens

    def check_length(self, length: int) -> None:
        """Refuse a sequence that the model has no positions for."""
        if self.max_length is not None and length > self.max_length:
            raise UsageError(
                f"{length} tokens are needed (prompt and new tokens)",
                f"{self.name} reads at most {self.max_length}",
                "a shorter prompt or fewer --new-tokens",
            )

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as text, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_texts(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Each token as text."""
        for token in set(ids) - self._texts.keys():
            self._texts[token] = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return tuple(self._texts[token] for token in ids)

    def unembed(self, residual: Tensor) -> Tensor:
        """The model's own tail: final norm, unembedding, and whatever it does to logits after that.

        Args:
            residual: residual stream after the last block, before the final norm, (..., d_model).

        Returns:
            Logits, (..., d_vocab).
        """
        return self._finish(self.unembedding(self.last_hidden(residual)))

    def last_hidden(self, residual: Tensor) -> Tensor:
        """What the unembedding is given, (..., width), for a residual stream after the last block, (..., d_model)."""
        architecture = self.architecture
        for path in (architecture.norm, architecture.project_out):
            if path is not None:
                module = self.hf.get_submodule(path)
                residual = module(residual.to(next(module.parameters())))
        return residual.to(self.unembedding.weight)

    def token_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of some tokens only, with float32 sums where the weights are coarser.

        Args:
            hidden: what the unembedding is given, (rows, width).
            tokens: token ids of each row, (rows, tokens), or the same for all, (tokens,).

        Returns:
            (rows, tokens).
        """
        return self._finish(self._exact(hidden, tokens))

    def decide(self, hidden: Tensor) -> Tensor:
        """Logits that a choice is made from, float32 where the weights are coarser, (rows, d_vocab).

        Half precision rounds logits so far that the best often tie. The best few are computed again
        with float32 sums.

        Args:
            hidden: what the unembedding is given, (rows, width).
        """
        logits = self.unembedding(hidden)
        if logits.dtype in HALF:
            best, _ = largest(logits, REFINED)
            logits = logits.float().scatter_(-1, best, self._exact(hidden, best))
        return self._finish(logits)

    def choose(self, hidden: Tensor) -> Tensor:
        """The likeliest token of each row, as `decide` would have it, (rows,).

        Args:
            hidden: what the unembedding is given, (rows, width).
        """
        logits = self.unembedding(hidden)
        if logits.dtype not in HALF:
            return logits.argmax(-1)
        best, _ = largest(logits, REFINED)
        return best.gather(1, self._exact(hidden, best).argmax(-1, keepdim=True)).squeeze(1)

    def _exact(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Logits of some tokens before the family's last steps, with float32 sums, as in `token_logits`."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        weight = self.unembedding.weight[tokens].to(dtype)
        exact = torch.einsum("rw,kw->rk" if tokens.ndim == 1 else "rw,rkw->rk", hidden.to(dtype), weight)
        return exact if self.unembedding.bias is None else exact + self.unembedding.bias[tokens].to(dtype)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every weight's name, dtype, shape and bytes, and the config; a second for 135M weights."""
        digest = hashlib.sha256(_canonical(self.hf.config.to_diff_dict()))
        for name, weight in sorted(self.hf.state_dict().items()):
            digest.update(f"{name}{weight.dtype}{tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def provenance(self) -> dict[str, Any]:
        """What a result says of the model that it was measured on."""
        return {
            "model": self.name,
            "revision": self.revision,
            "commit": getattr(self.hf.config, "_commit_hash", None),
            "family": self.architecture.family,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.attention,
            "device": str(self.device),
        }

    def loadable(self) -> dict[str, Any]:
        """What a model can be loaded again by, as JSON values."""
        return {
            "name": self.name,
            "revision": self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.attention,
        }

    @cached_property
    def unembedding(self) -> nn.Linear:
        """The map from the last hidden state to logits, before the family's own last steps."""
        return cast(nn.Linear, self.hf.get_output_embeddings())

    def _finish(self, logits: Tensor) -> Tensor:
        """What the family does to logits after the unembedding."""
        architecture = self.architecture
        if architecture.logit_multiplier != 1.0:
            logits = logits * architecture.logit_multiplier
        if architecture.logit_divisor != 1.0:
            logits = logits / architecture.logit_divisor
        if (cap := architecture.logit_softcap) is not None:
            logits = torch.tanh(logits / cap) * cap
        return logits

    @property
    def _embedding(self) -> Tensor:
        return cast(nn.Embedding, self.hf.get_input_embeddings()).weight

    def _tokenize_text(self, text: str) -> Tokens:
        if not text:
            raise UsageError("an empty prompt was given", "a prompt needs at least one token", '"Barack Obama"')
        if not self.tokenizer.is_fast:
            raise UsageError(
                f"{self.name} has a slow tokenizer", "positions in text are found by the offsets of a fast one"
            )
        bos = self.tokenizer.bos_token
        # A chat template writes the first special token itself; the tokenizer must not add a second.
        encoded = self.tokenizer(
            text, return_offsets_mapping=True, add_special_tokens=not (bos and text.startswith(str(bos)))
        )
        ids = tuple(encoded["input_ids"])
        offsets = tuple((int(first), int(last)) for first, last in encoded["offset_mapping"])
        return Tokens(text, ids, self.token_texts(ids), offsets)


def _canonical(mapping: Mapping[str, Any]) -> bytes:
    return json.dumps(mapping, sort_keys=True, default=str).encode()
