"""The tuned lens: what it is before training, what training does, and what an interruption does not do."""

import math
from pathlib import Path

import pytest
import torch

from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, UsageError
from bathyscope.fitting import fit_tuned_lens
from bathyscope.fitting.translators import Coordinates, LeastSquares, Translators
from bathyscope.fitting.vocabulary import draw, inclusion, kl_gradient, whole_vocabulary
from bathyscope.forward import capture
from bathyscope.lenses import logit_lens, tuned_lens
from bathyscope.model import Model
from bathyscope.sites import residual_site
from bathyscope.texts import given_texts

WORDS = ["the", "cat", "sat", "on", "it", "and", "dog", "hello", "king", "queen", "was", "not", "at", "all"]
TEXTS = given_texts(
    [
        " ".join(WORDS[(5 * row + 3 * place * place + row * place) % len(WORDS)] for place in range(24))
        for row in range(40)
    ]
)

pytestmark = pytest.mark.filterwarnings("ignore::bathyscope.errors.BathyscopeWarning")


def fit(model: Model, **options):
    settings = {"length": 12, "batch_size": 16, "n_positions": 600, "start": "zero"}
    return fit_tuned_lens(model, TEXTS, **{**settings, **options})


def test_untrained_it_is_the_logit_lens_to_the_last_bit(model: Model):
    lens = fit(model, learning_rate=0.0, n_positions=16)
    text = "the cat sat on it"
    assert tuned_lens(model, text, lens).cells == logit_lens(model, text).cells
    for one in lens.fit.held_out.values():
        assert one["kl"] == one["logit_lens_kl"]


@pytest.mark.parametrize("start", ["zero", "least-squares"])
def test_training_brings_every_layer_nearer_to_the_model(model: Model, start: str):
    lens = fit(model, n_positions=1_500, start=start)
    last = model.n_layers - 1
    for layer in range(-1, last):
        found = lens.fit.held_out[f"{residual_site(layer)}>{residual_site(last)}"]
        assert 0 <= found["kl"] < found["logit_lens_kl"], layer
    at_last = lens.fit.held_out[f"{residual_site(last)}>{residual_site(last)}"]
    assert at_last["kl"] == pytest.approx(0, abs=1e-5)
    assert at_last["precision_at_1"] == 1
    assert lens.term(residual_site(last), residual_site(last)).weight.shape == ()


def test_a_step_follows_the_gradient_of_the_exact_divergence(model: Model):
    """The gradient against small changes of a bias, the divergence computed here over the whole vocabulary."""
    torch.manual_seed(0)
    site, last = residual_site(1), residual_site(model.n_layers - 1)
    read = capture(model, "the cat sat on it and dog", [site, last])
    states, final = read[site][0][None, 1:], read[last][0][1:]
    wanted = torch.softmax(model.unembed(final).detach().double(), -1)

    def divergence(bias: torch.Tensor) -> float:
        with torch.no_grad():
            logits = model.unembed((states[0].double() + bias).float()).double()
        return float((wanted * (wanted.log() - torch.log_softmax(logits, -1))).sum(-1).mean())

    unit = Coordinates(
        torch.zeros(1, 1, model.d_model), torch.ones(1, 1, model.d_model), torch.eye(model.d_model)[None]
    )
    translators = Translators(unit, steps=10, rate=0.0)
    translators.step(model, states, final, size=10**9, number=0)
    slope = translators.bias.grad[0, 0].double()
    for _ in range(3):
        direction = torch.randn(model.d_model, dtype=torch.float64)
        direction /= direction.norm()
        step = 3e-2
        measured = (divergence(step * direction) - divergence(-step * direction)) / (2 * step)
        assert measured == pytest.approx(float(slope @ direction), rel=0.05, abs=2e-3)


def test_folding_changes_nothing(llama: Model):
    torch.manual_seed(1)
    states, final = torch.randn(3, 50, llama.d_model) * 4 + 2, torch.randn(50, llama.d_model)
    translators = Translators(Coordinates.of(states, final), steps=5, rate=0.1)
    translators.weight.data.normal_()
    translators.bias.data.normal_()
    with torch.no_grad():
        wanted = translators.apply(states)
    for term, one, other in zip(translators.terms(), states, wanted, strict=True):
        assert (term.apply(one) - other).abs().max() < 1e-4 * other.abs().max()


def test_a_sample_that_is_everything_is_the_vocabulary():
    torch.manual_seed(0)
    logits, teacher = torch.randn(5, 30), torch.softmax(torch.randn(5, 30), -1)
    assert draw(teacher.mean(0), 30, torch.Generator()).tokens is None
    student = logits.clone().requires_grad_()
    divergence = (teacher * (teacher.log() - torch.log_softmax(student, -1))).sum(-1).mean()
    (slope,) = torch.autograd.grad(divergence, student)
    assert torch.allclose(kl_gradient(logits, teacher, whole_vocabulary()), slope, atol=1e-7)


def test_a_sample_is_right_on_average():
    torch.manual_seed(0)
    mass, values = torch.rand(200) ** 8, torch.rand(200)
    assert float(inclusion(mass, 40).sum()) == pytest.approx(40, abs=1e-6)
    totals = []
    for seed in range(3_000):
        found = draw(mass, 40, torch.Generator().manual_seed(seed))
        assert abs(len(found.tokens) - 40) <= 1
        totals.append(float((values[found.tokens] * found.log_weights.exp()).sum()))
    mean = sum(totals) / len(totals)
    error = torch.tensor(totals).std() / math.sqrt(len(totals))
    assert abs(mean - float(values.sum())) < 4 * error


def test_a_sampled_vocabulary_trains_too(llama: Model):
    whole, some = fit(llama, n_positions=1_500), fit(llama, n_positions=1_500, sample=40)
    assert whole != some
    for pair, one in some.fit.held_out.items():
        assert one["kl"] <= max(1e-5, 0.9 * one["logit_lens_kl"]), pair


def test_it_starts_at_the_least_squares_of_what_it_read(llama: Model):
    torch.manual_seed(2)
    states, final = torch.randn(2, 400, llama.d_model) * 3 + 1, torch.randn(400, llama.d_model)
    squares = LeastSquares(Coordinates.of(states, final))
    for part in range(0, 400, 150):
        squares.add(states[:, part : part + 150], final[part : part + 150])
    translators = Translators(squares.coordinates, steps=5, rate=0.1)
    translators.start_from(*squares.solved())
    for term, one in zip(translators.terms(), states, strict=True):
        x = torch.cat([(one - one.mean(0)) / one.std(0, correction=0), torch.ones(400, 1)], 1).double()
        penalty = torch.eye(x.shape[1], dtype=torch.float64) * 1e-2 * 400
        penalty[-1, -1] = 0
        wanted = one + x @ torch.linalg.solve(x.T @ x + penalty, x.T @ (final - one).double())
        assert (term.apply(one) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("start", ["zero", "least-squares"])
@pytest.mark.parametrize("at", [1, 37])
def test_an_interrupted_fit_goes_on_to_the_very_end(llama: Model, tmp_path: Path, at: int, start: str, monkeypatch):
    monkeypatch.setattr("bathyscope.fitting.tuned.PORTION", 8)
    path, stop = tmp_path / "tuned.checkpoint", Stop()
    wanted = fit(llama, n_positions=900, start=start)

    def tick(done: int, total: int) -> None:
        assert done <= total
        stop.soon |= done >= at

    with pytest.raises(CancelledError, match="stopped"):
        fit(llama, n_positions=900, start=start, checkpoint=path, progress=tick, stop=stop)
    assert path.exists() == (at >= 8)
    steps = []
    again = fit(llama, n_positions=900, start=start, checkpoint=path, progress=lambda done, _: steps.append(done))
    assert again == wanted
    assert again.fit == wanted.fit
    assert (1 < steps[0] <= at + 1) == (at >= 8)
    if path.exists():
        with pytest.raises(UsageError, match="other seed"):
            fit(llama, n_positions=900, start=start, checkpoint=path, seed=5)


def test_what_cannot_be_is_refused(llama: Model):
    for wrong in ({"n_positions": 0}, {"layers": []}, {"layers": [9]}, {"learning_rate": math.nan}, {"start": "?"}):
        with pytest.raises(UsageError):
            fit(llama, **wrong)


@pytest.mark.filterwarnings("default::bathyscope.errors.BathyscopeWarning")
def test_too_little_text_is_said_with_the_numbers(llama: Model):
    with pytest.warns(BathyscopeWarning, match=r"32 positions at width 48"):
        fit(llama, n_positions=32)
