"""What must hold of any decoder, whatever its weights, on every family: the numbers can be trusted only if it does.

Numbered as in the project's list of identities (docs/design.md): 1-9, 14 and 16.
"""

import math
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from bathyscope import Source, Target, capture, generate, patchscope, run, wrap
from bathyscope.errors import UsageError
from bathyscope.generation import next_logits
from bathyscope.interventions import Ablate, Add, Replace, Scale, Write
from bathyscope.mappings import Mapping
from bathyscope.model import Model
from bathyscope.prompts import custom
from bathyscope.readouts import Generate
from bathyscope.sites import Site, residual_site
from conftest import tiny_model
from families import ALL, TinyFamily
from tokenizers_for_tests import tiny_tokenizer

S = "The capital of France is Paris"
T = "The cat of the keeper lives in x"
LAYERS = (-1, 0, 1, 2, 3)


def residuals(model: Model, prompt) -> dict[int, Tensor]:
    found = capture(model, prompt, [residual_site(layer) for layer in LAYERS])
    return {layer: found[residual_site(layer)][0] for layer in LAYERS}


def same_length(model: Model) -> tuple[tuple[int, ...], tuple[int, ...]]:
    first, second = model.tokenize(S).ids, model.tokenize(T).ids
    length = min(len(first), len(second))
    assert first[:length] != second[:length]
    return first[:length], second[:length]


def close(first: Tensor, second: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((first - second).abs().max() <= tolerance * max(1.0, float(second.abs().max())))


def test_01_writing_back_what_was_read_changes_nothing(model: Model, family: TinyFamily):
    plain = run(model, S).logits[0]
    states = residuals(model, S)
    for layer, state in states.items():
        writes = [Write(residual_site(layer), Replace(state[p]), p) for p in range(len(state))]
        written = run(model, S, writes=writes).logits[0]
        # A multiplier is divided out and multiplied in again, which may cost the last bit.
        exact = model.tap(residual_site(layer)).multiplier == 1.0
        assert torch.equal(written, plain) if exact else close(written, plain, 1e-5), layer


def test_02_a_write_at_the_last_block_is_the_logit_lens_for_any_target(model: Model):
    last = Site("resid_post", model.n_layers - 1)
    for state in residuals(model, S).values():
        for prompt, position in ((S, 2), (T, 1), (T, -1)):
            logits = run(model, prompt, writes=[Write(last, Replace(state[3]), position)]).logits[0][position]
            assert close(logits, model.unembed(state[3]), 1e-5)


def test_03_writing_an_embedding_is_substituting_the_token(model: Model):
    ids = list(model.tokenize(T).ids)
    token, position = model.tokenize(S).ids[-1], 3
    # Read where learned positions cannot help: the embedding is the token's, wherever it stands.
    embedding = capture(model, [token], ["embed"])["embed"][0][0]
    write = [Write(Site("embed"), Replace(embedding), position)]
    substituted = [*ids[:position], token, *ids[position + 1 :]]
    wanted = run(model, substituted).logits[0]
    assert not close(run(model, ids).logits[0], wanted, 1e-2)
    assert close(run(model, ids, writes=write).logits[0], wanted, 1e-5)
    patched = generate(model, [ids], writes=write, max_new_tokens=8)[0]
    assert patched.ids == generate(model, [substituted], max_new_tokens=8)[0].ids


def test_04_writing_every_position_makes_the_target_the_source(model: Model):
    source, target = same_length(model)
    wanted = run(model, source).logits[0]
    for layer, state in residuals(model, source).items():
        write = [Write(residual_site(layer), Replace(state))]
        assert close(run(model, target, writes=write).logits[0], wanted), layer
    # Only from the embedding on are the keys and values of every layer the source's too.
    embedding = [Write(Site("embed"), Replace(residuals(model, source)[-1]))]
    patched = generate(model, [target], writes=embedding, max_new_tokens=8)[0].ids
    assert patched == generate(model, [source], max_new_tokens=8)[0].ids


def test_05_nothing_before_a_write_changes(model: Model, family: TinyFamily):
    position, layer = 3, 1
    sites = [Site(name, at) for name in ("resid_post", "k", "v") for at in range(model.n_layers)]
    write = [Write(Site("resid_post", layer), Scale(-2.0), position)]
    plain, patched = run(model, T, reads=sites), run(model, T, reads=sites, writes=write)
    # Experts work on the tokens that were routed to them together, so that another token's change can cost a bit.
    same = partial(close, tolerance=1e-6) if family.moe_layers else torch.equal
    assert same(patched.logits[0][:position], plain.logits[0][:position])
    assert not close(patched.logits[0][position:], plain.logits[0][position:], 1e-2)
    for site in sites:
        before, after = plain.activations[site][0], patched.activations[site][0]
        assert same(after[:position], before[:position]), site
        untouched = site.layer < layer or (site.layer == layer and site.component in ("k", "v"))
        assert same(after[position], before[position]) == untouched, site


def test_06_cached_generation_is_generation_without_a_cache(model: Model):
    ids = list(model.tokenize(T).ids)
    states = residuals(model, S)
    for layer in (-1, 1, 3):
        write = [Write(residual_site(layer), Replace(states[layer][2]), 4)]
        cached = generate(model, [ids], writes=write, max_new_tokens=6)[0].ids
        grown = list(ids)
        for token in cached:
            logits = run(model, grown, writes=write).logits[0][-1]
            assert logits.max() - logits[token] <= 1e-4
            grown.append(token)


def test_06_after_a_generation_a_model_can_be_trained(family: TinyFamily):
    """Steps run in inference mode, of which nothing may stay in the model."""
    model = wrap(family.build(), tiny_tokenizer())
    generate(model, T, max_new_tokens=6)
    model.hf.requires_grad_(True)
    logits = model.hf(input_ids=torch.tensor([model.tokenize(T).ids])).logits
    logits[0, -1].float().logsumexp(-1).backward()
    assert any(one.grad is not None and one.grad.abs().max() > 0 for one in model.hf.parameters())


def test_06_what_somebodys_hook_took_from_a_generation_can_be_trained_on():
    model, taken = wrap(ALL["llama"].build(), tiny_tokenizer()), []
    handle = model.blocks[1].register_forward_hook(lambda _module, _inputs, output: taken.append(output))
    generate(model, T, max_new_tokens=3)
    handle.remove()
    probe = torch.nn.Linear(model.d_model, 1)
    last = taken[-1] if isinstance(taken[-1], Tensor) else taken[-1][0]
    probe(last).sum().backward()
    assert probe.weight.grad is not None and last.shape[1] == 1, "a step's, not the prompt's"


def test_06_a_grid_that_shares_its_prefix_is_the_cells_one_by_one(model: Model):
    states = residuals(model, S)
    cells = [(layer, position) for layer in LAYERS for position in range(3)]
    writes = [
        Write(residual_site(layer), Replace(states[layer][position]), -2, row)
        for row, (layer, position) in enumerate(cells)
    ]
    grid = generate(model, [T] * len(cells), writes=writes, max_new_tokens=6)
    logits = next_logits(model, [T] * len(cells), writes=writes)
    assert not close(logits[0], logits[-1], 1e-2), "the cells must not all say the same"
    for row, write in enumerate(writes):
        alone = [Write(write.site, write.intervention, write.position)]
        assert close(logits[row], run(model, T, writes=alone).logits[0][-1], 1e-4)
        assert grid[row].ids == generate(model, T, writes=alone, max_new_tokens=6)[0].ids


def test_07_a_batch_of_any_lengths_is_its_rows_alone(model: Model):
    texts = [S, "x", "The largest city in x", T]
    together = run(model, texts, batch_size=3)
    for text, logits in zip(texts, together.logits, strict=True):
        assert close(logits, run(model, text).logits[0])
    assert [one.ids for one in generate(model, texts, max_new_tokens=6, batch_size=3)] == [
        generate(model, text, max_new_tokens=6)[0].ids for text in texts
    ]


def test_07_a_position_from_the_end_is_the_same_position(model: Model):
    last = len(model.tokenize(T)) - 1
    by_sign = [run(model, T, writes=[Write(Site("resid_post", 1), Ablate(), p)]).logits[0] for p in (-1, last)]
    assert torch.equal(*by_sign)


def test_07_a_prompt_of_one_token_is_patched(model: Model):
    state = residuals(model, S)[0][2]
    target = custom("?", "?")
    assert len(model.tokenize("?")) == 1
    patched = patchscope(Source(model, S, 2, 0), Target(prompt=target), readout=Generate(4)).cells[0]
    write = [Write(Site("resid_post", 0), Replace(state), 0)]
    assert patched.ids == generate(model, "?", writes=write, max_new_tokens=4)[0].ids
    assert not close(next_logits(model, "?", writes=write), next_logits(model, "?"), 1e-2)


def test_08_a_norm_forgets_the_scale_at_the_last_block_and_nowhere_else(model: Model, family: TinyFamily):
    if not family.final_norm:
        pytest.skip("no final norm")
    plain = run(model, T).logits[0][-1]

    def scaled(layer: int) -> Tensor:
        return run(model, T, writes=[Write(Site("resid_post", layer), Scale(3.0), -1)]).logits[0][-1]

    assert close(scaled(model.n_layers - 1), plain, 1e-3)
    assert not close(scaled(1), plain, 1e-2)


def test_09_zero_at_the_last_block_is_the_uniform_distribution(model: Model, family: TinyFamily):
    if not family.rms_final_norm:
        pytest.skip("a LayerNorm's bias makes it another distribution")
    last = Site("resid_post", model.n_layers - 1)
    logits = run(model, T, writes=[Write(last, Ablate(), -1)]).logits[0][-1]
    probabilities = torch.softmax(logits, -1)
    entropy = -(probabilities * probabilities.log()).sum().item()
    assert torch.equal(logits, torch.zeros_like(logits))
    assert entropy == pytest.approx(math.log(len(logits)), abs=1e-4)


@dataclass(frozen=True)
class Doubled(Mapping):
    """Every number twice: from one width to another."""

    def apply(self, representations, source, target):
        return representations.repeat(1, 2)

    def target_width(self, source_width):
        return (2 * source_width[0],)

    def spec(self):
        return {"mapping": "Doubled"}


def test_14_another_model_with_the_same_weights_is_the_same_model(model: Model, family: TinyFamily):
    twin = tiny_model(family.name, "eager")
    copy = type(model)(family.build(), model.tokenizer, model.architecture, "copy")
    own = patchscope(Source(model, S, "all", "all"), Target(twin, custom(T)), readout=Generate(4))
    other = patchscope(Source(model, S, "all", "all"), Target(copy, custom(T)), readout=Generate(4))
    assert [cell.ids for cell in own.cells] == [cell.ids for cell in other.cells]


def test_14_another_width_is_refused_and_never_broadcast():
    narrow = tiny_model("llama")
    wide = narrow_to_wide()
    with pytest.raises(UsageError, match="width"):
        patchscope(Source(narrow, S, 2, 1), Target(wide, custom(T)))
    mapped = patchscope(Source(narrow, S, 2, 1), Target(wide, custom(T)), mapping=Doubled(), readout=Generate(2))
    assert len(mapped.cells[0].ids) == 2


def narrow_to_wide() -> Model:
    family = ALL["llama"]
    settings = {**family.settings, "hidden_size": 2 * family.d_model}
    return wrap(replace(family, settings=settings).build(), tiny_tokenizer(), name="wide")


def test_16_nothing_of_a_run_stays_behind(model: Model):
    weights = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    plain = run(model, T).logits[0]
    every = [Site("resid_post", layer) for layer in range(model.n_layers)]
    run(model, T, reads=every, writes=[Write(site, Add(torch.ones(model.d_model)), 1) for site in every])
    generate(model, T, writes=[Write(every[0], Scale(2.0), 1, when="always")], max_new_tokens=3)
    with pytest.raises(RuntimeError, match="in the middle"):
        run(model, T, reads=every, writes=[Write(every[1], Broken(), 1)])
    assert torch.equal(run(model, T).logits[0], plain)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.hf.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


class Broken(Scale):
    def __init__(self):
        super().__init__(1.0)

    def apply(self, activation):
        raise RuntimeError("in the middle")
