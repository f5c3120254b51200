"""Silent failures met in other libraries, each as a test named after its row in docs/design.md."""

import copy
import gc
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import bathyscope
from bathyscope import Result, Source, Target, capture, differentiate, generate, patchscope, run, wrap
from bathyscope.errors import BathyscopeError, BathyscopeWarning, InterventionError, SiteError, StorageError, UsageError
from bathyscope.generation import next_logits
from bathyscope.gradients import row_gradients, stream
from bathyscope.interventions import Ablate, Add, Replace, Scale, Write
from bathyscope.model import Model
from bathyscope.prompts import InspectionPrompt, custom, prepare
from bathyscope.readouts import Generate, NextToken
from bathyscope.sae import (
    CoderConfig,
    Reader,
    StreamedActivations,
    TopK,
    WeightedTexts,
    evaluate_coder,
    train_coders,
)
from bathyscope.sae import Settings as CoderSettings
from bathyscope.sites import COMPONENTS, GLOBAL, Site
from bathyscope.texts import given_texts, split_texts
from conftest import tiny_model
from families import ALL, FAMILIES, TinyFamily, save_tiny
from tokenizers_for_tests import BOS_ID, sentencepiece_like_tokenizer, tiny_tokenizer

TEXTS = ["The cat of the keeper lives in the tower", "x", "The largest city in x"]
SOURCE = "The capital of France is Paris"


def close(first, second, tolerance=1e-4) -> bool:
    return bool((first - second).abs().max() <= tolerance * max(1.0, float(second.abs().max())))


def sites_of(model: Model) -> list[Site]:
    """Every site that a model has at block 1, and those without a layer."""
    found = []
    for component in COMPONENTS:
        site = Site(component) if component in GLOBAL else Site(component, 1)
        try:
            model.tap(site)
        except SiteError:
            continue
        found.append(site)
    return found


@pytest.mark.parametrize("name", ["gpt2", "opt", *sorted(set(FAMILIES) - {"gpt2", "opt"})])
def test_row_01_left_padding_shifts_no_position(name: str):
    model = tiny_model(name)
    sites = sites_of(model)
    together = run(model, TEXTS, reads=sites)
    assert len({len(logits) for logits in together.logits}) > 1
    for row, text in enumerate(TEXTS):
        alone = run(model, text, reads=sites)
        assert close(together.logits[row], alone.logits[0])
        for site in sites:
            assert together.activations[site][row].shape == alone.activations[site][0].shape
            assert close(together.activations[site][row], alone.activations[site][0]), site


def test_row_02_a_position_is_a_token_index_and_never_a_pad(model: Model):
    write = Write("resid_post.1", Scale(3.0), 0)
    together = run(model, TEXTS, writes=[write])
    for row, text in enumerate(TEXTS):
        assert close(together.logits[row], run(model, text, writes=[write]).logits[0])
        assert not close(together.logits[row], run(model, text).logits[0], 1e-2)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama", "bloom", "falcon_rw", "mistral", "gpt_neo"])
def test_row_03_pads_are_not_attended_while_generating(name: str):
    model = tiny_model(name)
    together = generate(model, TEXTS, max_new_tokens=8)
    assert [one.ids for one in together] == [generate(model, text, max_new_tokens=8)[0].ids for text in TEXTS]


def test_row_04_no_pad_enters_a_mean(llama: Model):
    rows = capture(llama, TEXTS, ["resid_post.2"])["resid_post.2"]
    alone = [capture(llama, text, ["resid_post.2"])["resid_post.2"][0] for text in TEXTS]
    assert [len(row) for row in rows] == [len(llama.tokenize(text)) for text in TEXTS]
    assert close(torch.cat(rows).mean(0), torch.cat(alone).mean(0))


class _Detour(nn.Module):
    """An MLP that computes its output without calling its own output projection."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.down_proj, self.rest = mlp.down_proj, copy.deepcopy(mlp)

    def forward(self, x):
        return self.rest(x)


def test_row_05_a_hook_that_never_fires_raises():
    model = wrap(ALL["llama"].build(), tiny_tokenizer(), name="detour")
    block = model.hf.model.layers[1]
    block.mlp = _Detour(block.mlp)
    with pytest.raises(InterventionError, match=r"write at mlp_post\.1 never happened"):
        run(model, SOURCE, writes=[Write("mlp_post.1", Ablate(), 0)])
    with pytest.raises(InterventionError, match=r"read at mlp_post\.1 never happened"):
        capture(model, SOURCE, ["mlp_post.1"])
    with pytest.raises(InterventionError, match="never happened"):
        generate(model, SOURCE, writes=[Write("mlp_post.1", Ablate(), when="generated")], max_new_tokens=3)


def contributions(model: Model):
    names = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    for layer in range(model.n_layers):
        found = capture(model, SOURCE, [Site(name, layer) for name in names])
        yield [found[Site(name, layer)][0] for name in names]


def test_row_06_contributions_add_up_to_the_residual_stream(model: Model, family: TinyFamily):
    if isinstance(model.architecture.taps["attn_out"], str):
        pytest.skip("post-norm block")
    for before, attention, mlp, after in contributions(model):
        assert close(before + attention + mlp, after, 1e-5)
        assert not close(attention, after, 1e-2)
        assert not close(mlp, after, 1e-2)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo2", "granite"])
def test_row_07_a_contribution_is_what_is_added_in_size_too(name: str):
    for before, attention, mlp, after in contributions(tiny_model(name)):
        added = (after - before).norm(dim=-1)
        assert torch.allclose((attention + mlp).norm(dim=-1), added, rtol=1e-4)


def test_row_08_the_last_block_is_read_before_the_final_norm(model: Model, family: TinyFamily):
    last = Site("resid_post", model.n_layers - 1)
    found = run(model, SOURCE, reads=[last])
    state = found.activations[last][0]
    assert close(model.unembed(state), found.logits[0], 1e-5)
    if family.final_norm:
        normed = capture(model, SOURCE, ["final_norm"])["final_norm"][0]
        assert not close(state, normed, 1e-2)


def test_row_09_blocks_may_return_a_tensor_or_a_tuple():
    kinds = set()
    for name in ("llama", "bloom", "falcon", "gptj"):
        model = tiny_model(name)
        block = model.hf.get_submodule(f"{model.architecture.blocks}.1")
        seen = []
        handle = block.register_forward_hook(lambda _m, _a, output, seen=seen: seen.append(output))
        state = capture(model, SOURCE, ["resid_post.1"])["resid_post.1"][0]
        handle.remove()
        kinds.add(type(seen[0]).__name__)
        tensor = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][0]
        assert torch.equal(tensor[0], state)
        patched = run(model, SOURCE, writes=[Write("resid_post.1", Scale(-2.0), 1)])
        assert not close(patched.logits[0], run(model, SOURCE).logits[0], 1e-2)
    assert kinds == {"Tensor", "tuple"}


def test_row_10_hidden_states_of_transformers_are_never_relied_on():
    for path in Path(bathyscope.__file__).parent.rglob("*.py"):
        assert "output_hidden_states" not in path.read_text(), path


def test_row_11_ablating_a_head_is_zeroing_its_part_of_the_output_projection(model: Model, family: TinyFamily):
    head, d_head = 2, family.d_head
    ablated = run(model, SOURCE, writes=[Write(Site("z", 1, head), Ablate())]).logits[0]
    edited = copy.deepcopy(model.hf)
    projection = edited.get_submodule(model.architecture.module_path(Site("z", 1)))
    columns = slice(head * d_head, (head + 1) * d_head)
    with torch.no_grad():
        if type(projection).__name__ == "Conv1D":
            projection.weight[columns] = 0
        else:
            projection.weight[:, columns] = 0
    wanted = run(Model(edited, model.tokenizer, model.architecture, "edited"), SOURCE).logits[0]
    assert close(ablated, wanted)
    assert not close(ablated, run(model, SOURCE).logits[0], 1e-3)


def test_row_12_keys_and_values_have_their_own_number_of_heads(model: Model, family: TinyFamily):
    found = capture(model, SOURCE, [Site(name, 1) for name in "qkvz"])
    length = len(model.tokenize(SOURCE))
    for name, heads in (
        ("q", family.n_heads),
        ("k", family.n_kv_heads),
        ("v", family.n_kv_heads),
        ("z", family.n_heads),
    ):
        assert found[Site(name, 1)][0].shape == (length, heads, family.d_head)
    with pytest.raises(SiteError, match="heads 0 to"):
        model.site(f"v.1.{family.n_kv_heads}")
    # A value head reaches the query heads of its own group and no other.
    group = family.n_heads // family.n_kv_heads
    changed = run(model, SOURCE, reads=["z.1"], writes=[Write(Site("v", 1, 0), Ablate())]).activations["z.1"][0]
    same = (changed - found["z.1"][0]).abs().amax(dim=(0, 2)) < 1e-6
    assert same.tolist() == [False] * group + [True] * (family.n_heads - group)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo2", "gpt_neox", "gptj", "phi3", "cohere"])
def test_row_13_queries_and_keys_are_met_before_rotary_positions(name: str):
    model = tiny_model(name)
    token = model.tokenize("x").ids[0]
    found = capture(model, [token] * 4, ["q.0", "k.0"])
    for component in ("q.0", "k.0"):
        rows = found[component][0]
        assert close(rows, rows[:1].expand_as(rows), 1e-5), "the same token has the same query wherever it stands"
        assert "before rotary" in COMPONENTS[component[0]]


def test_row_14_the_first_special_token_is_added_once_and_echoed():
    model = wrap(ALL["llama"].build(), tiny_tokenizer(bos=True), name="bos")
    plain = model.tokenize("hello")
    assert plain.ids.count(BOS_ID) == 1 == model.tokenize("<bos>hello").ids.count(BOS_ID)
    chat = prepare(model, InspectionPrompt("hello x", "x", chat=True))
    assert chat.tokens.ids.count(BOS_ID) == 1
    result = patchscope(Source(model, "hello"), Target(prompt=custom("hello x")), readout=NextToken(1))
    asked = result.provenance["spec"]
    assert tuple(asked["source"]["ids"]) == plain.ids
    assert asked["target"]["ids"].count(BOS_ID) == 1
    assert tiny_model("llama").tokenize("hello").ids.count(BOS_ID) == 0


def test_row_15_each_model_reads_with_its_own_tokenizer(llama: Model):
    other = wrap(ALL["llama"].build(seed=1), sentencepiece_like_tokenizer(), name="other")
    result = patchscope(Source(llama, SOURCE, "Paris", 1), Target(other, custom("The largest city in x")))
    asked = result.provenance["spec"]
    assert tuple(asked["source"]["ids"]) == llama.tokenize(SOURCE).ids != other.tokenize(SOURCE).ids
    assert tuple(asked["target"]["ids"]) == other.tokenize("The largest city in x").ids
    assert result.cells[0].text == other.decode(result.cells[0].ids)
    state = capture(llama, SOURCE, ["resid_post.1"])["resid_post.1"][0][-1]
    write = [Write("resid_post.1", Replace(state), asked["target"]["positions"][0])]
    assert generate(other, "The largest city in x", writes=write)[0].ids == result.cells[0].ids


def test_row_16_a_choice_of_layers_is_a_slice_of_all(llama: Model):
    target, readout = Target(prompt=custom("The largest city in x")), Generate(5)
    everything = patchscope(Source(llama, SOURCE, "all", "all"), target, readout=readout)
    some = patchscope(Source(llama, SOURCE, (4, 2), (3, -1)), target, readout=readout)
    wanted = {(cell.source_layer, cell.source_position): cell for cell in everything.cells}
    assert len(some.cells) == 4
    for cell in some.cells:
        assert cell == wanted[cell.source_layer, cell.source_position]


@pytest.mark.parametrize("n_prompts", [1, 3, 4, 7])
def test_row_17_the_last_batch_is_neither_dropped_nor_empty(llama: Model, n_prompts: int):
    prompts = [f"The city {'x' * index}" for index in range(n_prompts)]
    sizes = []
    handle = llama.hf.register_forward_pre_hook(
        lambda _m, _a, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    logits = run(llama, prompts, batch_size=3).logits
    handle.remove()
    written = generate(llama, prompts, max_new_tokens=1, batch_size=3)
    assert len(logits) == len(written) == n_prompts
    assert sum(sizes) == n_prompts
    assert 0 not in sizes
    assert [one.ids[0] for one in written] == [int(row[-1].argmax()) for row in logits]


def test_row_18_a_target_of_one_token_and_a_decoding_step_are_written(llama: Model):
    write = Write("resid_post.1", Scale(-2.0), 0)
    assert len(llama.tokenize("?")) == 1
    assert not close(next_logits(llama, "?", writes=[write]), next_logits(llama, "?"), 1e-2)
    steered = generate(llama, "?", writes=[replace(write, position=None, when="generated")], max_new_tokens=5)[0].ids
    assert steered[0] == generate(llama, "?", max_new_tokens=1)[0].ids[0]
    grown = [*llama.tokenize("?").ids, steered[0]]
    for token in steered[1:]:
        everywhere = [replace(write, position=tuple(range(1, len(grown))))]
        assert run(llama, grown, writes=everywhere).logits[0][-1].argmax() == token
        grown.append(token)


def test_row_19_a_written_position_does_not_move_while_generating(llama: Model):
    ids = list(llama.tokenize(SOURCE).ids)
    last = [Write("resid_post.1", Add(torch.ones(llama.d_model) * 3), -1)]
    fixed = [replace(last[0], position=len(ids) - 1)]
    written = generate(llama, [ids], writes=last, max_new_tokens=6)[0].ids
    grown, moving = list(ids), False
    for token in written:
        assert run(llama, grown, writes=fixed).logits[0][-1].argmax() == token
        moving |= not close(run(llama, grown, writes=fixed).logits[0], run(llama, grown, writes=last).logits[0], 1e-2)
        grown.append(token)
    assert moving, "the test could not tell a moving position from a fixed one"


def test_row_20_what_was_read_is_a_copy(model: Model):
    sites = sites_of(model)
    plain = run(model, SOURCE, reads=sites).activations
    zero = [Write(site, Ablate()) for site in sites if site.component not in ("pattern", *GLOBAL)]
    later = [Write(Site("resid_post", 2), Ablate())]
    found = run(model, SOURCE, reads=[Site("resid_post", 1), Site("resid_pre", 2)], writes=later).activations
    assert torch.equal(found["resid_post.1"][0], plain[Site("resid_post", 1)][0])
    before = {site: plain[site][0].clone() for site in sites}
    run(model, SOURCE, writes=zero)
    assert all(torch.equal(plain[site][0], before[site]) for site in sites)
    assert (run(model, SOURCE, reads=["resid_post.1"], writes=zero).activations["resid_post.1"][0] == 0).all()


def test_row_21_results_carry_their_own_place(llama: Model):
    names = ["resid_post.2", "embed", "resid_pre.1", "resid_post.0"]
    found = capture(llama, SOURCE, names)
    assert torch.equal(found["resid_pre.1"][0], found["resid_post.0"][0])
    assert not torch.equal(found["resid_post.2"][0], found["embed"][0])
    result = patchscope(Source(llama, SOURCE, "all", (3, 0, 2)), Target(prompt=custom("hello x")), readout=NextToken(1))
    for cell in result.cells:
        alone = patchscope(
            Source(llama, SOURCE, cell.source_position, cell.source_layer),
            Target(prompt=custom("hello x")),
            readout=NextToken(1),
        ).cells[0]
        assert (alone.source_site, alone.target_layer, alone.ids) == (cell.source_site, cell.target_layer, cell.ids)


class _Fails(Scale):
    def apply(self, activation):
        raise RuntimeError("on purpose")


def test_row_22_an_exception_leaves_the_model_and_other_hooks_as_they_were():
    model = wrap(ALL["llama"].build(), tiny_tokenizer(), name="hooked")
    before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    block, calls = model.hf.model.layers[1], []
    foreign = block.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(RuntimeError, match="on purpose"):
        run(model, SOURCE, reads=["resid_post.1"], writes=[Write("resid_post.1", _Fails(1.0), 0)])
    assert list(block._forward_hooks) == [foreign.id]
    calls.clear()
    run(model, SOURCE, reads=["resid_post.1"])
    assert calls == [1]
    assert all(torch.equal(weight, before[name]) for name, weight in model.hf.state_dict().items())


def test_row_23_memory_does_not_grow_with_runs(llama: Model):
    def live() -> int:
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    def work():
        found = run(llama, TEXTS, reads=["resid_post.1"], writes=[Write("resid_post.0", Scale(2.0), 0)])
        generate(llama, TEXTS[0], writes=[Write("resid_post.0", Scale(2.0), 0)], max_new_tokens=2)
        bathyscope.differentiate(llama, SOURCE, lambda logits: logits[-1, 0], ["resid_post.1"])
        return found

    work()
    before = live()
    for _ in range(50):
        work()
    assert live() <= before


def test_row_24_a_coder_at_the_wrong_site_or_scale_is_told(llama: Model):
    """A coder knows its site and what it missed in training; where it misses far more, that is said."""
    texts = given_texts(
        [f"The boats of {name} lay in the harbour and it was late in the year. " * 4 for name in "abcdef"]
    )
    site = Site("resid_post", 2)
    read, texts = split_texts(texts, held_out=0.34)
    kept = StreamedActivations(Reader(llama, (site,), (WeightedTexts(read),), length=16))
    (trained,) = train_coders(kept, [CoderConfig(site, TopK(16), 64)], CoderSettings(30, 32))
    coder = trained.coder
    assert coder.site == site and coder.training["fvu"] < 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = evaluate_coder(llama, coder, texts, length=16)
    assert plain.reconstruction.fvu < 0.3
    elsewhere = Site("resid_post", 0)
    with pytest.warns(BathyscopeWarning, match="right site"):
        evaluate_coder(llama, replace(coder, site=elsewhere, target=elsewhere), texts, length=16)
    with pytest.warns(BathyscopeWarning, match="misses"):  # as when a scale of its inputs was not folded in
        evaluate_coder(llama, replace(coder, encoder=coder.encoder / 30), texts, length=16)
    with pytest.warns(BathyscopeWarning, match="was trained on documents of given"):
        evaluate_coder(llama, coder, read, length=16)


def test_row_25_a_pattern_is_refused_where_attention_never_makes_it():
    eager, sdpa = tiny_model("llama"), tiny_model("llama", "sdpa")
    pattern = capture(eager, SOURCE, ["pattern.1"])["pattern.1"][0]
    assert torch.allclose(pattern.sum(-1), torch.ones(pattern.shape[:-1]), atol=1e-5)
    with pytest.raises(SiteError, match="sdpa attention never makes it"):
        capture(sdpa, SOURCE, ["pattern.1"])
    with pytest.raises(UsageError, match="a write at z"):
        Write("pattern.1", Ablate())
    capped = tiny_model("gemma2")
    cap = capped.architecture.logit_softcap
    assert cap and run(capped, SOURCE).logits[0].abs().max() < cap


def test_row_26_a_gradient_that_is_no_number_raises(llama: Model):
    """A metric, or a half-precision model, whose gradient overflows: in one pass, in shared ones, and in the stream."""
    rows = [llama.tokenize(text) for text in TEXTS]
    infinite = {
        "one": lambda: differentiate(llama, TEXTS[0], lambda logits: (logits[-1, 0] * 0).sqrt(), ["resid_post.1"]),
        "rows": lambda: row_gradients(llama, rows, lambda logits: (logits[:, 0] * 0).sqrt(), [Site("mlp_out", 1)]),
        "stream": lambda: stream(llama, rows[:1], [1]).pull_back(torch.full((1, 1, len(rows[0]), 48), torch.inf)),
    }
    for name, work in infinite.items():
        with pytest.raises(InterventionError, match=r"not finite in torch\.float32"):
            work()
        assert name
    fine = differentiate(llama, TEXTS[0], lambda logits: logits[-1, 0], ["resid_post.1"])
    assert torch.isfinite(fine[Site("resid_post", 1)]).all()


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "float16"])
def test_row_26_the_dtype_that_was_loaded_is_the_one_that_is_said(tmp_path: Path, kept: str):
    folder = save_tiny("llama", tmp_path)
    for dtype in ("float32", "bfloat16", "float16"):
        loaded = bathyscope.load(folder, dtype=dtype)
        assert str(loaded.dtype) == f"torch.{dtype}" == f"torch.{loaded.provenance()['dtype']}"
        assert {weight.dtype for weight in loaded.hf.parameters()} == {loaded.dtype}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": kept, "torch_dtype": kept}))
    assert bathyscope.load(folder).dtype == torch.float32, "on a CPU, whatever the checkpoint says"
    for wrong in ("int3", "fp8", "float8_e4m3fn", "int4"):
        with pytest.raises(UsageError, match="choose one of"):
            bathyscope.load(folder, dtype=wrong)


def test_row_27_what_is_not_understood_raises(llama: Model, tmp_path: Path):
    with pytest.raises(UsageError, match="when='sometimes'"):
        Write("resid_post.1", Ablate(), when="sometimes")  # type: ignore[arg-type]
    for name in ("resid_post", "resid_post.-1", "layer.3", "hidden_states.1", "blocks.1.hook_nothing"):
        with pytest.raises(SiteError):
            llama.site(name)
    with pytest.raises(TypeError, match="strength"):
        Scale(factor=1.0, strength=2.0)  # type: ignore[call-arg]
    path = patchscope(Source(llama, SOURCE, layer=1), Target(prompt=custom("x"))).save(tmp_path / "a.json")
    data = json.loads(path.read_text())
    for change in ({"kind": "horoscope"}, {"schema_version": 99}, {"cells": [{"unknown": 1}]}):
        path.write_text(json.dumps({**data, **change}))
        with pytest.raises((StorageError, BathyscopeError), match=re.escape(str(path))):
            Result.load(path)
