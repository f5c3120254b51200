"""Sliced: a narrower copy of a model, cut along the principal components of its residual stream and briefly re-fitted.

The cut is that of SliceGPT (arXiv 2401.15024) with the same components at every layer, since a model of
the family has nothing between two blocks that could change them. What the cut breaks, a few steps of
distillation mend: the copy's next tokens are pulled towards the model's.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Final

import torch
from torch import Tensor

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import ModelError, UsageError
from bathyscope.forward import capture, run
from bathyscope.generation import Progress
from bathyscope.loading import wrap
from bathyscope.model import HALF, Model, Tokens
from bathyscope.sites import Site
from bathyscope.studies.cross_model_study.pairs import check_type, folded, in_basis, made
from bathyscope.texts import Texts, split_texts, windows

STEPS: Final = 150
"""Windows that the copy is re-fitted on, one a step."""
RATE: Final = 1e-4
"""Adam's largest step; five times as much undoes in a few steps what the cut has kept."""
WARM_UP: Final = 10
"""Steps in which the rate rises; from there it falls to nothing at the last step."""
COMPONENTS_FROM: Final = 24
"""Windows that the principal components are taken from."""
MEASURED_ON: Final = 8
"""Held-out windows that the copy is compared with the model on."""


@dataclass(frozen=True)
class Likeness:
    """How like a model's a copy's next tokens are, on text that neither was fitted on.

    Args:
        kl: KL(p_model || p_copy), nats.
        agreement: how often both have the same likeliest token.
        n: positions.
    """

    kl: float
    agreement: float
    n: int


@dataclass(frozen=True, eq=False)
class Sliced:
    """A narrower copy, and how much was lost.

    Args:
        model: the copy.
        basis: its residual stream's directions in the model's own, (d_model, width), float64, orthonormal columns.
        kept: share of the squared length of what the norms hand on that lies in those directions.
        before: as it was cut.
        after: as it was re-fitted.
        n_tokens: of the text that it was re-fitted on.
    """

    model: Model
    basis: Tensor
    kept: float
    before: Likeness
    after: Likeness
    n_tokens: int

    def describe(self) -> str:
        """One line for people.

        Example:
            >>> import torch
            >>> from bathyscope.studies.cross_model_study.slicing import Likeness, Sliced
            >>> found = Sliced(None, torch.eye(4)[:, :3], 0.9, Likeness(2.0, 0.3, 8), Likeness(0.5, 0.7, 8), 100)
            >>> found.describe()
            'width 3 of 4 keeps 90.0%; KL 2.00 as cut, 0.50 re-fitted on 100 tokens; agreement 30% and then 70%'
        """
        before, after = self.before, self.after
        return (
            f"width {self.basis.shape[1]} of {self.basis.shape[0]} keeps {self.kept:.1%}; KL {before.kl:.2f} as cut, "
            f"{after.kl:.2f} re-fitted on {self.n_tokens:,} tokens; agreement {before.agreement:.0%} and then "
            f"{after.agreement:.0%}"
        )


def sliced(
    model: Model,
    texts: Texts,
    *,
    width: int | None = None,
    steps: int = STEPS,
    length: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Sliced:
    """A copy of a model with a narrower residual stream, and otherwise the same sizes.

    Norms are folded into the maps behind them (`pairs.folded`). Every vector of the residual stream is cut to its
    coordinates along the principal components of what the norms hand on, at all layers of all positions together,
    uncentred. The blocks are then re-fitted: Adam on KL(p_model || p_copy), a window a step.

    Args:
        model: a model of Llama's type, in float32 or float64.
        texts: what components and steps are taken from; the last tenth of the documents is measured on.
        width: of the copy's residual stream, a multiple of the number of heads; three quarters of it unless said.
        steps: how many, 0 for a copy as it is cut.
        length: tokens of a window.
        seed: decides the order of the windows.
        progress: called with the steps that are done and those there are.
        stop: looked at at every step.

    Raises:
        UsageError: a model of another type or in half precision, a width that it cannot have, or too little text.
        ModelError: the fit diverged.
        CancelledError: `stop` said so.

    Example:
        >>> import bathyscope
        >>> from bathyscope.studies.cross_model_study.slicing import sliced
        >>> from bathyscope.texts import given_texts
        >>> texts = given_texts(["The king of France lives in Paris."] * 2)
        >>> model = bathyscope.load()
        >>> copy = sliced(model, texts, width=model.d_model * 3 // 4, steps=0, length=8).model
        >>> copy.d_model / model.d_model
        0.75
    """
    width = _checked_width(model, width)
    fit, held_out = split_texts(texts, held_out=0.1)
    drawn = list(islice(windows(model, fit, length=length), 4 * (COMPONENTS_FROM + steps)))
    random.Random(seed).shuffle(drawn)
    unseen = list(islice(windows(model, held_out, length=length), MEASURED_ON))
    basis, kept = principal_components(model, drawn[:COMPONENTS_FROM], width)
    settings = {"hidden_size": width, "head_dim": model.architecture.d_head, "tie_word_embeddings": False}
    weights = in_basis(folded(model), basis, model.n_layers)
    copy = made(model, weights, f"{model.name} sliced to {width}", **settings)
    before = likeness(model, copy, unseen)
    read = list(islice(chain.from_iterable(repeat(drawn)), steps))
    _refit(model, copy, read, progress, stop or Stop())
    copy = wrap(copy.hf, model.tokenizer, name=copy.name)
    after = likeness(model, copy, unseen) if steps else before
    return Sliced(copy, basis, kept, before, after, sum(map(len, read)))


def principal_components(model: Model, windows: Sequence[Tokens], width: int) -> tuple[Tensor, float]:
    """The directions that hold most of what the norms of all blocks hand on.

    Args:
        model: the model.
        windows: what it reads.
        width: how many directions.

    Returns:
        Orthonormal columns, (d_model, width), float64, the strongest first; and what share of all they hold.
    """
    sites = [
        Site("embed"),
        *(Site(part, layer) for layer in range(model.n_layers) for part in ("resid_mid", "resid_post")),
    ]
    products = torch.zeros(model.d_model, model.d_model, dtype=torch.float64)
    for window in windows:
        for rows in capture(model, window, sites).values():
            # Every vector counts alike, as it does behind a norm, however much longer those of late layers are.
            unit = torch.nn.functional.normalize(rows[0].double().cpu(), dim=-1)
            products.addmm_(unit.T, unit)
    values, vectors = torch.linalg.eigh(products)
    return vectors[:, -width:].flip(1), float(values[-width:].sum() / values.sum())


def likeness(model: Model, copy: Model, windows: Sequence[Tokens]) -> Likeness:
    """How like a model's a copy's next tokens are.

    Args:
        model: the model.
        copy: another with the same tokenizer.
        windows: what both read.
    """
    kl, agreed, n = 0.0, 0, 0
    for window in windows:
        wanted, said = (run(one, window).logits[0].double().log_softmax(-1) for one in (model, copy))
        kl += float((wanted.exp() * (wanted - said)).sum())
        agreed += int((wanted.argmax(-1) == said.argmax(-1)).sum())
        n += len(window)
    return Likeness(kl / n, agreed / n, n)


def _refit(model: Model, copy: Model, windows: Sequence[Tokens], progress: Progress | None, stop: Stop) -> None:
    """Change a copy's blocks in place, so that it says what the model says; embedding and unembedding stay."""
    weights = list(copy.blocks.parameters())
    if not windows:
        return
    optimizer = torch.optim.Adam(weights, betas=(0.9, 0.95))
    for weight in weights:
        weight.requires_grad = True
    try:
        for step, (window, rate) in enumerate(zip(windows, _rates(len(windows)), strict=True)):
            if stop.now or stop.soon:
                raise CancelledError("the re-fit was stopped", "nothing of it is kept")
            optimizer.param_groups[0]["lr"] = rate
            ids = torch.tensor([window.ids], device=model.device)
            with torch.no_grad():
                wanted = model.hf(input_ids=ids, use_cache=False).logits.log_softmax(-1)
            with torch.enable_grad():
                said = copy.hf(input_ids=ids, use_cache=False).logits.log_softmax(-1)
                loss = (wanted.exp() * (wanted - said)).sum(-1).mean()
            if not math.isfinite(loss.item()):
                raise ModelError(f"the re-fit diverged at step {step}", "a finite loss is needed", "fewer steps")
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if progress is not None:
                progress(step + 1, len(windows))
    finally:
        for weight in weights:
            weight.requires_grad = False
            weight.grad = None


def _rates(steps: int) -> Iterator[float]:
    """Adam's rate at each step."""
    for step in range(steps):
        yield RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)


def _checked_width(model: Model, width: int | None) -> int:
    check_type(model)
    if model.dtype in HALF:
        raise UsageError(
            f"{model.name} in {model.dtype} was to be sliced", "small steps are lost in it", 'dtype="float32"'
        )
    n_heads = model.architecture.n_heads
    if width is None:
        width = 3 * model.d_model // 4 // n_heads * n_heads
    if not 0 < width < model.d_model or width % n_heads:
        most = min(max(width, n_heads), model.d_model - 1) // n_heads * n_heads
        raise UsageError(
            f"width {width} was wanted of {model.name}",
            f"it must be less than {model.d_model}, and a multiple of its {n_heads} heads",
            f"width {most}",
        )
    return width
