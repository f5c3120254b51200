"""What probes are given: representations of subjects in texts, by layer, and a model of that shape that knows nothing.

Knows models and texts, no labels.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from bathyscope.forward import capture
from bathyscope.loading import wrap
from bathyscope.model import Model, Tokens
from bathyscope.probing.classifier import Floats
from bathyscope.prompts import Span, resolve
from bathyscope.sites import EMBEDDING_LAYER, residual_site

BATCH = 32


@dataclass(frozen=True)
class Example:
    """A text with a subject in it, and what a probe is to say of it.

    Args:
        text: what the model reads.
        subject: a part of it; folds are by subject, and what is read is its last token, where it first stands.
        label: what is to be told.

    Example:
        >>> from bathyscope.probing import Example
        >>> Example("We saw Paris in spring.", "Paris", "France").label
        'France'
    """

    text: str
    subject: str
    label: str


def subject_position(tokens: Tokens, subject: str) -> int:
    """The last token of a subject, where it first stands.

    Raises:
        PositionError: it is not in the text; the tokens are shown.
    """
    return resolve(tokens, Span(subject, occurrence=0))[0]


def representations(model: Model, examples: Sequence[Example], layers: Sequence[int]) -> dict[int, Floats]:
    """The residual stream at each example's subject, by layer; -1 is the embedding.

    Args:
        model: the model.
        examples: what it reads.
        layers: after which layers.

    Returns:
        For each layer (examples, d_model).

    Raises:
        PositionError: a subject is not in its text.

    Example:
        >>> import bathyscope
        >>> from bathyscope.probing import Example, representations
        >>> model = bathyscope.load()
        >>> found = representations(model, [Example("We saw Paris in spring.", "Paris", "France")], [-1, 3])
        >>> found[3].shape == (1, model.d_model)
        True
    """
    tokens = [model.tokenize(one.text) for one in examples]
    places = [subject_position(read, one.subject) for read, one in zip(tokens, examples, strict=True)]
    sites = {layer: residual_site(layer) for layer in layers}
    found = capture(model, tokens, list(sites.values()), batch_size=BATCH)
    return {
        layer: numpy.stack(
            [rows[place].double().cpu().numpy() for rows, place in zip(found[site], places, strict=True)]
        )
        for layer, site in sites.items()
    }


def bag_of_embeddings(model: Model, examples: Sequence[Example]) -> Floats:
    """The mean of the embeddings of each text's tokens, (examples, d_model): what words alone tell, in no order."""
    site = residual_site(EMBEDDING_LAYER)
    found = capture(model, [model.tokenize(one.text) for one in examples], [site], batch_size=BATCH)
    return numpy.stack([rows.double().mean(0).cpu().numpy() for rows in found[site]])


def random_model(model: Model, *, seed: int = 0) -> Model:
    """A model of the same family, sizes and tokenizer with random weights, as its training would have begun.

    Args:
        model: the model.
        seed: of the weights.

    Example:
        >>> import bathyscope
        >>> from bathyscope.probing import random_model
        >>> model = bathyscope.load()
        >>> random_model(model).fingerprint != model.fingerprint
        True
    """
    build: Any = type(model.hf)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = build(copy.deepcopy(model.hf.config))
    hf = hf.to(device=model.device, dtype=model.dtype).eval()
    return wrap(hf, model.tokenizer, name=f"{model.name} with random weights, seed {seed}")
