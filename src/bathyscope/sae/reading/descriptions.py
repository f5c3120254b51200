"""What a model itself says of a latent: a patchscope of its decoder direction, beside directions that mean nothing.

The direction is written over the placeholder of an inspection prompt, at several layers and lengths, and the model
writes on (arXiv 2401.06102, with a direction in place of a representation). Every text that comes of it is read
again by the coder: a description is the text that activates the latent most. Such a search finds something for any
direction, so random directions are searched in the same way, and other latents' texts are tried on this latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from bathyscope import prompts
from bathyscope.controls import random_vector
from bathyscope.engine import Cell, Given, Stop, collect, plan
from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.generation import Progress
from bathyscope.model import Model
from bathyscope.prompts import Inspection, InspectionPrompt
from bathyscope.readouts import Generate
from bathyscope.sae.coder import SparseCoder
from bathyscope.sae.reading.directions import check_writes_residual
from bathyscope.sae.reading.latent import Description
from bathyscope.sae.reading.result import LatentReadings
from bathyscope.sites import Site, check_layer, residual_site

SCALES: Final = (0.5, 1.0, 2.0, 4.0)
"""Lengths that are tried, in lengths of what stands at the placeholder."""

N_RANDOM: Final = 9
"""Random directions beside each latent's."""


def describe_latents(  # noqa: PLR0913 (what is described, how, and how it is run)
    model: Model,
    coder: SparseCoder,
    readings: LatentReadings,
    latents: Sequence[int],
    *,
    prompt: InspectionPrompt | None = None,
    layers: Sequence[int] | None = None,
    scales: Sequence[float] = SCALES,
    new_tokens: int = 10,
    n_random: int = N_RANDOM,
    seed: int = 0,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> LatentReadings:
    """Let the model describe latents in its own words, and measure whether that says anything.

    A text's score for a latent is the largest activation of the latent while the model reads the text, over its
    largest in `readings`. A direction's description is its text of highest score, of all layers and scales; so is each
    control's. Where it does not beat every control it is shown as 'says nothing'; without any meaning in it, one of
    `n_random` + other latents + 1 would. A label never depends on it.

    Args:
        model: the model that the coder is for.
        coder: the coder.
        readings: what `read_latents` returned.
        latents: which are described; each one's texts are controls of the others.
        prompt: the inspection prompt; `prompts.entity_description` unless said.
        layers: where the direction is written; the coder's own and a tenth of the way up, unless said.
        scales: how long it is, in lengths of what stands at the placeholder there.
        new_tokens: at most so many tokens a text.
        n_random: random directions that are searched in the same way.
        seed: of these.
        progress: called with tokens that are written and to be written.
        stop: looked at at every decoding step.

    Returns:
        The readings with these descriptions.

    Raises:
        UsageError: a coder whose directions are not the residual stream's, a latent that was not read, or a model
            without room for prompt and text.

    Example:
        >>> import bathyscope, torch
        >>> from bathyscope import Site
        >>> from bathyscope.sae import KeepTop, SparseCoder
        >>> from bathyscope.sae.reading import describe_latents, read_latents
        >>> from bathyscope.texts import given_texts
        >>> model = bathyscope.load()
        >>> rows = torch.randn(40, model.d_model, generator=torch.Generator().manual_seed(0))
        >>> zeros, site = torch.zeros, Site("resid_post", 3)
        >>> coder = SparseCoder(rows, zeros(40), rows, zeros(model.d_model), KeepTop(4), site=site, target=site)
        >>> texts = given_texts(["The boats go out in the morning and come back.", "The cat looks at the water."] * 4)
        >>> found = read_latents(model, coder, texts, length=8)
        >>> found = describe_latents(model, coder, found, [0], scales=(1.0,), new_tokens=2, n_random=1)
        >>> found[0].description.n_controls
        1
    """
    site, target = coder.check(model)
    check_writes_residual(coder, model)
    chosen, scales = list(dict.fromkeys(latents)), tuple(scales)
    largest = torch.tensor([float(readings.activity.largest[readings.row(one)]) for one in chosen])
    if not chosen or not scales or n_random < 1:
        raise UsageError("nothing was to be described, or without a control", "a latent, a scale, a random direction")
    inspection = prompts.prepare(model, prompt or prompts.entity_description())
    _check_room(model, len(inspection.tokens) + new_tokens)
    places = _places(model, target, layers, inspection)
    drawn = [random_vector(f"latent control {number}", (coder.d_out,), seed=seed) for number in range(n_random)]
    directions = torch.stack([*(coder.decoder[one].float() for one in chosen), *drawn])
    asked = [_Asked(row, place, scale) for row in range(len(directions)) for place in places for scale in scales]
    unit = torch.nn.functional.normalize(directions, dim=1)
    cells = [_cell(one, unit[one.direction], inspection, new_tokens) for one in asked]
    said = collect(plan(cells, model, model), model, model, progress=progress, stop=stop).readings
    texts = [one.text.strip() for one in said]
    found = _scores(model, coder, site, texts, torch.tensor(chosen))
    scores = torch.where(largest > 0, found / largest.clamp_min(1e-12), 0.0)
    by_direction = scores.view(len(directions), -1, len(chosen))
    best, where = by_direction.max(1)
    descriptions = {}
    for row, latent in enumerate(chosen):
        others = torch.cat([best[:row, row], best[row + 1 :, row]])
        number = row * by_direction.shape[1] + int(where[row, row])
        descriptions[latent] = Description(
            text=texts[number],
            layer=asked[number].place.layer,
            scale=asked[number].scale,
            score=float(best[row, row]),
            control=float(others.max()),
            n_controls=len(others),
        )
    return readings.with_descriptions(descriptions)


@dataclass(frozen=True)
class _Place:
    """A layer that a direction is written at, and how long what stands there is."""

    layer: int
    norm: float


@dataclass(frozen=True)
class _Asked:
    direction: int
    place: _Place
    scale: float


def _check_room(model: Model, length: int) -> None:
    if model.max_length is not None and length > model.max_length:
        raise UsageError(
            f"descriptions of {length} tokens were asked for, with the prompt that they are written behind",
            f"{model.name} has {model.max_length} positions",
            "a shorter prompt, or no descriptions",
        )


def _places(model: Model, target: Site, layers: Sequence[int] | None, inspection: Inspection) -> list[_Place]:
    own = model.n_layers - 1 if target.layer is None else target.layer
    wanted = list(dict.fromkeys((own, min(own, model.n_layers // 10)) if layers is None else layers))
    for layer in wanted:
        check_layer(layer, model.n_layers)
    read = capture(model, [inspection.tokens], [residual_site(layer) for layer in wanted])
    at = list(inspection.positions)
    return [_Place(layer, float(read[residual_site(layer)][0][at].float().norm(dim=-1).mean())) for layer in wanted]


def _cell(asked: _Asked, unit: Tensor, inspection: Inspection, new_tokens: int) -> Cell:
    site = residual_site(asked.place.layer)
    return Cell(
        target=inspection.tokens,
        readout=Generate(new_tokens),
        source=Given(unit * (asked.scale * asked.place.norm), site),
        site=site,
        positions=inspection.positions,
        also=inspection.writes,
    )


def _scores(model: Model, coder: SparseCoder, site: Site, texts: Sequence[str], latents: Tensor) -> Tensor:
    """The largest activation of each latent while the model reads each text, (texts, latents); no first token's."""
    scores = torch.zeros(len(texts), len(latents))
    rows = [row for row, text in enumerate(texts) if text]
    if not rows:
        return scores
    # The first token is a sink in most models, and a word that stood there would be lost: a line break stands there.
    begins = len(model.tokenize("\n"))
    read = capture(model, ["\n" + texts[row] for row in rows], [site])[site]
    for row, residual in zip(rows, read, strict=True):
        if len(residual) > begins:
            dense = coder.encode(residual[begins:].detach().cpu()).dense()
            scores[row] = dense[:, latents].amax(0)
    return scores
