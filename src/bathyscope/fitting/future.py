"""fit_future_lens: from one representation to what the last block returns some tokens later (arXiv 2311.04897).

The paper's linear way. Its learned prompt is in `soft_prompts`.
"""

from collections.abc import Sequence

import torch

from bathyscope.engine import Stop
from bathyscope.errors import UsageError
from bathyscope.fitting.agreement import agreement
from bathyscope.fitting.collecting import Reader
from bathyscope.fitting.methods import least_squares
from bathyscope.generation import Progress
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.sites import EMBEDDING_LAYER, Site, check_layer, residual_site
from bathyscope.texts import Texts, split_texts, windows


def fit_future_lens(  # noqa: PLR0913 (each is one thing that a user decides)
    model: Model,
    texts: Texts,
    *,
    layers: Sequence[int] | None = None,
    n_ahead: int = 1,
    n_positions: int = 20_000,
    length: int = 128,
    held_out: float = 0.1,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Affine:
    """Fit, for each layer, the affine map from a representation to the last block's output `n_ahead` tokens later.

    It has the least squared error. Final norm and unembedding of what it gives are what the model will say after that
    later token. With `n_ahead=0` it is `fit_affine(..., method="least-squares")` to the last block.

    Args:
        model: the model.
        texts: what it reads; the later tokens are the text's own.
        layers: from which, -1 for the embedding; all unless said.
        n_ahead: how many tokens later.
        n_positions: positions to fit on; where there are fewer, all of them. Attention sinks are left out.
        length: tokens of a window.
        held_out: share of the documents that the read-out is compared with the model's own on.
        progress: called with the positions that were read and those there may be.
        stop: looked at between blocks of windows.

    Returns:
        A mapping with terms in float32 (float64 for a model in float64). `fit.held_out` has for each layer what
        `agreement` measures: KL and Precision@1 of the read-out, beside those of the logit lens.

    Raises:
        UsageError: too little text, or a layer or number that cannot be.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.fitting import fit_future_lens
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> texts = given_texts([f"{name} lives in {place}." for name in ("Ann", "Bo") for place in ("Rome", "Oslo")])
        >>> fit_future_lens(model, texts, layers=[3], n_ahead=2, length=6).fit.n_samples
        6
    """
    chosen = tuple(dict.fromkeys(range(EMBEDDING_LAYER, model.n_layers) if layers is None else layers))
    for layer in chosen:
        check_layer(layer, model.n_layers)
    if not chosen or n_positions < 2 or not 0 <= n_ahead < length - 1:
        raise UsageError(
            f"layers={list(chosen)}, n_positions={n_positions} and n_ahead={n_ahead} were given",
            f"at least one layer, two positions, and 0 to {length - 2} tokens ahead in windows of {length}",
        )
    pairs = [(residual_site(layer), Site("resid_post", model.n_layers - 1)) for layer in chosen]
    seen, unseen = split_texts(texts, held_out=held_out)
    reader = Reader(model, model, pairs, length, stop or Stop(), n_ahead)
    fitted = reader.collect(seen, n_positions, lambda n: None if progress is None else progress(n, n_positions))
    if fitted.n < 2:
        raise UsageError(f"{fitted.n} positions are left to fit on", "at least 2, and many more than the width")
    dtype = torch.promote_types(torch.float32, model.dtype)
    terms = {}
    for pair in pairs:
        term = least_squares(fitted.of(pair))
        terms[pair] = Term(term.weight.to(dtype), None if term.bias is None else term.bias.to(dtype))
    measured = agreement(model, windows(model, unseen, length=length), terms, ahead=n_ahead)
    options = {
        "n_ahead": n_ahead,
        "n_positions": n_positions,
        "length": length,
        "held_out": held_out,
        "samples_per_width": fitted.n / model.d_model,
    }
    identity = model_identity(model)
    return Affine(terms, Fit("future-lens", identity, identity, texts.describe(), fitted.n, measured, options))
