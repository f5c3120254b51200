"""Every site of Llama and GPT-2 against forward passes written by hand, which share no code with the library."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from bathyscope import differentiate, generate, run, wrap
from bathyscope.interventions import Replace, Write
from bathyscope.model import Model
from bathyscope.sites import Site
from conftest import tiny_model
from families import ALL
from reference import Edit, gpt2_by_hand, llama_by_hand
from tokenizers_for_tests import tiny_tokenizer

TEXT = "The largest city in x"
ORACLES = {"llama": llama_by_hand, "llama_untied_biased": llama_by_hand, "gpt2": gpt2_by_hand}
COMPONENTS = (
    "embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "mlp_post",
)  # fmt: skip


class Oracle:
    """One model and its forward pass by hand."""

    def __init__(self, name: str):
        self.hand: ModuleType = ORACLES[name]
        self.model: Model = tiny_model(name)
        self.ids = list(self.model.tokenize(TEXT).ids)
        sizes = self.hand.LlamaSizes if self.hand is llama_by_hand else self.hand.Gpt2Sizes
        self.sizes = sizes.read(self.model.hf.config)
        self.weights = self.model.hf.state_dict()

    def forward(self, edits=()) -> dict[str, Tensor]:
        return self.hand.forward(self.weights, self.sizes, self.ids, edits)


@pytest.fixture(scope="module", params=[name for name in ORACLES])
def oracle(request) -> Oracle:
    return Oracle(request.param)


def site_of(name: str) -> Site:
    return Site.parse(name)


def test_every_site_is_the_oracles(oracle: Oracle):
    wanted = oracle.forward()
    found = run(oracle.model, oracle.ids, reads=list(wanted))
    assert len(wanted) > 40
    for name, value in wanted.items():
        value = value.transpose(0, 1) if name.startswith("pattern") else value
        torch.testing.assert_close(found.activations[name][0], value, atol=1e-4, rtol=1e-4, msg=name)
    torch.testing.assert_close(found.logits[0], wanted["logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_write_is_the_oracles_edit(oracle: Oracle, component: str):
    name = component if component == "embed" else f"{component}.1"
    position, plain = 2, oracle.forward()
    value = torch.randn(plain[name][position].shape, generator=torch.Generator().manual_seed(1))
    wanted = oracle.forward([Edit(name, position, value)])
    found = run(oracle.model, oracle.ids, writes=[Write(site_of(name), Replace(value), position)])
    torch.testing.assert_close(found.logits[0], wanted["logits"], atol=2e-4, rtol=1e-3)
    assert (wanted["logits"] - plain["logits"])[position:].abs().max() > 0.05


@pytest.mark.parametrize("component", ["q", "k", "v", "z"])
def test_a_write_at_one_head_is_the_oracles_edit_of_that_head(oracle: Oracle, component: str):
    value = torch.randn(oracle.model.architecture.d_head, generator=torch.Generator().manual_seed(2))
    wanted = oracle.forward([Edit(f"{component}.2", 1, value, head=1)])
    found = run(oracle.model, oracle.ids, writes=[Write(Site(component, 2, 1), Replace(value), 1)])
    torch.testing.assert_close(found.logits[0], wanted["logits"], atol=2e-4, rtol=1e-3)


def test_generation_under_a_write_is_the_oracles_without_a_cache(oracle: Oracle):
    value = torch.randn(oracle.model.d_model, generator=torch.Generator().manual_seed(3))
    edits = [Edit("resid_post.1", 4, value)]
    wanted = oracle.hand.generate_without_cache(oracle.weights, oracle.sizes, oracle.ids, edits, 5)
    write = [Write(Site("resid_post", 1), Replace(value), 4)]
    assert list(generate(oracle.model, [oracle.ids], writes=write, max_new_tokens=5)[0].ids) == list(wanted)[-5:]


@pytest.mark.parametrize("name", ["llama", "gpt2", "granite", "opt", "gemma3", "falcon"])
def test_a_gradient_predicts_the_effect_of_a_small_write(name: str):
    model = wrap(ALL[name].build(dtype=torch.float64), tiny_tokenizer(), name=name)
    # Norms compute in float32 whatever the model's dtype: a smaller step would drown in their rounding.
    step = 1e-2

    def metric(logits: Tensor) -> Tensor:
        return logits[-1, 5] - logits[-1, 9]

    sites = [Site("embed"), *(Site(c, 1) for c in ("resid_pre", "resid_post", "attn_out", "mlp_out", "z", "v"))]
    sites += [Site("mlp_post", 1), Site("z", 1, 0)]
    if not isinstance(model.architecture.taps["resid_mid"], str):
        sites.append(Site("resid_mid", 1))
    gradients = differentiate(model, TEXT, metric, sites)
    plain = run(model, TEXT, reads=sites)
    for site in sites:
        value, gradient = plain.activations[site][0], gradients[site]
        noise = torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(4))
        # Mostly along the gradient, where there is an effect to measure at every site.
        direction = gradient / gradient.norm() + 0.3 * noise / noise.norm()
        up, down = (
            metric(run(model, TEXT, writes=[Write(site, Replace(value + sign * step * direction))]).logits[0])
            for sign in (1, -1)
        )
        predicted = 2 * step * (gradient * direction).sum()
        assert float(up - down) == pytest.approx(float(predicted), rel=5e-3), site
        assert abs(float(predicted)) > 1e-4, site
