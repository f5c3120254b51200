"""Patchscopes: every cell is one capture, one mapping and one write, however many are asked for at once."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from bathyscope import Source, Target, capture, generate, patchscope, run, wrap
from bathyscope.errors import InterventionError, PositionError, SiteError, UsageError
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Identity, NormMatch, Scale
from bathyscope.model import Model
from bathyscope.patchscope_result import PatchscopeCell, PatchscopeResult
from bathyscope.prompts import Span, custom, entity_description, prepare, selfie, token_identity
from bathyscope.readouts import Generate, NextToken
from bathyscope.sites import Site, residual_site
from conftest import tiny_model
from families import ALL
from tokenizers_for_tests import BOS_ID, sentencepiece_like_tokenizer, tiny_tokenizer

SOURCE = "Diana, Princess of Wales"
PROMPT = custom("The largest city in x")
N_NEW = 5
READ = Generate(N_NEW)
LAYERS = (-1, 0, 1, 2, 3)


def by_hand(cell: PatchscopeCell, model: Model, prompt=PROMPT, mapping=None, target: Model | None = None):
    """What one cell says, by one pass over the source and one generation under one write."""
    target, mapping = target or model, mapping or Identity()
    value = capture(model, SOURCE, [cell.source_site])[cell.source_site][0][cell.source_position]
    sites = Site.parse(cell.source_site), Site.parse(cell.target_site)
    intervention = mapping.intervention(mapping.apply(value[None], *sites)[0])
    inspection = prepare(target, prompt)
    write = Write(Site.parse(cell.target_site), intervention, inspection.positions)
    return generate(target, inspection.tokens, writes=[write], max_new_tokens=N_NEW)[0]


def texts(result: PatchscopeResult) -> set[tuple[int, ...]]:
    return {cell.ids for cell in result.cells}


# Layers, positions, sites


def test_layers_alone_are_written_where_they_were_read(model: Model):
    result = patchscope(Source(model, SOURCE), Target(prompt=PROMPT), readout=READ)
    assert [cell.source_layer for cell in result.cells] == [cell.target_layer for cell in result.cells] == list(LAYERS)
    for cell in result.cells:
        assert cell.source_site == cell.target_site == str(residual_site(cell.source_layer))
        found = by_hand(cell, model)
        assert (cell.ids, cell.text, cell.stopped) == (found.ids, found.text, found.stopped)
    assert len(texts(result)) > 1, "layers that all say the same would prove nothing"


@pytest.mark.parametrize("layer", [2, "2", (2,), "embed", -1])
def test_a_fixed_layer_takes_what_every_layer_holds(llama: Model, layer):
    result = patchscope(Source(llama, SOURCE), Target(prompt=PROMPT, layer=layer), readout=READ)
    wanted = -1 if layer in ("embed", -1) else 2
    assert [cell.source_layer for cell in result.cells] == list(LAYERS)
    assert {cell.target_layer for cell in result.cells} == {wanted}
    assert [cell.ids for cell in result.cells] == [by_hand(cell, llama).ids for cell in result.cells]


def test_the_whole_grid_is_its_cells_one_by_one(llama: Model):
    grid = patchscope(Source(llama, SOURCE, "all"), Target(prompt=PROMPT, layer="all"), readout=READ)
    positions = range(len(llama.tokenize(SOURCE)))
    order = [(cell.source_position, cell.source_layer, cell.target_layer) for cell in grid.cells]
    assert order == list(itertools.product(positions, LAYERS, LAYERS))
    for cell in grid.cells[::7]:
        source = Source(llama, SOURCE, cell.source_position, cell.source_layer)
        alone = patchscope(source, Target(prompt=PROMPT, layer=cell.target_layer), readout=READ)
        assert alone.cells == (cell,)
    assert len(texts(grid)) > 20


def test_several_layers_in_the_order_given(llama: Model):
    result = patchscope(Source(llama, SOURCE, layer="3,0-1"), Target(prompt=PROMPT, layer=(2, 0)), readout=READ)
    assert [(cell.source_layer, cell.target_layer) for cell in result.cells] == list(
        itertools.product((3, 0, 1), (2, 0))
    )


@pytest.mark.parametrize(
    ("position", "tokens"),
    [
        ("last", [" Wales"]),
        ("all", ["Diana", ",", " Princess", " of", " Wales"]),
        ("Princess", [" Princess"]),
        ("Princess of", [" of"]),
        (Span("Wales"), [" Wales"]),
        (0, ["Diana"]),
        (-2, [" of"]),
        ((3, 0), [" of", "Diana"]),
    ],
)
def test_positions_by_number_by_text_and_several(llama: Model, position, tokens: list[str]):
    result = patchscope(Source(llama, SOURCE, position, 1), Target(prompt=PROMPT), readout=READ)
    assert [cell.source_token for cell in result.cells] == tokens
    for cell in result.cells:
        assert cell.source_token == llama.tokenize(SOURCE).texts[cell.source_position]
        assert cell.ids == by_hand(cell, llama).ids


@pytest.mark.parametrize("component", ["resid_pre", "resid_mid", "attn_out", "mlp_out", "z", "mlp_post", "v"])
def test_any_component_may_be_read_and_written(llama: Model, component: str):
    source = Source(llama, SOURCE, layer="0-3", component=component)
    result = patchscope(source, Target(prompt=PROMPT, component=component), readout=READ)
    assert [cell.source_site for cell in result.cells] == [f"{component}.{layer}" for layer in range(4)]
    assert [cell.ids for cell in result.cells] == [by_hand(cell, llama).ids for cell in result.cells]
    plain = capture(llama, SOURCE, [f"{component}.2"])[f"{component}.2"][0][-1]
    assert torch.equal(result.representations[2], plain)


def test_a_contribution_may_be_written_into_the_residual_stream(llama: Model):
    source = Source(llama, SOURCE, layer="0-3", component="mlp_out")
    result = patchscope(source, Target(prompt=PROMPT, layer=0), readout=READ)
    assert {cell.target_site for cell in result.cells} == {"resid_post.0"}
    assert [cell.ids for cell in result.cells] == [by_hand(cell, llama).ids for cell in result.cells]


def test_all_layers_of_another_component_are_all_blocks(llama: Model):
    result = patchscope(Source(llama, SOURCE, component="mlp_out"), Target(prompt=PROMPT), readout=READ)
    assert [cell.source_layer for cell in result.cells] == [0, 1, 2, 3]


def test_a_layer_given_twice_is_one_cell(llama: Model):
    twice = patchscope(Source(llama, SOURCE, layer=(1, 1)), Target(prompt=PROMPT), readout=READ)
    assert twice.cells == patchscope(Source(llama, SOURCE, layer="1,1"), Target(prompt=PROMPT), readout=READ).cells


# What theory predicts


def test_a_prompt_that_is_written_with_itself_says_what_it_says(model: Model):
    inspection = prepare(model, PROMPT)
    source = Source(model, PROMPT.text, inspection.positions[0])
    result = patchscope(source, Target(prompt=PROMPT), readout=READ)
    assert {cell.text for cell in result.cells} == {result.unpatched}


def test_the_last_layer_is_the_logit_lens_whatever_the_prompt(model: Model):
    readout = NextToken(512)
    states = capture(model, SOURCE, [residual_site(layer) for layer in LAYERS])
    for prompt in (PROMPT, token_identity(), custom("x")):
        result = patchscope(Source(model, SOURCE), Target(prompt=prompt, layer=3), readout=readout)
        for cell in result.cells:
            wanted = torch.softmax(model.unembed(states[residual_site(cell.source_layer)][0][-1]), -1)
            found = torch.zeros(512)
            for one in cell.candidates:
                found[one.id] = one.probability
            assert torch.allclose(found, wanted, atol=1e-5)


def test_the_unpatched_control_is_the_target_prompt_alone(model: Model):
    for target, prompt in ((Target(prompt=PROMPT), PROMPT.text), (Target(prompt="hello x"), "hello x")):
        result = patchscope(Source(model, SOURCE), target, readout=READ)
        assert result.unpatched == generate(model, prompt, max_new_tokens=5)[0].text
    ranked = patchscope(Source(model, SOURCE), Target(prompt=PROMPT), readout=NextToken(3))
    best = int(run(model, PROMPT.text).logits[0][-1].argmax())
    assert ranked.unpatched == model.token_texts([best])[0]


def test_the_control_is_the_same_whatever_is_written(llama: Model):
    controls = {
        patchscope(Source(llama, SOURCE, layer=layer), Target(prompt=PROMPT), mapping=mapping, readout=READ).unpatched
        for layer in ("all", 0, "2-3")
        for mapping in (Identity(), Scale(100.0), NormMatch())
    }
    assert len(controls) == 1


@pytest.mark.parametrize("mapping", [Scale(3.0), Scale(0.5), NormMatch()])
def test_a_final_norm_forgets_the_length_of_what_is_written_last(llama: Model, mapping):
    plain, mapped = (
        patchscope(Source(llama, SOURCE), Target(prompt=PROMPT, layer=3), mapping=f, readout=NextToken(20))
        for f in (Identity(), mapping)
    )
    for before, after in zip(plain.cells, mapped.cells, strict=True):
        assert [one.id for one in before.candidates] == [one.id for one in after.candidates]
        for one, other in zip(before.candidates, after.candidates, strict=True):
            assert one.probability == pytest.approx(other.probability, rel=1e-2)


@pytest.mark.parametrize("mapping", [Scale(3.0), NormMatch()])
def test_a_length_matters_below_the_last_block(model: Model, mapping):
    plain, mapped = (
        patchscope(Source(model, SOURCE), Target(prompt=PROMPT, layer=1), mapping=f, readout=NextToken(5))
        for f in (Identity(), mapping)
    )
    assert any(
        abs(one.probability - other.probability) > 1e-3
        for before, after in zip(plain.cells, mapped.cells, strict=True)
        for one, other in zip(before.candidates, after.candidates, strict=True)
    )


@pytest.mark.parametrize("mapping", [Scale(-2.0), NormMatch()])
def test_a_mapped_cell_is_its_intervention_by_hand(llama: Model, mapping):
    result = patchscope(Source(llama, SOURCE, "all"), Target(prompt=PROMPT), mapping=mapping, readout=READ)
    for cell in result.cells:
        assert cell.ids == by_hand(cell, llama, mapping=mapping).ids
    plain = patchscope(Source(llama, SOURCE, "all"), Target(prompt=PROMPT), readout=READ)
    assert texts(result) != texts(plain)
    assert torch.equal(result.representations, plain.representations), "what is kept is what was read"


def test_a_matched_norm_is_that_of_the_placeholder(llama: Model):
    inspection = prepare(llama, PROMPT)
    there = capture(llama, inspection.tokens, ["resid_post.1"])["resid_post.1"][0][inspection.positions[0]]
    value = capture(llama, SOURCE, ["resid_post.1"])["resid_post.1"][0][-1]
    scaled = Replace(value * there.norm() / value.norm())
    wanted = generate(
        llama, inspection.tokens, writes=[Write("resid_post.1", scaled, inspection.positions)], max_new_tokens=5
    )
    matched = patchscope(Source(llama, SOURCE, layer=1), Target(prompt=PROMPT), mapping=NormMatch(), readout=READ)
    assert matched.cells[0].ids == wanted[0].ids


def test_an_embedding_that_is_written_is_the_token(llama: Model):
    """A single-token source at the embedding, written at the embedding: the target prompt with that token."""
    token = llama.tokenize(" Syria").ids
    assert len(token) == 1
    result = patchscope(Source(llama, list(token), layer=-1), Target(prompt=PROMPT), readout=READ)
    assert result.cells[0].text == generate(llama, "The largest city in Syria", max_new_tokens=5)[0].text


# Readouts


def test_candidates_are_ranked_and_are_probabilities(model: Model):
    result = patchscope(Source(model, SOURCE), Target(prompt=PROMPT), readout=NextToken(7))
    for cell in result.cells:
        probabilities = [one.probability for one in cell.candidates]
        assert len(probabilities) == 7
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) < 1
        assert (cell.text, cell.ids) == (cell.candidates[0].token, (cell.candidates[0].id,))
        assert [one.token for one in cell.candidates] == list(model.token_texts([one.id for one in cell.candidates]))


@pytest.mark.parametrize("k", [512, 10_000])
def test_all_candidates_together_are_certain(llama: Model, k: int):
    result = patchscope(Source(llama, SOURCE), Target(prompt=PROMPT), readout=NextToken(k))
    for cell in result.cells:
        assert len({one.id for one in cell.candidates}) == 512
        assert sum(one.probability for one in cell.candidates) == pytest.approx(1.0, abs=1e-4)


def test_the_likeliest_next_token_is_the_first_that_is_generated(model: Model):
    ranked = patchscope(Source(model, SOURCE, "all"), Target(prompt=PROMPT), readout=NextToken(1))
    told = patchscope(Source(model, SOURCE, "all"), Target(prompt=PROMPT), readout=Generate(1))
    assert [cell.ids for cell in ranked.cells] == [cell.ids for cell in told.cells]


@pytest.mark.parametrize(
    ("readout", "remedy"), [(lambda: Generate(0), "--new-tokens 20"), (lambda: NextToken(0), "--top 10")]
)
def test_a_readout_of_nothing_is_refused(readout, remedy: str):
    with pytest.raises(UsageError, match=remedy):
        readout()


@pytest.mark.parametrize("readout", [Generate(2), NextToken(2)])
def test_what_is_no_number_is_not_read_out(llama: Model, readout):
    with pytest.raises(InterventionError, match="not finite"):
        patchscope(Source(llama, SOURCE, layer=1), Target(prompt=PROMPT), mapping=Scale(float("inf")), readout=readout)


# Two models


def other_model(**settings) -> Model:
    family = ALL["llama"]
    built = replace(family, settings={**family.settings, **settings}).build(seed=1)
    return wrap(built, sentencepiece_like_tokenizer(), name="other")


def test_another_model_speaks_in_its_own_tokens(llama: Model):
    other = other_model()
    result = patchscope(Source(llama, SOURCE), Target(other, PROMPT), readout=READ)
    for cell in result.cells:
        found = by_hand(cell, llama, target=other)
        assert (cell.ids, cell.text) == (found.ids, found.text)
        assert cell.text == other.decode(cell.ids)
    asked = result.provenance["spec"]
    assert asked["source"]["ids"][0] != BOS_ID == asked["target"]["ids"][0]
    assert [one["model"] for one in result.provenance["models"]] == ["llama", "other"]
    assert result.unpatched == generate(other, PROMPT.text, max_new_tokens=5)[0].text


def test_another_familys_model_of_the_same_width_may_be_the_target(llama: Model):
    result = patchscope(Source(tiny_model("gpt2"), SOURCE, "all"), Target(llama, PROMPT), readout=READ)
    for cell in result.cells[::5]:
        assert cell.ids == by_hand(cell, tiny_model("gpt2"), target=llama).ids


def test_a_target_with_fewer_blocks_is_asked_for_its_own_layers(llama: Model):
    shallow = other_model(num_hidden_layers=2)
    with pytest.raises(SiteError, match=r"layer 2 does not exist; this model has layers -1 .* 0 to 1"):
        patchscope(Source(llama, SOURCE), Target(shallow, PROMPT), readout=READ)
    result = patchscope(Source(llama, SOURCE), Target(shallow, PROMPT, layer=1), readout=READ)
    assert [cell.source_layer for cell in result.cells] == list(LAYERS)


def test_other_widths_are_refused_with_both(llama: Model):
    with pytest.raises(UsageError, match=r"width \(48,\) were to be written where the width is \(4, 16\)"):
        patchscope(Source(llama, SOURCE, layer=1), Target(prompt=PROMPT, component="z"), readout=READ)


# What a result carries


def test_representations_are_what_was_read_before_the_mapping(model: Model):
    result = patchscope(Source(model, SOURCE, "all"), Target(prompt=PROMPT), mapping=Scale(2.0), readout=NextToken(1))
    states = capture(model, SOURCE, [residual_site(layer) for layer in LAYERS])
    for cell, representation in zip(result.cells, result.representations, strict=True):
        assert torch.equal(representation, states[cell.source_site][0][cell.source_position])


@pytest.mark.parametrize(
    ("mapping", "readout", "said"),
    [
        (Identity(), Generate(3), {"mapping": "Identity", "readout": "Generate", "new_tokens": 3}),
        (Scale(2.0), NextToken(4), {"mapping": "Scale", "factor": 2.0, "readout": "NextToken", "k": 4}),
        (NormMatch(), Generate(3), {"mapping": "NormMatch"}),
    ],
)
def test_provenance_is_enough_to_do_it_again(llama: Model, mapping, readout, said: dict):
    prompt = selfie(chat=False)
    result = patchscope(Source(llama, SOURCE, layer="0-1"), Target(prompt=prompt), mapping=mapping, readout=readout)
    origin = json.loads(json.dumps(dict(result.provenance)))
    asked = origin["spec"]
    assert {name: asked[name] for name in said} == said
    assert asked["decoding"] == "greedy"
    tokens = llama.tokenize(SOURCE)
    assert asked["source"] == {
        "prompt": SOURCE,
        "ids": list(tokens.ids),
        "tokens": list(tokens.texts),
        "positions": [len(tokens) - 1],
        "layers": [0, 1],
        "component": "resid_post",
    }
    inspection = prepare(llama, prompt)
    assert asked["target"] == {
        "prompt": inspection.tokens.text,
        "ids": list(inspection.tokens.ids),
        "tokens": list(inspection.tokens.texts),
        "placeholder": "_",
        "placeholder_tokens": ["_"] * 5,
        "positions": list(inspection.positions),
        "layers": "same",
        "component": "resid_post",
    }
    assert len(origin["models"]) == 2
    for model in origin["models"]:
        assert {"model", "revision", "commit", "family", "dtype", "attention", "device"} <= set(model)
        assert (model["dtype"], model["attention"]) == ("float32", "eager")
    assert {"bathyscope", "torch", "transformers", "tokenizers", "safetensors", "numpy", "python"} <= set(
        origin["versions"]
    )
    assert all(origin["versions"].values())
    assert origin["created"].endswith("+00:00")

    again = patchscope(
        Source(llama, asked["source"]["ids"], layer="0-1"), Target(prompt=prompt), mapping=mapping, readout=readout
    )
    assert [cell.ids for cell in again.cells] == [cell.ids for cell in result.cells]


def test_one_cell_is_picked_by_layer_position_and_target_layer(llama: Model):
    result = patchscope(Source(llama, SOURCE, (1, 2)), Target(prompt=PROMPT, layer="all"), readout=READ)
    cell = result.at(layer=2, position=1, target_layer=-1)
    assert (cell.source_layer, cell.source_position, cell.target_layer) == (2, 1, -1)
    for wanted in ({"layer": 2}, {"layer": 2, "position": 1}, {"layer": 9, "position": 1, "target_layer": 0}):
        with pytest.raises(UsageError, match="cells have layer"):
            result.at(**wanted)


def test_progress_rises_to_its_end(llama: Model):
    seen: list[tuple[int, int]] = []
    source = Source(llama, SOURCE, "all")
    patchscope(source, Target(prompt=PROMPT), readout=READ, progress=lambda done, total: seen.append((done, total)))
    assert len({total for _, total in seen}) == 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]


# What is refused, before any work


@pytest.mark.parametrize(
    ("source", "target", "kind", "said"),
    [
        ({"layer": 4}, {}, SiteError, "layer 4 does not exist; this model has layers -1"),
        ({"layer": "0-9"}, {}, SiteError, "layer 9 does not exist"),
        ({"layer": -2}, {}, SiteError, "not a choice of layers"),
        ({"layer": (0, -2)}, {}, SiteError, "layer -2 does not exist"),
        ({"layer": ()}, {}, UsageError, "no layer was given"),
        ({"position": 6000}, {}, PositionError, "position 6000 does not exist"),
        ({"position": "Charles"}, {}, PositionError, "it is not there"),
        ({"prompt": ""}, {}, UsageError, "an empty prompt was given"),
        ({"component": "residual", "layer": 1}, {}, SiteError, "no component is called 'residual'"),
        ({"component": "final_norm", "layer": 1}, {}, SiteError, "it has no layer"),
        ({}, {"layer": 4}, SiteError, "layer 4 does not exist"),
        ({}, {"prompt": "no placeholder here"}, UsageError, "the placeholder 'x' is not in the target prompt"),
        ({}, {"prompt": entity_description(chat=True)}, UsageError, "no chat template"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_runs(source: dict, target: dict, kind, said: str):
    model = wrap(ALL["llama"].build(), tiny_tokenizer(), name="idle")
    model.hf.register_forward_pre_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(kind) as caught:
        patchscope(
            Source(**{"model": model, "prompt": SOURCE, **source}), Target(**{"prompt": PROMPT, **target}), readout=READ
        )
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_new_tokens_than_the_context_has_room_for_are_refused():
    gpt2 = tiny_model("gpt2")
    room = 128 - len(gpt2.tokenize(PROMPT.text)) + 1
    assert patchscope(Source(gpt2, SOURCE, layer=1), Target(prompt=PROMPT), readout=Generate(room))
    with pytest.raises(UsageError, match="129 tokens are needed"):
        patchscope(Source(gpt2, SOURCE, layer=1), Target(prompt=PROMPT), readout=Generate(room + 1))
