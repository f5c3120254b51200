"""Relevance: with its rules, a model without biases is linear in its representation, whatever family it is of."""

import pytest
import torch

from bathyscope import wrap
from bathyscope.circuits.runs import gradients_at
from bathyscope.errors import InterventionError
from bathyscope.model import Model
from bathyscope.relevance import relevance
from bathyscope.sites import Site
from bathyscope.starts import read_starts
from families import ALL
from tokenizers_for_tests import tiny_tokenizer

SITE = Site("resid_post", 1)
PROMPTS = ["Paris is", "Paris in"]


def unbiased(name: str, attention: str = "eager") -> Model:
    """A tiny model none of whose maps adds a constant."""
    module = ALL[name].build(attention, torch.float64)
    with torch.no_grad():
        for parameter, values in module.named_parameters():
            if parameter.endswith("bias"):
                values.zero_()
    return wrap(module, tiny_tokenizer(), name=name)


def coefficients(model: Model, held: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logit differences, gradients by a site in the middle, and what is there."""
    rows = [model.tokenize(prompt) for prompt in PROMPTS]
    answers = torch.tensor([[5, 9], [7, 3]])
    starts, read = read_starts(model, rows, [1], [SITE])
    values = read[SITE].flatten(2)
    if not held:
        return *gradients_at(model, rows, answers, SITE, values, starts[1]), values
    with relevance(model, model.n_layers - 2):
        return *gradients_at(model, rows, answers, SITE, values, starts[1]), values


@pytest.mark.parametrize("name", ALL)
def test_coefficients_times_input_add_up_to_the_output(name: str):
    model = unbiased(name)
    plain, slopes, values = coefficients(model, held=False)
    metric, held, _ = coefficients(model, held=True)
    assert torch.allclose(metric, plain, rtol=1e-9), "what a model computes stays what it is"
    assert torch.allclose((held * values).sum((1, 2)), metric, rtol=1e-5, atol=1e-5)
    assert not torch.allclose((slopes * values).sum((1, 2)), metric, rtol=0.05), "and plain gradients do not"


def test_both_attentions_have_the_same_coefficients():
    eager, fused = (coefficients(unbiased("llama", attention), held=True)[1] for attention in ("eager", "sdpa"))
    assert torch.allclose(eager, fused, atol=1e-6)


def test_a_norm_that_is_not_met_is_told():
    model = unbiased("llama")
    with pytest.raises(InterventionError, match="0 norms and 0 attentions were met"), relevance(model):
        pass


def test_nothing_is_left_behind():
    model = unbiased("gpt2")
    before = coefficients(model, held=False)[1]
    coefficients(model, held=True)
    with pytest.raises(RuntimeError, match="an own error"), relevance(model):
        raise RuntimeError("an own error")
    assert torch.equal(coefficients(model, held=False)[1], before)
