"""Half precision: the sums of the residual stream are float32, nothing else changes, and nothing stays behind."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bathyscope import capture, generate, load, processor, run, wrap
from bathyscope.checks import quick_checks
from bathyscope.errors import InterventionError, SiteError
from bathyscope.float32_stream import can_widen
from bathyscope.generation import next_logits
from bathyscope.interventions import Add, Replace, Write
from bathyscope.model import Model
from bathyscope.processor import SLOWER, slow_half, times_slower
from families import ALL, TinyFamily
from tokenizers_for_tests import tiny_tokenizer

PROMPT = "The keys to the old wooden cabinet are on the table"
POST_NORM = "opt_post_norm"
"""Here a norm after each sum gives the stream the weights' dtype."""


def half(name: str, dtype: torch.dtype = torch.bfloat16) -> Model:
    return wrap(ALL[name].build(dtype=dtype), tiny_tokenizer(), name=name)


@torch.no_grad()
def stock(model: Model) -> Tensor:
    """What transformers computes by itself."""
    return model.hf(torch.tensor([model.tokenize(PROMPT).ids])).logits[0]


def untouched(model: Model) -> bool:
    return not any("forward" in module.__dict__ for module in model.hf.modules())


def gap(first: Tensor, second: Tensor) -> float:
    return float((first - second).double().pow(2).mean().sqrt())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_family_is_computed_and_left_as_it_was(family: TinyFamily, dtype: torch.dtype):
    model = half(family.name, dtype)
    plain, last = stock(model), model.n_layers - 1
    found = run(model, PROMPT, reads=[f"resid_post.{last}"])
    assert found.activations[f"resid_post.{last}"][0].dtype == (dtype if family.name == POST_NORM else torch.float32)
    if not family.moe_layers:  # where a rounding may send a token to another expert
        assert (found.logits[0] - plain).abs().max() <= 0.05 * plain.abs().max()
    assert [one.name for one in quick_checks(model) if one.passed is False] == []
    generate(model, [PROMPT, "A"], max_new_tokens=2)
    assert untouched(model)
    assert torch.equal(stock(model), plain)


def test_sums_of_the_residual_stream_are_exact(family: TinyFamily):
    model = half(family.name)
    sites = [f"{name}.1" for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")]
    try:
        factors = {model.tap(model.site(site)).multiplier for site in sites}
    except SiteError as error:
        pytest.skip(str(error))
    if factors != {1.0}:
        pytest.skip("its sums have a factor")
    edit = Add(torch.linspace(-1, 1, model.d_model))
    for writes in ((), (Write("resid_mid.1", edit, 3),)):
        before, attention, middle, mlp, after = (
            activation[0] for activation in run(model, PROMPT, reads=sites, writes=writes).activations.values()
        )
        moved = before + attention
        if writes:
            moved[3] = edit.apply(moved[3])
        assert torch.equal(moved, middle)
        assert torch.equal(middle + mlp, after)


def test_a_deep_model_is_nearer_to_its_exact_self():
    family = replace(ALL["llama"], settings={**ALL["llama"].settings, "num_hidden_layers": 24}, n_layers=24)
    exact, model = (
        wrap(family.build(dtype=dtype), tiny_tokenizer(), name="deep") for dtype in (torch.float64, torch.bfloat16)
    )
    with torch.no_grad():
        for one, other in zip(exact.hf.parameters(), model.hf.parameters(), strict=True):
            one.copy_(other)
    wanted = run(exact, PROMPT).logits[0]
    assert gap(run(model, PROMPT).logits[0], wanted) < gap(stock(model), wanted)


def test_what_is_written_is_not_rounded():
    model = half("llama")
    value = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(value.bfloat16().float(), value)
    found = run(model, PROMPT, reads=["resid_post.1"], writes=[Write("resid_post.1", Replace(value), 2)])
    assert torch.equal(found.activations["resid_post.1"][0][2], value)


def carrying_a_hook(module: torch.nn.Module) -> Callable[[], None]:
    return module.register_forward_pre_hook(lambda _module, _args: None).remove


def carrying_a_forward(module: torch.nn.Module) -> Callable[[], None]:
    former = module.forward
    module.forward = lambda *args, **kwargs: former(*args, **kwargs)
    return lambda: module.__dict__.pop("forward")


@pytest.mark.parametrize("carrying", [carrying_a_hook, carrying_a_forward])
@pytest.mark.parametrize("path", ["model.layers.2", "model.layers.0.mlp.up_proj", "model.norm"])
def test_where_others_look_on_the_models_own_numbers_stay(path: str, carrying: Callable):
    model = half("llama")
    plain = stock(model)
    assert can_widen(model)
    assert not torch.equal(run(model, PROMPT).logits[0], plain)
    take_away = carrying(model.hf.get_submodule(path))
    assert not can_widen(model)
    assert torch.equal(run(model, PROMPT).logits[0], plain)
    assert capture(model, PROMPT, ["resid_post.1"])["resid_post.1"][0].dtype == torch.bfloat16
    take_away()
    assert can_widen(model)


def test_an_exception_leaves_nothing_behind():
    model = half("llama")
    with pytest.raises(InterventionError):
        run(model, PROMPT, writes=[Write("resid_post.1", Replace(torch.ones(3)), 2)])
    assert untouched(model)


def test_float32_and_finer_are_computed_by_the_model_alone(llama: Model):
    assert not can_widen(llama)
    assert torch.equal(run(llama, PROMPT).logits[0], stock(llama))


@pytest.mark.slow
@pytest.mark.embedded
def test_a_real_model_is_nearer_to_float32():
    single, model = load(), load(dtype=torch.bfloat16)
    wanted = next_logits(single, PROMPT)[0]
    found = next_logits(model, PROMPT)[0], stock(model)[-1].float()
    ours, theirs = (gap(one - one.mean(), wanted - wanted.mean()) for one in found)
    assert ours < 0.9 * theirs


def test_slow_products_are_told(monkeypatch: pytest.MonkeyPatch, llama: Model):
    model = half("llama")
    monkeypatch.setattr(processor, "times_slower", lambda dtype: {torch.bfloat16: 5.7}[dtype])
    told = slow_half(model)
    assert told is not None
    assert "bfloat16 6 times slower than float32" in told
    assert slow_half(llama) is None
    monkeypatch.setattr(processor, "times_slower", lambda dtype: 0.3)
    assert slow_half(model) is None


def test_products_are_timed_on_one_core_and_threads_stay():
    n_threads = torch.get_num_threads()
    measured = times_slower(torch.bfloat16)
    assert torch.get_num_threads() == n_threads
    if torch.backends.cpu.get_cpu_capability() == "AVX2":
        assert measured > SLOWER  # there is no instruction for it before AVX-512
    else:
        assert measured > 0
