"""The future lens: what its learned prompt and its linear map must be, whatever the weights."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bathyscope import capture, generate, run, wrap
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import BathyscopeWarning, StorageError, UsageError
from bathyscope.fitting import fit_affine, fit_future_lens, fit_soft_prompt
from bathyscope.fitting.lessons import Lessons, lessons
from bathyscope.fitting.soft_prompts import soft_logits
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model
from bathyscope.sites import Site, residual_site
from bathyscope.soft_prompts import HEADER, SoftPrompt
from bathyscope.texts import given_texts, windows
from families import ALL, TinyFamily
from tokenizers_for_tests import PLAIN_ENGLISH, tiny_tokenizer

HARD = "The largest city in x"
TEXTS = given_texts([PLAIN_ENGLISH[start:] for start in (0, 300, 700, 1100)])
FEW = {"n_ahead": 2, "length": 4, "n_positions": 24, "steps": 20, "batch_size": 8, "held_out": 0.25}


def close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((first - second).abs().max() <= tolerance * max(1.0, float(second.abs().max())))


def test_the_embeddings_of_a_text_are_read_as_the_text(model: Model):
    prompt = SoftPrompt.of(model, HARD, layer=1)
    inspection = prompt.inspection(model)
    assert inspection.positions == (len(model.tokenize(HARD)) - 1,)
    plain = run(model, HARD).logits[0]
    soft = run(model, inspection.tokens, writes=inspection.writes).logits[0]
    # A multiplier is divided out and multiplied in again, which may cost the last bit.
    exact = model.tap(Site("embed")).multiplier == 1.0
    assert torch.equal(soft, plain) if exact else close(soft, plain)
    assert not close(run(model, inspection.tokens).logits[0], plain, 1e-2)


def test_what_is_learned_from_is_what_the_prompt_says_when_it_is_run(model: Model):
    ids = model.tokenize(HARD).ids
    for layer in (-1, 1, 3):
        prompt = SoftPrompt.of(model, HARD, layer)
        states = torch.randn(2, model.d_model, generator=torch.Generator().manual_seed(layer + 1))
        given = Lessons(states, torch.tensor([[7, 8, 9], [30, 31, 32]]), torch.empty(2, 4, 1))
        found = soft_logits(model, prompt.vectors, layer, given)
        for row, (state, later) in enumerate(zip(states, given.ids.tolist(), strict=True)):
            write = [Write(residual_site(layer), Replace(state), len(ids) - 1)]
            wanted = run(model, [*ids, *later], writes=write).logits[0][len(ids) - 1 :]
            assert close(found[row], wanted, 1e-4), layer


def test_a_gradient_of_the_prompt_predicts_the_effect_of_a_small_change(model: Model, family: TinyFamily):
    layer = 1
    vectors = SoftPrompt.of(model, HARD, layer).vectors.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    given = Lessons(torch.randn(1, model.d_model, generator=generator), torch.tensor([[7, 8]]), torch.empty(1, 3, 1))
    weights = torch.randn(3, model.vocabulary, generator=generator)

    def value(at: Tensor) -> Tensor:
        return (soft_logits(model, at, layer, given)[0] * weights).sum()

    (gradient,) = torch.autograd.grad(value(vectors), [vectors])
    direction = gradient / gradient.norm() * vectors.detach().norm()
    step = 1e-5 if family.moe_layers else 1e-3  # a larger one sends a token to other experts
    with torch.no_grad():
        moved = (value(vectors + step * direction) - value(vectors - step * direction)) / (2 * step)
    assert float(moved) == pytest.approx(float((gradient * direction).sum()), rel=0.03)


def test_lessons_are_what_the_model_itself_goes_on_to_say(model: Model):
    found = lessons(model, TEXTS, layer=1, n_ahead=3, n_positions=6, length=12, seed=3, tick=lambda n: None)
    assert len(found) == 6
    prefixes = []
    for window in windows(model, TEXTS, length=12, limit=8):
        read = capture(model, window, ["resid_post.1"])["resid_post.1"][0]
        for state in found.states:
            near = [place for place, row in enumerate(read) if close(row, state, 1e-4)]
            prefixes += [window.ids[: place + 1] for place in near]
    assert len({len(ids) for ids in prefixes}) > 1, "all prefixes are of one length"
    assert len(prefixes) == 6
    for row, ids in enumerate(prefixes):
        later = found.ids[row].tolist()
        logits = run(model, [*ids, *later]).logits[0][len(ids) - 1 :]
        assert close(model.decide(found.hidden[row]), logits, 1e-4)
        for before, token in zip(logits, later, strict=False):
            assert before.max() - before[token] <= 1e-4


def test_learning_lowers_what_it_measures_and_leaves_the_model_alone(llama: Model):
    weights = {name: weight.clone() for name, weight in llama.hf.state_dict().items()}
    asked = {name: weight.requires_grad for name, weight in llama.hf.named_parameters()}
    told: list[tuple[int, int]] = []
    more = {**FEW, "n_positions": 64, "steps": 60}
    prompt = fit_soft_prompt(llama, TEXTS, layer=1, progress=lambda *done: told.append(done), **more)
    measured = prompt.fit.held_out
    assert list(measured) == ["0", "1", "2"]
    kl, start, others = (sum(one[what] for one in measured.values()) for what in ("kl", "start_kl", "others_kl"))
    assert 0 < kl < 0.9 * start
    assert kl < others, "the representation must matter"
    assert prompt.vectors.shape == (4, llama.d_model)
    assert not prompt.vectors.requires_grad
    assert all(torch.equal(weight, weights[name]) for name, weight in llama.hf.state_dict().items())
    assert {name: weight.requires_grad for name, weight in llama.hf.named_parameters()} == asked
    assert all(weight.grad is None for weight in llama.hf.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in llama.hf.modules())
    assert told[-1][0] == told[-1][1]


def test_a_seed_decides_what_is_learned(llama: Model):
    few = {**FEW, "steps": 2}
    prompt = fit_soft_prompt(llama, TEXTS, layer=1, **few)
    assert fit_soft_prompt(llama, TEXTS, layer=1, **few) == prompt
    assert fit_soft_prompt(llama, TEXTS, layer=1, seed=1, **few) != prompt


def test_what_is_measured_is_measured_on_other_text(llama: Model):
    start = fit_soft_prompt(llama, TEXTS, layer=1, learning_rate=0.0, **FEW)
    given = lessons(
        llama,
        given_texts([PLAIN_ENGLISH[1100:]]),
        layer=1,
        n_ahead=2,
        n_positions=6,
        length=32,
        seed=0,
        tick=lambda n: None,
    )
    own = llama.decide(given.hidden.flatten(0, 1)).log_softmax(-1).view(len(given), 3, -1)
    found = soft_logits(llama, start.vectors, 1, given).detach()
    for ahead in range(3):
        kl = torch.nn.functional.kl_div(
            found[:, ahead].log_softmax(-1), own[:, ahead], log_target=True, reduction="batchmean"
        )
        measured = start.fit.held_out[str(ahead)]
        assert measured["kl"] == measured["start_kl"] == pytest.approx(float(kl), rel=1e-4)
        hits = found[:, ahead].argmax(-1) == own[:, ahead].argmax(-1)
        assert measured["precision_at_1"] == pytest.approx(float(hits.float().mean()))


def test_a_text_to_start_from_decides_the_length(llama: Model):
    options = {**FEW, "steps": 1, "learning_rate": 0.0, "length": None}
    prompt = fit_soft_prompt(llama, TEXTS, layer=1, init=HARD, **options)
    assert torch.equal(prompt.vectors, SoftPrompt.of(llama, HARD, 1).vectors)
    with pytest.raises(UsageError, match="length=3 and an init of"):
        fit_soft_prompt(llama, TEXTS, layer=1, init=HARD, **{**options, "length": 3})


def test_a_fit_stops_when_it_is_told_to(llama: Model):
    stop = Stop(soon=True)
    with pytest.raises(CancelledError):
        fit_soft_prompt(llama, TEXTS, layer=1, stop=stop, **FEW)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"length": 0}, {"n_ahead": -1}, {"batch_size": 0}, {"layer": 4}])
def test_what_cannot_be_learned_is_refused(llama: Model, wrong):
    with pytest.raises(UsageError):
        fit_soft_prompt(llama, TEXTS, **{**FEW, "layer": 1, **wrong})


def test_a_soft_prompt_is_kept_in_a_file(llama: Model, tmp_path):
    prompt = fit_soft_prompt(llama, TEXTS, layer=2, **{**FEW, "steps": 2})
    found = SoftPrompt.load(prompt.save(tmp_path / "prompt.safetensors"))
    assert found == prompt
    assert hash(found) == hash(prompt)
    assert (found.layer, found.fit) == (prompt.layer, prompt.fit)
    assert found != replace(prompt, layer=1)
    assert generate(llama, found.inspection(llama).tokens, writes=found.inspection(llama).writes, max_new_tokens=3)


def test_another_model_or_file_is_refused(llama: Model, gpt2: Model, tmp_path):
    path = SoftPrompt.of(llama, HARD, 1).save(tmp_path / "prompt.safetensors")
    with pytest.raises(UsageError, match="a soft prompt for 'llama' was used with 'gpt2'"):
        SoftPrompt.load(path).inspection(gpt2)
    drawn_again = wrap(ALL["llama"].build(seed=1), tiny_tokenizer(), name="llama")
    with pytest.raises(UsageError, match="the very weights"):
        SoftPrompt.load(path).inspection(drawn_again)
    tensors = load_file(path)
    later = json.dumps({"format": 2, "layer": 1, "fit": {}})
    for name, content, header in (
        ("plain", tensors, None),
        ("later", tensors, {HEADER: later}),
        ("empty", {"other": torch.ones(1)}, {HEADER: later}),
        ("broken", tensors, {HEADER: "{"}),
        ("bent", {"vectors": torch.ones(3)}, {HEADER: json.dumps({"format": 1, "layer": 1, "fit": {}})}),
    ):
        save_file(content, tmp_path / name, header)
        with pytest.raises(StorageError):
            SoftPrompt.load(tmp_path / name)
    with pytest.raises(StorageError):
        SoftPrompt.load(tmp_path / "missing")
    with pytest.raises(UsageError, match="finite vectors"):
        replace(SoftPrompt.load(path), vectors=torch.full((2, 48), torch.nan))


def test_no_token_ahead_is_least_squares_to_the_last_block(llama: Model):
    layers, last = (-1, 1, 3), Site("resid_post", 3)
    options = {"n_positions": 200, "length": 16, "held_out": 0.25}
    ahead = fit_future_lens(llama, TEXTS, layers=layers, n_ahead=0, **options)
    pairs = [(residual_site(layer), last) for layer in layers]
    with pytest.warns(BathyscopeWarning, match="200 positions"):
        assert ahead == fit_affine(llama, llama, TEXTS, pairs=pairs, method="least-squares", **options)
    assert ahead.fit.method == "future-lens"
    told = ahead.fit.held_out["resid_post.3>resid_post.3"]
    assert told["kl"] == pytest.approx(0.0, abs=1e-4)


def test_tokens_ahead_are_read_so_many_tokens_later(llama: Model):
    n_ahead = 2
    lens = fit_future_lens(llama, TEXTS, layers=[1], n_ahead=n_ahead, n_positions=10_000, length=16, held_out=0.25)
    x, y = [], []
    for window in windows(llama, given_texts([PLAIN_ENGLISH[start:] for start in (0, 300, 700)]), length=16):
        read = capture(llama, window, ["resid_post.1", "resid_post.3"])
        x.append(read["resid_post.1"][0][1:-n_ahead])
        y.append(read["resid_post.3"][0][1 + n_ahead :])
    x, y = torch.cat(x).double(), torch.cat(y).double()
    assert lens.fit.n_samples == len(x)
    ones = torch.ones(len(x), 1, dtype=torch.float64)
    wanted = torch.linalg.lstsq(torch.cat([x, ones], 1), y, driver="gelsd").solution
    term = lens.term(Site("resid_post", 1), Site("resid_post", 3))
    assert close(term.weight.double(), wanted[:-1], 1e-4)
    assert close(term.bias.double(), wanted[-1], 1e-4)
    hits = []
    for window in windows(llama, given_texts([PLAIN_ENGLISH[1100:]]), length=16):
        done = run(llama, window, reads=["resid_post.1"])
        read_out = llama.unembed(term.apply(done.activations["resid_post.1"][0][1:-n_ahead]))
        hits.append(read_out.argmax(-1) == done.logits[0][1 + n_ahead :].argmax(-1))
    told = lens.fit.held_out["resid_post.1>resid_post.3"]
    assert told["n"] == len(torch.cat(hits))
    assert told["precision_at_1"] == pytest.approx(float(torch.cat(hits).float().mean()))


@pytest.mark.parametrize("wrong", [{"n_ahead": -1}, {"n_ahead": 15}, {"layers": []}, {"n_positions": 1}])
def test_a_future_that_cannot_be_read_is_refused(llama: Model, wrong):
    with pytest.raises(UsageError):
        fit_future_lens(llama, TEXTS, **{"layers": [1], "length": 16, **wrong})
