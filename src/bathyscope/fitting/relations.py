"""fit_relation: what a relation does to its subject, as one affine map (LRE, arXiv 2308.09124)."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from bathyscope.errors import UsageError
from bathyscope.forward import capture
from bathyscope.generation import Progress
from bathyscope.gradients import stream
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.model import Model, Prompt, Tokens
from bathyscope.prompts import Position, resolve
from bathyscope.sites import Site, check_layer, residual_site

TOKENS: Final = 512
"""Tokens whose gradients are computed together: those from the subject on, once for each direction."""


def fit_relation(
    model: Model,
    prompts: Sequence[Prompt],
    subjects: Sequence[Position],
    *,
    layer: int,
    beta: float = 1.0,
    rank: int | None = None,
    progress: Progress | None = None,
) -> Affine:
    """Fit the linear approximation of a relation: from a subject's representation to what the model says of it.

    With h the residual stream at the subject's last token and z what the last block returns at the prompt's last
    token, W is the mean over prompts of dz / dh, and the bias the mean of z - W h, each prompt with its own Jacobian.
    A representation h becomes beta W h + bias, which final norm and unembedding read as the object. Jacobians are
    exact: d_model backward passes a prompt, of the tokens from the subject on only.

    Args:
        model: the model.
        prompts: texts that state the relation up to its object, best with a few examples before.
        subjects: where each one's subject stands; of text, a `Span` or several tokens the last one is read.
        layer: where the subject is read; -1 is the embedding.
        beta: how much steeper than the Jacobian; the paper takes about 2.5 for GPT-J.
        rank: keep so many singular values of W; all unless said.
        progress: called with the prompts that are done and those there are.

    Returns:
        A mapping from the residual stream at `layer` to the last block's output.

    Raises:
        UsageError: prompts and subjects are not as many, the layer or rank cannot be, or the last block is asked for
            where the subject does not end the prompt, so that nothing flows from one to the other.
        PositionError: a subject is not in its prompt exactly once.
        InterventionError: a gradient is not finite.

    Example:
        >>> import bathyscope
        >>> from bathyscope.fitting import fit_relation
        >>> model = bathyscope.load()
        >>> relation = fit_relation(model, ["The capital of France"], ["France"], layer=29)
        >>> [f"{source} to {target}" for source, target in relation.terms]
        ['resid_post.29 to resid_post.29']
    """
    check_layer(layer, model.n_layers)
    if len(prompts) != len(subjects) or not prompts:
        raise UsageError(f"{len(prompts)} prompts and {len(subjects)} subjects were given", "one subject a prompt")
    if rank is not None and not 1 <= rank <= model.d_model:
        raise UsageError(f"rank={rank} was given", f"1 to {model.d_model}")
    rows = [model.tokenize(prompt) for prompt in prompts]
    places = [resolve(row, subject)[-1] for row, subject in zip(rows, subjects, strict=True)]
    jacobian, bias = torch.zeros(()), torch.zeros(())
    for done, (row, place) in enumerate(zip(rows, places, strict=True), 1):
        own, here, there = _jacobian(model, row, place, layer)
        jacobian, bias = jacobian + own / len(rows), bias + (there - own @ here) / len(rows)
        if progress is not None:
            progress(done, len(rows))
    weight = beta * (jacobian if rank is None else _truncated(jacobian, rank)).T.contiguous()
    options = {
        "layer": layer,
        "beta": beta,
        "rank": rank,
        "prompts": [row.text for row in rows],
        "positions": places,
    }
    identity = model_identity(model)
    fit = Fit("relation", identity, identity, {"name": "prompts"}, len(rows), options=options)
    return Affine({(residual_site(layer), residual_site(model.n_layers - 1)): Term(weight, bias)}, fit)


def relation_edit(relation: Affine, difference: Tensor, *, rank: int | None = None) -> Tensor:
    """The change of a subject's representation that a relation turns into a change of what is said.

    To make the model say another object, add it to the subject at the relation's layer.

    Args:
        relation: from `fit_relation`.
        difference: of the last block's outputs, wanted minus actual, (..., d_model).
        rank: invert so many singular values of the weight only; all unless said.

    Returns:
        The smallest change that does it, (..., d_model); with a rank, the smallest that does it in the directions of
        the largest singular values.

    Raises:
        UsageError: the mapping is no relation.
    """
    if relation.fit.method != "relation":
        raise UsageError(f"a mapping fitted as {relation.fit.method!r} was given", "one fitted as 'relation' is needed")
    (term,) = relation.terms.values()
    left, values, right = torch.linalg.svd(term.weight, full_matrices=False)
    # Models compute their norms in float32, whatever their dtype: smaller values than these are its rounding.
    known = values > len(values) * torch.finfo(torch.float32).eps * values.max()
    kept = slice(min(int(known.sum()), rank or len(values)))
    return (difference.to(term.weight) @ right[kept].T / values[kept]) @ left[:, kept].T


def faithfulness(model: Model, relation: Affine, prompts: Sequence[Prompt], subjects: Sequence[Position]) -> float:
    """Share of prompts for which the relation's likeliest object is the model's own (arXiv 2308.09124, section 4.1).

    Args:
        model: the model.
        relation: from `fit_relation`.
        prompts: best others than it was fitted on.
        subjects: where each one's subject stands.
    """
    ((source, target),) = relation.terms
    relation.check(model, model, {(source, target)})
    rows = [model.tokenize(prompt) for prompt in prompts]
    read = capture(model, rows, [source, target])
    hits = []
    for index, (row, subject) in enumerate(zip(rows, subjects, strict=True)):
        state, own = read[source][index][resolve(row, subject)[-1]], read[target][index][-1]
        said = relation.apply(state[None], source, target)[0].to(own)
        hits.append(model.unembed(said).argmax() == model.unembed(own).argmax())
    return sum(map(float, hits)) / len(hits)


def _jacobian(model: Model, row: Tokens, place: int, layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """The Jacobian of z by h, (d_model of z, d_model of h), with h and z, both (d_model,)."""
    dtype = torch.promote_types(torch.float32, model.dtype)
    if layer == model.n_layers - 1:
        if place != len(row) - 1:
            raise UsageError(
                f"layer {layer} was given for a subject at position {place} of {len(row)} tokens",
                "behind the last block nothing flows from one position to another",
                f"layer={layer - 1}",
            )
        state = capture(model, row, [Site("resid_post", layer)])[Site("resid_post", layer)][0][place].to(dtype)
        return torch.eye(model.d_model, dtype=dtype, device=state.device), state, state
    passed = stream(model, [row], [layer], start=place)
    directions = torch.zeros(model.d_model, *passed.last.shape, dtype=model.dtype, device=passed.last.device)
    directions[:, 0, -1] = torch.eye(model.d_model)
    some = directions.split(max(1, TOKENS // (len(row) - place)))
    found = torch.cat([passed.pull_back(one)[layer][:, 0, 0] for one in some]).to(dtype)
    return found, passed.value(layer)[0, 0].to(dtype), passed.last[0, -1].detach().to(dtype)


def _truncated(matrix: Tensor, rank: int) -> Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]
