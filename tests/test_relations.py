"""Linear approximations of relations (LRE): what Taylor's theorem and linear algebra say of them, on every family."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bathyscope import capture, run, wrap
from bathyscope.errors import PositionError, UsageError
from bathyscope.fitting import faithfulness, fit_relation, relation_edit
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Affine, Term
from bathyscope.model import Model
from bathyscope.sites import Site, residual_site
from families import TinyFamily
from tokenizers_for_tests import tiny_tokenizer

PROMPTS = ["The capital of France is", "The largest city in Syria is", "This is Diana, Princess of Wales and"]
SUBJECTS = ["France", "Syria", "Diana"]


def ends(model: Model, prompt: str, subject: str, layer: int) -> tuple[Tensor, Tensor, int]:
    """The representation at the subject's last token, the last block's output at the last, and where the subject is."""
    tokens = model.tokenize(prompt)
    stop = prompt.index(subject) + len(subject)
    place = next(index for index, (_, end) in enumerate(tokens.offsets) if end >= stop)
    sites = [residual_site(layer), Site("resid_post", model.n_layers - 1)]
    read = capture(model, tokens, sites)
    return read[sites[0]][0][place], read[sites[1]][0][-1], place


def only(relation: Affine) -> Term:
    (term,) = relation.terms.values()
    return term


def said(relation: Affine, state: Tensor) -> Tensor:
    return only(relation).apply(state[None])[0]


def written(model: Model, prompt: str, layer: int, place: int, state: Tensor) -> Tensor:
    """The last block's output at the last token, with another representation at the subject."""
    last = Site("resid_post", model.n_layers - 1)
    done = run(model, prompt, reads=[last], writes=[Write(residual_site(layer), Replace(state), place)])
    return done.activations[last][0][-1]


def test_one_prompt_is_repeated_exactly(model: Model):
    for layer in (-1, 1, 3):
        prompt, subject = (PROMPTS[0], SUBJECTS[0]) if layer < 3 else ("The capital of France", "France")
        state, wanted, _ = ends(model, prompt, subject, layer)
        relation = fit_relation(model, [prompt], [subject], layer=layer)
        assert (said(relation, state) - wanted).norm() <= 1e-5 * wanted.norm()
        if layer == 3:
            assert torch.equal(only(relation).weight, torch.eye(model.d_model))
            assert torch.equal(only(relation).bias, torch.zeros(model.d_model))


def test_what_a_step_leaves_over_falls_by_four_when_the_step_halves(family: TinyFamily):
    model = wrap(family.build(dtype=torch.float64), tiny_tokenizer(), name=family.name)
    layer, prompt, subject = 1, PROMPTS[0], SUBJECTS[0]
    state, _, place = ends(model, prompt, subject, layer)
    relation = fit_relation(model, [prompt], [subject], layer=layer)
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction *= 0.1 * state.norm() / direction.norm()
    over = []
    for step in (0.4, 0.2, 0.1, 0.05):
        moved = state + step * direction
        over.append(float((written(model, prompt, layer, place, moved) - said(relation, moved)).norm()))
    ratios = [first / second for first, second in pairwise(over)]
    # A ReLU that a step turns on leaves more over than its square; the smallest step turns none on.
    for ratio in ratios[-1:] if family.family == "opt" else ratios:
        assert ratio == pytest.approx(4.0, abs=0.2), over


def test_a_relation_is_the_mean_of_its_prompts(llama: Model):
    layer = 1
    alone = [
        only(fit_relation(llama, [prompt], [subject], layer=layer))
        for prompt, subject in zip(PROMPTS, SUBJECTS, strict=True)
    ]
    told = []
    relation = fit_relation(llama, PROMPTS, SUBJECTS, layer=layer, progress=lambda *done: told.append(done))
    assert torch.allclose(only(relation).weight, torch.stack([one.weight for one in alone]).mean(0), atol=1e-5)
    assert torch.allclose(only(relation).bias, torch.stack([one.bias for one in alone]).mean(0), atol=1e-5)
    assert not torch.allclose(alone[0].weight, alone[1].weight, atol=1e-2)
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert relation.fit.options["positions"] == [
        ends(llama, prompt, subject, layer)[2] for prompt, subject in zip(PROMPTS, SUBJECTS, strict=True)
    ]


def test_beta_makes_it_steeper_and_rank_keeps_the_largest_singular_values(llama: Model):
    whole = only(fit_relation(llama, PROMPTS, SUBJECTS, layer=1))
    steep = only(fit_relation(llama, PROMPTS, SUBJECTS, layer=1, beta=2.5))
    assert torch.allclose(steep.weight, 2.5 * whole.weight)
    assert torch.equal(steep.bias, whole.bias)
    low = only(fit_relation(llama, PROMPTS, SUBJECTS, layer=1, rank=5))
    values, kept = torch.linalg.svdvals(whole.weight), torch.linalg.svdvals(low.weight)
    assert torch.allclose(kept[:5], values[:5], rtol=1e-4)
    assert kept[5:].max() <= 1e-4 * kept[0]
    # No matrix of that rank is nearer: what is missing are the other singular values (Eckart and Young).
    assert (whole.weight - low.weight).norm() == pytest.approx(float(values[5:].square().sum().sqrt()), rel=1e-3)


def test_an_edit_makes_the_difference_that_was_asked_for(family: TinyFamily):
    model = wrap(family.build(dtype=torch.float64), tiny_tokenizer(), name=family.name)
    layer = 2
    relation = fit_relation(model, ["The capital of France"], ["France"], layer=layer)
    state, now, place = ends(model, "The capital of France", "France", layer)
    _, other, _ = ends(model, "The largest city in Syria is", "Syria", layer)
    edit = relation_edit(relation, other - now)
    weight = only(relation).weight
    # A block that ends in a norm has no way to move along that norm's blind directions.
    blind = "post_norm" in family.name
    assert (int(torch.linalg.matrix_rank(weight, rtol=1e-5)) < model.d_model) == blind
    if not blind:
        assert (edit @ weight - (other - now)).norm() <= 1e-6 * (other - now).norm()
        assert (said(relation, state + edit) - other).norm() <= 1e-6 * other.norm()
    # A small part of it moves the model itself as far as the relation says.
    share = 1e-3 * float(state.norm() / edit.norm())
    moved = written(model, "The capital of France", layer, place, state + share * edit) - now
    assert (moved - share * edit @ weight).norm() <= 0.02 * moved.norm()


def test_an_edit_of_low_rank_is_the_part_that_it_can_reach(llama: Model):
    relation = fit_relation(llama, PROMPTS, SUBJECTS, layer=1)
    wanted = torch.randn(3, llama.d_model, generator=torch.Generator().manual_seed(0))
    edit = relation_edit(relation, wanted, rank=4)
    left, _, right = torch.linalg.svd(only(relation).weight)
    assert torch.allclose(edit @ only(relation).weight, wanted @ right[:4].T @ right[:4], atol=1e-3)
    assert torch.allclose(edit, edit @ left[:, :4] @ left[:, :4].T, atol=1e-3)
    with pytest.raises(UsageError, match="one fitted as 'relation'"):
        relation_edit(Affine(relation.terms, type(relation.fit)("ridge", {}, {})), wanted)


def test_faithfulness_is_the_share_of_objects_that_are_the_models_own(llama: Model):
    relation = fit_relation(llama, PROMPTS[:1], SUBJECTS[:1], layer=1)
    assert faithfulness(llama, relation, PROMPTS[:1], SUBJECTS[:1]) == 1.0
    agree = []
    for prompt, subject in zip(PROMPTS, SUBJECTS, strict=True):
        state, _, _ = ends(llama, prompt, subject, 1)
        logits = run(llama, prompt).logits[0][-1]
        agree.append(llama.unembed(said(relation, state)).argmax() == logits.argmax())
    assert faithfulness(llama, relation, PROMPTS, SUBJECTS) == pytest.approx(sum(map(float, agree)) / 3)


@pytest.mark.parametrize(
    ("prompts", "subjects", "options", "said"),
    [
        ([], [], {}, "0 prompts and 0 subjects"),
        (PROMPTS, SUBJECTS[:2], {}, "3 prompts and 2 subjects"),
        (PROMPTS, SUBJECTS, {"layer": 4}, "layer 4 does not exist"),
        (PROMPTS, SUBJECTS, {"rank": 0}, "rank=0"),
        (PROMPTS[:1], SUBJECTS[:1], {"layer": 3}, "nothing flows from one position to another"),
    ],
)
def test_what_cannot_be_fitted_is_refused(llama: Model, prompts, subjects, options, said):
    with pytest.raises(UsageError, match=said):
        fit_relation(llama, prompts, subjects, **{"layer": 1, **options})


def test_a_subject_must_be_in_its_prompt(llama: Model):
    with pytest.raises(PositionError, match="'Spain' was given and it is not there"):
        fit_relation(llama, PROMPTS[:1], ["Spain"], layer=1)
