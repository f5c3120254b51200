"""The hand-written passes agree with transformers, so that other tests may trust them."""

import math
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from families import ALL
from reference import Edit, gpt2_by_hand, llama_by_hand
from tokenizers_for_tests import tiny_tokenizer

NAMES = ("llama", "llama_untied_biased", "gpt2")
PROMPT = "Alexander the Great -> New York City"


class Pair(NamedTuple):
    """One model twice: transformers' and by hand."""

    name: str
    model: PreTrainedModel
    by_hand: ModuleType
    sizes: Any
    ids: list[int]

    def sites(self, *edits: Edit, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        return self.by_hand.forward(self.model.state_dict(), self.sizes, self.ids, edits, dtype)

    def blocks(self) -> nn.ModuleList:
        base = self.model.base_model
        return base.h if self.by_hand is gpt2_by_hand else base.layers


def pair(name: str, attention: str = "eager", dtype: torch.dtype = torch.float32) -> Pair:
    model = ALL[name].build(attention, dtype)
    by_hand = gpt2_by_hand if name == "gpt2" else llama_by_hand
    sizes = (gpt2_by_hand.Gpt2Sizes if name == "gpt2" else llama_by_hand.LlamaSizes).read(model.config)
    return Pair(name, model, by_hand, sizes, tiny_tokenizer()(PROMPT).input_ids)


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest):
    with torch.inference_mode():
        yield pair(request.param)


class DoubleRotary(nn.Module):
    """Llama's cos and sin in double, which transformers computes in single whatever the model's dtype."""

    def __init__(self, d_head: int, theta: float):
        super().__init__()
        self.d_head, self.theta = d_head, theta

    def forward(self, _x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        exponents = torch.arange(0, self.d_head, 2, dtype=torch.float64) / self.d_head
        angles = (position_ids[..., None] / self.theta**exponents).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


def make_double_throughout(pair: Pair) -> None:
    """Replace what transformers computes in single precision in a double Llama: norms and rotary angles."""
    for module in list(pair.model.modules()):
        for child_name, child in module.named_children():
            if type(child).__name__ == "LlamaRMSNorm":
                norm = nn.RMSNorm(len(child.weight), eps=child.variance_epsilon, dtype=torch.float64)
                norm.weight = child.weight
                setattr(module, child_name, norm)
            elif child_name == "rotary_emb":
                setattr(module, child_name, DoubleRotary(pair.sizes.d_head, pair.sizes.rope_theta))


def test_every_layer_equals_transformers(both: Pair):
    out = both.model(torch.tensor([both.ids]), output_hidden_states=True, output_attentions=True)
    sites = both.sites()

    close = partial(torch.testing.assert_close, atol=1e-5, rtol=0)
    close(sites["logits"], out.logits[0])
    close(sites["final_norm"], out.hidden_states[-1][0])
    for layer in range(both.sizes.n_layers):
        close(sites[f"resid_pre.{layer}"], out.hidden_states[layer][0])
        close(sites[f"pattern.{layer}"], out.attentions[layer][0])


@pytest.mark.parametrize("name", NAMES)
def test_double_precision_equals_transformers(name: str):
    # sdpa, because transformers' eager attention takes Llama's softmax in single precision.
    exact = pair(name, attention="sdpa", dtype=torch.float64)
    make_double_throughout(exact)
    with torch.inference_mode():
        expected = exact.model(torch.tensor([exact.ids])).logits[0]
        single = pair(name).sites(dtype=torch.float64)["logits"]
        torch.testing.assert_close(exact.sites()["logits"], expected, atol=1e-10, rtol=0)
        torch.testing.assert_close(single, expected, atol=1e-10, rtol=0)


def test_sites_add_up(both: Pair):
    sites, weights, sizes = both.sites(), both.model.state_dict(), both.sizes
    close = partial(torch.testing.assert_close, atol=2e-5, rtol=0)
    for layer in range(sizes.n_layers):
        middle = sites[f"resid_pre.{layer}"] + sites[f"attn_out.{layer}"]
        close(sites[f"resid_mid.{layer}"], middle)
        close(sites[f"resid_post.{layer}"], middle + sites[f"mlp_out.{layer}"])
        if layer:
            assert torch.equal(sites[f"resid_pre.{layer}"], sites[f"resid_post.{layer - 1}"])

    last = sites[f"resid_post.{sizes.n_layers - 1}"]
    if both.by_hand is gpt2_by_hand:
        gain, bias = weights["transformer.ln_f.weight"], weights["transformer.ln_f.bias"]
        normed = nn.functional.layer_norm(last, gain.shape, gain, bias, sizes.norm_eps)
    else:
        gain = weights["model.norm.weight"]
        normed = nn.functional.rms_norm(last, gain.shape, gain, sizes.norm_eps)
    close(sites["final_norm"], normed)
    close(sites["logits"], sites["final_norm"] @ weights["lm_head.weight"].T)


def test_shapes(both: Pair):
    facts, sites, n = ALL[both.name], both.sites(), len(both.ids)
    per_layer = {
        **dict.fromkeys(["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"], (n, facts.d_model)),
        **dict.fromkeys(["q", "z"], (n, facts.n_heads, facts.d_head)),
        **dict.fromkeys(["k", "v"], (n, facts.n_kv_heads, facts.d_head)),
        "pattern": (facts.n_heads, n, n),
        "mlp_post": (n, facts.d_mlp),
    }
    expected = {f"{name}.{layer}": shape for name, shape in per_layer.items() for layer in range(facts.n_layers)}
    expected |= dict.fromkeys(("embed", "final_norm"), (n, facts.d_model))
    expected["logits"] = (n, facts.vocab_size)
    assert {name: tuple(value.shape) for name, value in sites.items()} == expected


@pytest.mark.parametrize(
    "component",
    [
        "embed",
        "resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_out",
        "q",
        "k",
        "v",
        "z",
        "mlp_post",
        "final_norm",
    ],
)
def test_an_edit_changes_what_follows_and_nothing_earlier(both: Pair, component: str):
    layer, position = 2, 2
    site = component if component in ("embed", "final_norm") else f"{component}.{layer}"
    before = both.sites()
    value = torch.randn(before[site].shape[1:], generator=torch.Generator().manual_seed(1))
    after = both.sites(Edit(site, position, value))

    assert torch.equal(after[site][position], value)
    for name in before:
        at_earlier_positions = (slice(None), slice(position)) if name.startswith("pattern") else slice(position)
        assert torch.equal(before[name][at_earlier_positions], after[name][at_earlier_positions]), name
    if component != "embed":
        for earlier in range(layer):
            for name in (name for name in before if name.endswith(f".{earlier}")):
                assert torch.equal(before[name], after[name]), name

    moved = [int((a - b).abs().max() > 1e-3) for a, b in zip(before["logits"], after["logits"], strict=True)]
    seen_from = [0] * position + [1] * (len(moved) - position)
    # A query is read by its own position alone, but later layers look back at that position.
    only_here = [int(place == position) for place in range(len(moved))]
    assert moved == (only_here if component == "final_norm" else seen_from)


def test_a_query_is_read_only_where_it_stands(both: Pair):
    before = both.sites()
    after = both.sites(Edit("q.1", 2, -before["q.1"][2]))
    rows = (before["pattern.1"] - after["pattern.1"]).abs().amax(dim=(0, 2)) > 1e-4
    assert rows.tolist() == [place == 2 for place in range(len(both.ids))]


def test_an_edit_of_one_head_leaves_the_others(both: Pair):
    before = both.sites()
    value = torch.ones(before["z.1"].shape[-1])
    after = both.sites(Edit("z.1", 3, value, head=2))
    assert torch.equal(after["z.1"][3, 2], value)
    assert torch.equal(after["z.1"][3, [0, 1, 3]], before["z.1"][3, [0, 1, 3]])
    assert not torch.equal(after["attn_out.1"][3], before["attn_out.1"][3])


def test_the_end_of_a_block_is_the_start_of_the_next(both: Pair):
    value = torch.linspace(-1, 1, ALL[both.name].d_model)
    end, start = both.sites(Edit("resid_post.1", 2, value)), both.sites(Edit("resid_pre.2", 2, value))
    assert torch.equal(end["logits"], start["logits"])
    assert torch.equal(end["resid_pre.2"], start["resid_pre.2"])
    assert not torch.equal(end["resid_post.1"], start["resid_post.1"])


def test_an_edit_equals_a_hook_in_transformers(both: Pair):
    value = torch.linspace(-1, 1, ALL[both.name].d_model)

    def overwrite(_module: nn.Module, _inputs: Any, output: Any) -> None:
        (output if isinstance(output, Tensor) else output[0])[:, 2] = value

    handle = both.blocks()[1].register_forward_hook(overwrite)
    try:
        expected = both.model(torch.tensor([both.ids])).logits[0]
    finally:
        handle.remove()
    actual = both.sites(Edit("resid_post.1", 2, value))["logits"]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_generation_equals_transformers(both: Pair):
    weights = both.model.state_dict()
    prompt = torch.tensor([both.ids])
    expected = both.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False)
    expected = expected[0, len(both.ids) :].tolist()
    assert both.by_hand.generate_without_cache(weights, both.sizes, both.ids, [], 6) == expected

    value = 10 * torch.linspace(-1, 1, ALL[both.name].d_model)
    last = len(both.ids) - 1
    edited = both.by_hand.generate_without_cache(weights, both.sizes, both.ids, [Edit("resid_post.2", last, value)], 6)
    assert edited[0] != expected[0]

    # An edit beyond the prompt waits for the token that stands there.
    later = last + 3
    edited = both.by_hand.generate_without_cache(weights, both.sizes, both.ids, [Edit("resid_post.3", later, value)], 6)
    assert edited[:3] == expected[:3]
    assert edited != expected


@pytest.mark.parametrize(
    "edit",
    [
        Edit("logits", 0, torch.zeros(512)),
        Edit("pattern.0", 0, torch.zeros(4, 4)),
        Edit("resid_post.9", 0, torch.zeros(48)),
        Edit("resid_post.0", 99, torch.zeros(48)),
        Edit("resid_post.0", -1, torch.zeros(48)),
        Edit("z.0", 0, torch.zeros(48)),
    ],
    ids=lambda edit: f"{edit.site}@{edit.position}",
)
def test_an_edit_that_cannot_happen_is_refused(both: Pair, edit: Edit):
    with pytest.raises(ValueError, match=r"edited|position|takes|no such site"):
        both.sites(edit)


def test_heads_look_only_back_and_their_weights_add_up(both: Pair):
    pattern = both.sites()["pattern.3"]
    assert torch.equal(pattern, pattern.tril())
    assert math.isclose(pattern.sum(-1).min(), 1, abs_tol=1e-5)
