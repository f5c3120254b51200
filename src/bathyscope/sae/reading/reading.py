"""Reading latents: what each of a coder's latents stands for, from one pass over text and its own weights."""

import time
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.results import provenance
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.reading.activity import Activity
from bathyscope.sae.reading.directions import Promoted, nearest_latents, promoted_tokens, writes_residual
from bathyscope.sae.reading.examples import Best, at_random
from bathyscope.sae.reading.passes import Block, Pass, which
from bathyscope.sae.reading.result import LatentReadings
from bathyscope.sae.reading.rule_finding import RuleFinder
from bathyscope.sae.reading.rules import MeasuredRule
from bathyscope.sae.reading.shapes import shapes_of
from bathyscope.sae.reading.text import ReadText
from bathyscope.texts import Texts

BEFORE, AFTER = 16, 8
"""Tokens of a context before and after the one that ranks."""

SAMPLED: Final = 16
QUARTERS, EACH = 4, 2
"""Quantile samples: so many of each quarter, by activation, of so many that were drawn at random."""


def read_latents(  # noqa: PLR0913 (what is read, how much of it, and how it is run)
    model: Model,
    coder: SparseCoder,
    texts: Texts,
    *,
    n_tokens: int = 200_000,
    length: int = 128,
    n_examples: int = 10,
    latents: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> LatentReadings:
    """Find out what a coder's latents stand for.

    Text is read once, up to the coder's site; first tokens of windows, other attention sinks (`fitting.usable`) and
    special tokens are left out, as they are of training. Examples are ranked by activation over the length of the
    centred input, since tokens of great length would otherwise fill every list: the centre is what the coder takes out,
    or its decoder bias where it takes out nothing. A window gives one example at most, and contexts whose last eight
    tokens are the same are one.
    Quantile samples are two of each quarter of activations, of 16 drawn at random from all active positions, however
    near to one another. A rule in words is chosen
    on every other document and measured on the others, beside the rule that exchanged positions get. Tokens are those
    whose entries of W_dec W_U are largest and smallest, with the final norm's gain left out.

    Args:
        model: the model that the coder was trained on.
        coder: the coder.
        texts: what is read; at least two documents.
        n_tokens: at most so many tokens.
        length: tokens of a window.
        n_examples: examples of each latent.
        latents: which; all unless said.
        seed: of quantile samples and of the controls of rules.
        progress: called with tokens read and to be read.
        stop: looked at between blocks.

    Raises:
        UsageError: another model's coder, or texts that are too short or one document.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope import Site
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.sae.reading import read_latents
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> rows = torch.randn(40, model.d_model, generator=torch.Generator().manual_seed(0))
        >>> zeros, site = torch.zeros, Site("resid_post", 3)
        >>> coder = SparseCoder(rows, zeros(40), rows, zeros(model.d_model), KeepTop(4), site=site, target=site)
        >>> texts = given_texts(["The boats go out in the morning and come back.", "The cat looks at the water."] * 4)
        >>> found = read_latents(model, coder, texts, length=8)
        >>> int(found.activity.histogram.sum()) == 4 * found.activity.n_rows
        True
    """
    began = time.perf_counter()
    site, target = coder.check(model)
    _check(texts, n_tokens, length, n_examples)
    chosen = which(latents, coder)
    gathered = _Gathered(model, len(chosen), n_examples, seed)
    for block in Pass(model, coder, site, chosen, texts, n_tokens, length, stop or Stop()).blocks(
        lambda done: progress(done, n_tokens) if progress else None
    ):
        gathered.add(block)
    promoted = promoted_tokens(model, coder, chosen) if writes_residual(coder, model) else None
    rules = gathered.rules.rules()
    spec = {
        "site": str(site),
        "target": str(target),
        "coder": coder.fingerprint,
        "text": texts.describe(),
        "n_tokens": n_tokens,
        "length": length,
        "n_examples": n_examples,
        "latents": None if latents is None else chosen.tolist(),
        "seed": seed,
    }
    return LatentReadings(
        site=str(site),
        n_latents=coder.n_latents,
        latents=chosen,
        activity=gathered.activity,
        examples=gathered.best.examples(),
        samples=gathered.sample.examples().in_parts(QUARTERS, EACH),
        text=gathered.text(model, promoted, rules),
        promoted=promoted,
        neighbours=nearest_latents(coder, chosen),
        rules=rules,
        descriptions={},
        provenance=provenance([model.provenance()], spec),
        timing={"seconds": round(time.perf_counter() - began, 4)},
    )


class _Gathered:
    """What one pass over text leaves behind."""

    def __init__(self, model: Model, n_latents: int, n_examples: int, seed: int) -> None:
        self.activity = Activity(n_latents)
        self.best = Best(n_latents, n_examples, BEFORE, AFTER)
        self.sample = Best(n_latents, SAMPLED, BEFORE, AFTER, distinct=False)
        self.rules = RuleFinder(n_latents, shapes_of(model.token_texts(range(model.vocabulary))), seed)
        self._seed = seed
        self._ids: list[Tensor] = []
        self._starts: list[Tensor] = []

    def add(self, block: Block) -> None:
        """Take in a block."""
        entries = block.entries
        self._ids.append(block.ids)
        self._starts.append(block.starts[:-1])
        self.activity.add(entries.latents, entries.values, len(block.rows), len(block.ids) - len(block.rows))
        self.best.add(block, entries)
        self.sample.add(block, at_random(entries, self._seed))
        self.rules.add(block)

    def text(self, model: Model, promoted: Promoted | None, rules: Sequence[MeasuredRule | None]) -> ReadText:
        """What was read, with the text of every token that is named anywhere."""
        ids = torch.cat(self._ids)
        named = {token for one in rules if one for token in one.rule.tokens} | set(ids.unique().tolist())
        if promoted is not None:
            named |= set(torch.cat([promoted.up, promoted.down]).unique().tolist())
        order = sorted(named)
        starts = torch.cat([*self._starts, torch.tensor([len(ids)])])
        return ReadText(ids, starts, dict(zip(order, model.token_texts(order), strict=True)))


def _check(texts: Texts, n_tokens: int, length: int, n_examples: int) -> None:
    if n_examples < 1:
        raise UsageError(f"n_examples={n_examples} was given", "at least 1 of each latent", "n_examples=10")
    if n_tokens < 2 * length:
        raise UsageError(
            f"n_tokens={n_tokens} was given with length={length}",
            "each half of the documents needs room for a window",
            f"n_tokens={2 * length} or more",
        )
    documents = texts.documents()
    if len([None for _, _ in zip(range(2), documents, strict=False)]) < 2:
        raise UsageError(
            "a text of one document was given",
            "a rule is measured on other documents than it was chosen on",
            "a text of more documents: headings, form feeds or blank lines part plain text",
        )
