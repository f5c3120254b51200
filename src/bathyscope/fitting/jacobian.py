"""fit_jacobian_lens: the mean Jacobian from every layer to the last block's output, estimated on text.

Its read-out is the final norm and unembedding of J h (Anthropic 2026, transformer-circuits.pub/2026/workspace). What
makes it affordable is in `jacobian_estimate`, what is kept of a fit that was interrupted in `checkpoints`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.agreement import agreement
from bathyscope.fitting.checkpoints import Checkpoint
from bathyscope.fitting.jacobian_estimate import Estimate
from bathyscope.generation import Progress
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model, Tokens
from bathyscope.sites import EMBEDDING_LAYER, Site, check_layer, residual_site
from bathyscope.texts import Texts, split_texts, windows

BASES: Final = 4
"""How many whole Jacobians' worth of backward passes are spread over the prompts, unless told otherwise."""


def fit_jacobian_lens(  # noqa: PLR0913 (each is one thing that a user decides)
    model: Model,
    texts: Texts,
    *,
    layers: Sequence[int] | None = None,
    n_prompts: int = 96,
    length: int = 64,
    skip_first: int = 16,
    directions: int | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Affine:
    """Fit the Jacobian lens: for each layer how the last block's output changes with the residual stream, on average.

    J of a layer is the mean of d last[t'] / d h[t] over prompts and positions t, summed over t', which is t or later.
    `last` is what the last block returns, before the final norm, and h the residual stream at the layer. As in the
    published definition t and t' leave out the first `skip_first` positions of a prompt and its last one, and prompts
    count alike. At the last block J is the identity.

    A whole Jacobian costs d_model backward passes a prompt. Here every prompt answers only for some directions v of
    random orthonormal bases: a backward pass gives v J for all layers at once, and J is the mean over bases of the sum
    of v (v J). It is exact where all prompts have the same Jacobian, and with `directions=d_model`; unbiased always.
    Its variance is that of n_prompts x directions / d_model whole prompts, which cost as much: what it buys is that
    every direction is measured, on other text than its neighbours, however few passes there are.

    Args:
        model: the model.
        texts: what it reads; prompts are windows of `length` tokens.
        layers: with respect to which, -1 for the embedding; all unless said.
        n_prompts: windows to read; where there are fewer, all of them.
        length: tokens of a window. The sum over later positions, and so J itself, grows a little with it.
        skip_first: positions that are left out at the beginning of each window, where attention sinks are.
        directions: how many a prompt answers for, rounded so that all together are whole bases, at least one. Unless
            said, as many as make 4 bases over all prompts: 24 for 96 prompts and a width of 576.
        held_out: share of the documents that the read-out is compared with the model's own on.
        seed: decides the bases.
        checkpoint: a file that finished prompts are kept in; the same call goes on from there.
        progress: called with the directions that are done and those there are.
        stop: looked at between backward passes.

    Returns:
        A mapping from each layer's residual stream to the last block's output. `fit.held_out` has for each layer what
        `agreement` measures: KL and Precision@1 of the read-out, beside those of the logit lens.

    Raises:
        UsageError: too little text, a layer or a number that cannot be, or a checkpoint of another call.
        CancelledError: `stop` said so; with a checkpoint, finished batches of prompts are kept.
        InterventionError: a gradient is not finite.
        StorageError: the checkpoint cannot be read or written.

    Example:
        >>> import bathyscope
        >>> from bathyscope.fitting import fit_jacobian_lens
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> texts = given_texts([f"{name} lives in a small town by the sea." for name in ("Ann", "Bo", "Cy")])
        >>> lens = fit_jacobian_lens(model, texts, layers=[29], length=8, skip_first=2)
        >>> float(lens.term(model.site("resid_post.29"), model.site("resid_post.29")).weight)
        1.0
    """
    asked = _Asked(model, tuple(range(EMBEDDING_LAYER, model.n_layers) if layers is None else layers), skip_first)
    seen, unseen = split_texts(texts, held_out=held_out)
    prompts = asked.prompts(seen, length, n_prompts)
    bases = BASES if directions is None else max(1, round(directions * len(prompts) / model.d_model))
    estimate = Estimate(model, asked.below, prompts, skip_first, min(bases, len(prompts)), seed)
    kept = Checkpoint(None if checkpoint is None else Path(checkpoint), estimate.settings(seen))
    jacobians = estimate.run(kept, progress, stop or Stop())
    last = Site("resid_post", model.n_layers - 1)
    terms = {
        (residual_site(layer), last): Term(jacobians[layer] if layer in jacobians else torch.tensor(1.0))
        for layer in asked.layers
    }
    measured = agreement(model, windows(model, unseen, length=length), terms, first=skip_first)
    options = {**estimate.options(), "length": length, "skip_first": skip_first, "held_out": held_out, "seed": seed}
    identity = model_identity(model)
    n_samples = len(prompts) * estimate.n_positions
    return Affine(terms, Fit("jacobian-lens", identity, identity, texts.describe(), n_samples, measured, options))


@dataclass(frozen=True)
class _Asked:
    """One call of `fit_jacobian_lens`, checked."""

    model: Model
    layers: tuple[int, ...]
    skip_first: int

    def __post_init__(self) -> None:
        for layer in self.layers:
            check_layer(layer, self.model.n_layers)
        if not self.layers or self.skip_first < 1:
            raise UsageError(
                f"layers={list(self.layers)} and skip_first={self.skip_first} were given",
                "at least one layer, and a first position that is left out, which is a sink",
            )

    @property
    def below(self) -> tuple[int, ...]:
        """The layers below the last block, where J is not known beforehand."""
        return tuple(sorted({layer for layer in self.layers if layer < self.model.n_layers - 1}))

    def prompts(self, texts: Texts, length: int, n_prompts: int) -> list[Tokens]:
        """Windows of exactly `length` tokens, without their last one, which is nobody's position."""
        if length < self.skip_first + 2 or n_prompts < 1:
            raise UsageError(
                f"length={length} and n_prompts={n_prompts} were given",
                f"at least one prompt, of at least {self.skip_first + 2} tokens when {self.skip_first} are left out",
            )
        found: list[Tokens] = []
        for window in windows(self.model, texts, length=length):
            if len(window) == length:
                found.append(Tokens("", window.ids[:-1], ()))
            if len(found) == n_prompts:
                return found
        if not found:
            raise UsageError(f"the text has no window of {length} tokens", "at least one is needed", "a smaller length")
        return found
