"""Logits as targets: which are taken apart, and along what each reads the residual stream with the final norm held."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bathyscope.circuits.attribution_graphs.attention import linear_map, tolerance
from bathyscope.circuits.attribution_graphs.local import LocalModel
from bathyscope.circuits.attribution_graphs.norms import FrozenNorms
from bathyscope.circuits.attribution_graphs.sweep import Targets
from bathyscope.errors import UsageError
from bathyscope.model import Model
from bathyscope.readouts import LogitDiff, token_id


@dataclass(frozen=True)
class Likeliest:
    """The likeliest next tokens: as few as together have a share of all probability, and no more than so many.

    Args:
        share: of all probability, up to 1.
        most: tokens.

    Raises:
        UsageError: numbers that make no sense.

    Example:
        >>> from bathyscope.circuits.attribution_graphs import Likeliest
        >>> Likeliest(most=3).share
        0.95
    """

    share: float = 0.95
    most: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.most < 1:
            raise UsageError(f"{self} was given", "a share above 0 and up to 1, and at least one token", "Likeliest()")


Asked = Likeliest | LogitDiff | str | int | Sequence[str | int]
"""Which logits: the likeliest, some tokens by text or id, or a difference of two."""


@dataclass(frozen=True, eq=False)
class Logits:
    """Logits of the token after the prompt, each less the mean of all: what is added to all alike changes nothing.

    Args:
        tokens: their ids; of a difference, the answer's.
        labels: their texts; of a difference, both.
        probabilities: of the tokens; of a difference None.
        targets: how they are read.
    """

    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    probabilities: tuple[float | None, ...]
    targets: Targets

    @property
    def weights(self) -> Tensor:
        """What each counts for: its probability, 1 for a difference, (targets,), float64."""
        return torch.tensor([1.0 if one is None else one for one in self.probabilities], dtype=torch.float64)


def asked_in_json(asked: Asked) -> Any:
    """What was asked, as JSON values."""
    if isinstance(asked, Likeliest):
        return {"likeliest": asked.share, "most": asked.most}
    if isinstance(asked, LogitDiff):
        return asked.spec()
    return [asked] if isinstance(asked, (str, int)) else list(asked)


def logit_targets(local: LocalModel, asked: Asked) -> Logits:
    """Find the logits that are asked for, and freeze the way to them.

    Args:
        local: the replacement model.
        asked: which.

    Returns:
        Targets whose values are the model's logits, before the model caps them, less their mean.

    Raises:
        UsageError: no token, a text that is not one token, or a tail that is not linear with the norm's scale held.
    """
    model, residual = local.model, local.last[-1:]
    with torch.no_grad():
        hidden = model.last_hidden(residual.to(model.dtype))
        probabilities = model.decide(hidden)[0].double().softmax(-1)
    dtype = residual.dtype
    weight, mean = model.unembedding.weight.detach(), _mean(model.unembedding.weight, dtype)
    bias = getattr(model.unembedding, "bias", None)
    biases = torch.zeros(len(weight), dtype=dtype, device=weight.device) if bias is None else bias.detach().to(dtype)
    if isinstance(asked, LogitDiff):
        tokens = [token_id(model, asked.answer), token_id(model, asked.wrong_answer)]
        if tokens[0] == tokens[1]:
            raise UsageError(f"{asked} was given", "two tokens differ in a logit", "")
        right, wrong = model.token_texts(tokens)
        labels, chances = [f"{right} - {wrong}"], [None]
        rows = (weight[tokens[0]].to(dtype) - weight[tokens[1]].to(dtype))[None]
        own = (biases[tokens[0]] - biases[tokens[1]])[None]
        tokens = tokens[:1]
    else:
        tokens = _tokens(model, asked, probabilities)
        labels, chances = list(model.token_texts(tokens)), probabilities[tokens].tolist()
        rows, own = weight[tokens].to(dtype) - mean, biases[tokens] - biases.mean()
    vectors, constants = _through_tail(model, residual, rows)
    factor = model.architecture.logit_multiplier / model.architecture.logit_divisor
    values, vectors = factor * (hidden[0].to(dtype) @ rows.T + own), factor * vectors
    rest = values - vectors @ residual[0]
    missed = float((rest - factor * (constants + own)).abs().max() / values.abs().max())
    if not missed <= tolerance(model):
        raise UsageError(
            f"the logits of {model.name} are not linear when the final norm's scale is held",
            f"the map misses them by {missed:.1e} of the largest",
        )
    times = torch.full((len(tokens),), 2 * model.n_layers)
    targets = Targets(times, torch.full_like(times, len(local.tokens) - 1), vectors, rest, values)
    return Logits(tuple(tokens), tuple(labels), tuple(chances), targets)


def _tokens(model: Model, asked: Likeliest | str | int | Sequence[str | int], probabilities: Tensor) -> list[int]:
    if isinstance(asked, Likeliest):
        found = probabilities.topk(min(asked.most, len(probabilities)))
        before = found.values.cumsum(0) - found.values
        return found.indices[before < asked.share].tolist()
    tokens = [token_id(model, one) for one in ([asked] if isinstance(asked, (str, int)) else asked)]
    if not tokens or len(set(tokens)) < len(tokens):
        raise UsageError(f"targets={asked!r} was given", "tokens that differ, at least one", "targets=Likeliest()")
    return tokens


def _mean(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().mean(0, dtype=dtype)


def _through_tail(model: Model, residual: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Directions of the unembedding's input, (targets, width), as vectors of the stream and constants, (targets,)."""
    constants = rows.new_zeros(len(rows))
    architecture = model.architecture
    if (path := architecture.project_out) is not None:
        weight, bias = linear_map(model.hf.get_submodule(path), path, model.d_model, rows.dtype)
        constants, rows = constants + rows @ bias, rows @ weight
    if (path := architecture.norm) is not None:
        frozen = FrozenNorms.of(model.hf.get_submodule(path), residual.to(model.dtype), rows.dtype, "the final norm")
        constants, rows = constants + rows @ frozen.bias, frozen.scales[0] * frozen.pull_back(rows)
    return rows, constants
