"""Mappings of tiny models, made by hand: near the identity, so that what goes through them is known."""

from pathlib import Path

import torch

from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model
from bathyscope.sites import residual_site
from bathyscope.soft_prompts import SoftPrompt


def mapping(source: Model, target: Model, pairs: dict[int, int], method: str, seed: int = 0) -> Affine:
    """Near the identity, between these layers."""
    generator = torch.Generator().manual_seed(seed)
    terms = {}
    for layer, other in pairs.items():
        weight = torch.eye(source.d_model) + 0.3 * torch.randn(source.d_model, target.d_model, generator=generator)
        terms[residual_site(layer), residual_site(other)] = Term(weight, torch.zeros(target.d_model))
    return Affine(terms, Fit(method, model_identity(source), model_identity(target)))


def save_mappings(folder: Path, one: Model, two: Model) -> dict[str, Path]:
    """Files of each kind of mapping that a page can look through, by name."""
    last = {layer: one.n_layers - 1 for layer in range(one.n_layers - 1)}
    folder.mkdir(exist_ok=True)
    made = {
        "tuned": mapping(one, one, last, "tuned-lens"),
        "jacobian": mapping(one, one, last, "jacobian-lens", 1),
        "capitals": mapping(one, one, {1: one.n_layers - 1}, "relation", 2),
        "jump": mapping(one, one, last, "linear", 3),
        "ahead": mapping(one, one, last, "future-lens", 4),
        "across": mapping(one, two, {0: 1, 2: 1}, "ridge", 5),
        "tuned-two": mapping(two, two, last, "tuned-lens", 6),
        "soft": SoftPrompt.of(one, "Tell me about it", layer=1),
    }
    paths = {name: folder / f"{name}.safetensors" for name in made}
    for name, one_made in made.items():
        one_made.save(paths[name])
    return paths
