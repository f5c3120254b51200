"""Two models: pairs whose relation is known, and a study that must find it, beside controls that must not."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import command_line
from bathyscope import Source, Store, Target, capture, load, patchscope, plots, run, studies, wrap
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.fitting import fit_affine
from bathyscope.generation import generate
from bathyscope.interventions import Replace, Write
from bathyscope.mappings import Affine, Fit, Identity, NormMatch, Term, model_identity
from bathyscope.model import Model
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.sites import residual_site
from bathyscope.studies import CrossModelResult, cross_model, rotated, sliced, truncated
from bathyscope.studies.cross_model_study import slicing
from bathyscope.studies.cross_model_study.asked import Crossing
from bathyscope.studies.cross_model_study.cells import COMPARED, Crossed, Label
from bathyscope.studies.cross_model_study.pairs import LLAMA_TYPE, folded, in_basis, made, rotation
from bathyscope.studies.cross_model_study.shared_places import draw_shared_places
from bathyscope.studies.cross_model_study.slicing import principal_components
from bathyscope.texts import Texts, read_texts, windows
from conftest import tiny_model
from families import ALL, TinyFamily
from tokenizers_for_tests import BOS, CORPUS, EOS, PAD, VOCAB_SIZE, tiny_tokenizer

bathyscope, tiny = command_line.bathyscope, command_line.tiny

HARBOUR = Path(__file__).parent / "harbour.txt"
LENGTH = 24
S = "The capital of France is Paris"
MADE_FROM = ["llama", "mistral", "qwen2", "qwen3", "llama_untied_biased", "mistral_sliding"]
SMALL = {"positions": 12, "length": LENGTH, "names": ("New York City",), "new_tokens": 4, "seed": 3}
ALL_LAYERS = {**SMALL, "source_layers": "all", "target_layers": "all"}


@pytest.fixture(scope="module")
def texts() -> Texts:
    return read_texts(HARBOUR)


@pytest.fixture(scope="module")
def turned() -> Model:
    return rotated(tiny_model("llama"), seed=5)


@pytest.fixture(scope="module")
def fitted(turned: Model, texts: Texts) -> Affine:
    """From every layer to the same layer of the rotated model."""
    sites = [residual_site(layer) for layer in range(-1, 4)]
    return fit_affine(tiny_model("llama"), turned, texts, pairs=list(zip(sites, sites, strict=True)), length=LENGTH)


@pytest.fixture(scope="module")
def found(turned: Model, texts: Texts) -> CrossModelResult:
    return cross_model(tiny_model("llama"), turned, texts, source_layers=(0, 2), target_layers=(0, 2), **SMALL)


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float) -> bool:
    return bool((first - second).abs().max() <= tolerance * second.abs().max())


def of(result: CrossModelResult, prompt: str, layer: int, other: int) -> dict:
    return dict(result.of(prompt)[layer, other])


# Pairs


@pytest.mark.parametrize("name", MADE_FROM)
def test_a_rotated_model_is_the_same_function_in_another_basis(name: str):
    model = tiny_model(name)
    before = {key: weight.clone() for key, weight in model.hf.state_dict().items()}
    other, turn = rotated(model, seed=5), rotation(model.d_model, 5).float()
    sites = ["embed", *(f"{part}.{layer}" for layer in range(4) for part in ("resid_mid", "resid_post"))]
    ours, theirs = (run(one, S, reads=sites) for one in (model, other))
    assert close(theirs.logits[0], ours.logits[0], 1e-4)
    for site in sites:
        assert close(theirs.activations[site][0], ours.activations[site][0] @ turn, 1e-4), site
        assert not close(theirs.activations[site][0], ours.activations[site][0], 0.3), "a rotation that turns nothing"
    assert other.fingerprint != model.fingerprint
    assert all(torch.equal(weight, before[key]) for key, weight in model.hf.state_dict().items())


def test_a_rotation_is_orthogonal_and_its_seeds_differ():
    turn = rotation(48, 1)
    assert torch.allclose(turn @ turn.T, torch.eye(48, dtype=torch.float64), atol=1e-12)
    assert torch.equal(turn, rotation(48, 1)) and not torch.allclose(turn, rotation(48, 2), atol=0.1)


@pytest.mark.parametrize("name", MADE_FROM)
def test_a_truncated_model_holds_what_the_model_holds_and_says_what_it_would(name: str):
    model = tiny_model(name)
    other = truncated(model, 2)
    sites = ["embed", "resid_post.0", "resid_post.1"]
    ours, theirs = capture(model, S, sites), run(other, S, reads=sites)
    assert all(torch.equal(theirs.activations[site][0], ours[site][0]) for site in sites)
    assert close(theirs.logits[0], model.unembed(ours["resid_post.1"][0]), 1e-5)
    assert (other.n_layers, model.n_layers, len(model.blocks)) == (2, 4, 4)


def test_a_made_model_shares_no_weight_with_the_one_it_was_made_of(llama: Model):
    for other in (rotated(llama), truncated(llama, 2)):
        shared = {weight.data_ptr() for weight in llama.hf.parameters()} & {
            weight.data_ptr() for weight in other.hf.parameters()
        }
        assert not shared


def test_a_family_whose_norms_cannot_be_folded_is_refused(family: TinyFamily):
    model = tiny_model(family.name)
    if family.family in LLAMA_TYPE:
        assert rotated(model).n_layers == model.n_layers
        return
    for make in (rotated, lambda one: truncated(one, 2), lambda one: sliced(one, read_texts(HARBOUR), steps=0)):
        with pytest.raises(UsageError, match=f"of family {family.family}; .*RMSNorms"):
            make(model)


def test_folding_leaves_norms_of_queries_alone():
    weights = folded(tiny_model("qwen3"))
    before = tiny_model("qwen3").hf.state_dict()
    assert torch.equal(
        weights["model.layers.1.self_attn.q_norm.weight"].float(), before["model.layers.1.self_attn.q_norm.weight"]
    )
    assert (weights["model.layers.1.input_layernorm.weight"] == 1).all() and (weights["model.norm.weight"] == 1).all()
    narrower = in_basis(weights, rotation(48)[:, :12], 4)
    assert narrower["model.norm.weight"].tolist() == pytest.approx([2.0] * 12)


@pytest.mark.parametrize("n_layers", [0, 5, -1])
def test_a_number_of_blocks_that_cannot_stay_is_refused(llama: Model, n_layers: int):
    with pytest.raises(UsageError, match=f"{n_layers} blocks .* has 4"):
        truncated(llama, n_layers)


def test_a_made_model_is_kept_and_opened_like_any_other(turned: Model, tmp_path):
    studies.save_pair(turned, tmp_path / "kept")
    opened = load(tmp_path / "kept", attention="eager")
    assert torch.equal(run(opened, S).logits[0], run(turned, S).logits[0])
    assert opened.fingerprint != tiny_model("llama").fingerprint


# Slicing


def in_a_subspace(width: int) -> tuple[Model, torch.Tensor]:
    """A model whose residual stream never leaves a subspace of so many dimensions, and the subspace's basis."""
    model = rotated(tiny_model("llama"))
    basis = rotation(model.d_model, 9)[:, :width]
    projector = (basis @ basis.T).float()
    weights = dict(model.hf.state_dict())
    for name, weight in weights.items():
        if "embed_tokens" in name:
            weights[name] = weight @ projector
        elif "o_proj" in name or "down_proj" in name:
            weights[name] = projector @ weight
    return made(model, weights, "in a subspace", tie_word_embeddings=False), basis


def test_a_cut_through_what_is_empty_loses_nothing(texts: Texts):
    model, basis = in_a_subspace(36)
    components, kept = principal_components(model, list(windows(model, texts, length=LENGTH, limit=8)), 36)
    assert kept == pytest.approx(1.0, abs=1e-6)
    assert torch.allclose(components @ components.T, basis @ basis.T, atol=1e-5), "another subspace"
    other = sliced(model, texts, width=36, steps=0, length=LENGTH)
    assert (other.model.d_model, other.model.architecture.d_head) == (36, model.architecture.d_head)
    ours, theirs = (run(one, S, reads=["resid_post.2"]) for one in (model, other.model))
    # A norm's epsilon is added to a mean over fewer numbers: all that is not the same.
    assert close(theirs.logits[0], ours.logits[0], 1e-3)
    assert close(theirs.activations["resid_post.2"][0], ours.activations["resid_post.2"][0] @ other.basis.float(), 1e-3)
    assert other.before.agreement == 1.0 and other.before.kl < 1e-6


def test_components_are_those_of_all_layers_alike_and_the_strongest_first(llama: Model, texts: Texts):
    read = list(windows(llama, texts, length=LENGTH, limit=4))
    components, kept = principal_components(llama, read, 12)
    sites = ["embed", *(f"{part}.{layer}" for layer in range(4) for part in ("resid_mid", "resid_post"))]
    found = capture(llama, read, sites)
    rows = torch.cat([torch.cat(list(found[site])) for site in sites]).double()
    unit = rows / rows.norm(dim=-1, keepdim=True)
    shares = (unit @ components).square().sum(0) / len(unit)
    assert kept == pytest.approx(float(shares.sum()), rel=1e-6) and kept < 1
    assert (shares.diff() <= 1e-9).all()
    singular = torch.linalg.svdvals(unit).square() / len(unit)
    assert torch.allclose(shares, singular[:12], rtol=1e-6), "not the principal ones"


def test_a_re_fit_brings_the_copy_nearer_and_leaves_the_model_alone(llama: Model, texts: Texts, monkeypatch):
    monkeypatch.setattr(slicing, "RATE", 3e-3)  # a tiny model needs larger steps
    before = {key: weight.clone() for key, weight in llama.hf.state_dict().items()}
    found = sliced(llama, texts, width=40, steps=40, length=LENGTH)
    assert found.after.kl < 0.95 * found.before.kl and found.before.n == found.after.n > 50
    assert all(torch.equal(weight, before[key]) for key, weight in llama.hf.state_dict().items())
    assert not any(weight.requires_grad for weight in (*llama.hf.parameters(), *found.model.hf.parameters()))
    assert f"agreement {found.before.agreement:.0%} and then {found.after.agreement:.0%}" in found.describe()


@pytest.mark.parametrize(("width", "said"), [(48, "less than 48"), (35, "width 32"), (0, "width 4")])
def test_a_width_that_cannot_be_is_refused_with_one_that_can(llama: Model, texts: Texts, width: int, said: str):
    with pytest.raises(UsageError, match=said):
        sliced(llama, texts, width=width, length=LENGTH)


def test_a_re_fit_stops_when_it_is_told(llama: Model, texts: Texts):
    stop = Stop()

    def tick(done: int, total: int) -> None:
        assert total == 30
        stop.soon = done == 2
        assert done <= 2

    with pytest.raises(CancelledError, match="re-fit"):
        sliced(llama, texts, steps=30, length=LENGTH, progress=tick, stop=stop)


# What a mapping must find


def test_a_fitted_map_of_a_rotated_pair_is_the_rotation(llama: Model, turned: Model, fitted: Affine):
    turn = rotation(llama.d_model, 5).float()
    for (source, _), term in fitted.terms.items():
        assert (term.weight - turn).abs().max() < 1e-3, source
        assert fitted.fit.held_out[f"{source}>{source}"]["error"] < 1e-8
        assert fitted.fit.held_out[f"{source}>{source}"]["identity_error"] > 1


def test_the_rotated_model_says_in_words_what_the_model_says_of_itself(llama: Model, turned: Model, fitted: Affine):
    source = Source(llama, "New York City", layer="all")
    own = patchscope(source, Target(llama), readout=Generate(6))
    mapped = patchscope(source, Target(turned), mapping=fitted, readout=Generate(6))
    unmapped = patchscope(source, Target(turned), readout=Generate(6))
    texts = [[cell.text for cell in one.cells] for one in (own, mapped, unmapped)]
    assert texts[1] == texts[0] and len(set(texts[0])) > 1
    assert sum(first == second for first, second in zip(texts[2], texts[0], strict=True)) <= 1


def test_identity_fails_and_a_fitted_map_recovers(llama: Model, turned: Model, texts: Texts, fitted: Affine):
    last = {"held_out": 0.08}  # the one document that no map has seen
    fails = cross_model(llama, turned, texts, mapping=Identity(), **ALL_LAYERS, **last)
    recovers = cross_model(llama, turned, texts, mapping=fitted, **SMALL, **last)
    same = cross_model(llama, llama, texts, mapping=Identity(), **ALL_LAYERS, **last)
    for layer in (0, 3):
        assert of(recovers, "same-text", layer, layer)["precision_at_1"] == 1.0
        assert of(fails, "same-text", layer, layer)["precision_at_1"] < 0.2
        assert (
            of(fails, "same-text", layer, layer)["surprisal"] > 2 * of(recovers, "same-text", layer, layer)["surprisal"]
        )
    for layer in range(-1, 4):
        for prompt in COMPARED:
            ours, theirs = of(same, prompt, layer, layer), of(recovers, prompt, layer, layer)
            assert theirs["precision_at_1"] == ours["precision_at_1"], (prompt, layer)
            assert theirs["surprisal"] == pytest.approx(ours["surprisal"], abs=1e-3), (prompt, layer)
    words, own = recovers.described("New York City"), same.described("New York City")
    assert words == {pair: own[pair] for pair in words} and len(set(words.values())) > 1
    assert recovers.unpatched == same.unpatched


def test_an_affine_map_that_changes_nothing_gives_what_identity_gives(llama: Model, texts: Texts):
    site, identity = residual_site(1), model_identity(llama)
    nothing = Affine({(site, site): Term(torch.eye(48), torch.zeros(48))}, Fit("ridge", identity, identity))
    mapped = cross_model(llama, llama, texts, mapping=nothing, **SMALL)
    plain = cross_model(llama, llama, texts, mapping=Identity(), **{**SMALL, "source_layers": 1, "target_layers": 1})
    assert mapped.rows() == plain.rows() and mapped.descriptions == plain.descriptions


def test_the_same_layer_of_the_same_model_changes_nothing_and_the_last_layer_says_it_all(llama: Model, texts: Texts):
    same = cross_model(llama, llama, texts, mapping=Identity(), **ALL_LAYERS)
    for layer in range(-1, 4):
        assert of(same, "same-text", layer, layer)["precision_at_1"] == 1.0
        assert of(same, "same-text", layer, layer)["agreement"] == 1.0
        assert of(same, "same-text", layer, layer)["surprisal_minus_unpatched"] == pytest.approx(0, abs=1e-5)
    for prompt in COMPARED:
        assert of(same, prompt, 3, 3)["precision_at_1"] == 1.0
    assert min(record["surprisal"] for record in same.records) == of(same, "same-text", 3, 3)["surprisal"]


def test_a_truncated_model_takes_the_models_own_representations(llama: Model, texts: Texts):
    other = truncated(llama, 3)
    choices = {**SMALL, "source_layers": (1, 2, 3), "target_layers": (1, 2)}
    found = cross_model(llama, other, texts, mapping=Identity(), **choices)
    # Both hold the same up to there, so that writing it changes nothing of what the shorter model says.
    for layer in (1, 2):
        row = of(found, "same-text", layer, layer)
        assert row["precision_at_1"] == row["unpatched"] == row["agreement"] < 1
    # Behind its last block the shorter model has the model's own norm and unembedding.
    assert of(found, "same-text", 3, 2)["precision_at_1"] == of(found, "token-identity", 3, 2)["precision_at_1"] == 1.0


# Figures and controls


def by_hand(model: Model, source: Model, cell, place) -> tuple[float, float]:
    """One measurement by whole passes."""
    own = run(source, [place.source.ids]).logits[0][place.position].log_softmax(-1)
    writes = []
    if cell.source is not None:
        value = getattr(cell.source, "value", None)
        if value is None:
            site = cell.source.site
            value = capture(source, [place.source.ids], [site])[site][0][place.position]
            value = cell.mapping.apply(value[None], site, cell.site)[0]
        writes = [Write(cell.site, Replace(value), cell.positions)]
    said = run(model, [cell.target.ids], writes=writes).logits[0][-1].argmax()
    return float(said == own.argmax()), float(-own[said])


def test_every_figure_and_every_control_is_the_mean_of_single_plain_passes(llama: Model, texts: Texts):
    other = sliced(llama, texts, steps=0, length=LENGTH).model
    choices = {**SMALL, "positions": 6, "source_layers": (0, 2), "target_layers": (1, 3)}
    result = cross_model(llama, other, texts, **choices)
    crossed = Crossed.of(Crossing.of(llama, other, texts, None, choices))
    places = crossed.asked.places
    expected = {}
    for label in crossed.compared:
        single = [by_hand(other, llama, crossed.cell(label, number), place) for number, place in enumerate(places)]
        expected[label] = [sum(values) / len(values) for values in zip(*single, strict=True)]
    for record in result.records:
        prompt, pair = record["prompt"], (record["source_layer"], record["target_layer"])
        fields = {"precision_at_1": ("mapped", *pair), "random": ("random", *pair), "mean": ("mean", *pair)}
        for field, key in {**fields, "unpatched": ("nothing",)}.items():
            measure = "surprisal" if field == "precision_at_1" else f"{field}_surprisal"
            figures = [record[field], record[measure]]
            assert figures == pytest.approx(expected[Label(prompt, *key)], abs=1e-3), (prompt, pair, field)
        difference = record["precision_at_1"] - record["unpatched"]
        assert record["precision_at_1_minus_unpatched"] == pytest.approx(difference)
        low, high = record["precision_at_1_interval"]
        assert low <= record["precision_at_1"] <= high and record["n"] == 6
    said = [
        [run(one, [place.source.ids]).logits[0][place.position].argmax() for place in places] for one in (llama, other)
    ]
    agreement = sum(bool(first == second) for first, second in zip(*said, strict=True)) / len(places)
    assert all(record["agreement"] == pytest.approx(agreement) for record in result.records)


def test_controls_are_as_long_as_what_the_mapping_gives_and_the_mean_of_it(llama: Model, turned: Model, texts: Texts):
    choices = {**SMALL, "source_layers": (0, 2), "target_layers": (2,)}
    crossed = Crossed.of(Crossing.of(llama, turned, texts, None, choices))
    for pair in ((0, 2), (2, 2)):
        mapped = []
        for place in crossed.asked.places:
            site = residual_site(pair[0])
            value = capture(llama, [place.source.ids], [site])[site][0][place.position]
            mapped.append(crossed.mapping.apply(value[None], site, residual_site(2))[0])
        rows, random = torch.stack(mapped), crossed.random[pair]
        assert torch.allclose(random.norm(dim=-1), rows.norm(dim=-1), rtol=1e-4)
        assert torch.nn.functional.cosine_similarity(random, rows).abs().max() < 0.7
        assert torch.allclose(crossed.means[pair].value, rows.mean(0), atol=1e-4)
    assert not torch.allclose(crossed.random[0, 2], crossed.random[2, 2])


def test_words_are_what_plain_generation_writes(llama: Model, turned: Model, found: CrossModelResult, texts: Texts):
    choices = {**SMALL, "source_layers": (0, 2), "target_layers": (0, 2)}
    crossed = Crossed.of(Crossing.of(llama, turned, texts, None, choices))
    name = "New York City"
    ids = llama.tokenize(name).ids
    for label, cell in zip(crossed.described, crossed.words(name), strict=True):
        if label.written == "mapped":
            site = residual_site(label.source_layer)
            value = crossed.mapping.apply(capture(llama, [ids], [site])[site][0][-1:], site, cell.site)[0]
            said = found.described(name)[label.source_layer, label.target_layer]
        else:
            value, said = cell.source.value, found.random_texts(name)[label.target_layer]
        writes = [Write(cell.site, Replace(value), cell.positions)]
        assert said == generate(turned, [cell.target.ids], writes=writes, max_new_tokens=4)[0].text, label
    assert found.unpatched == generate(turned, [cell.target.ids], max_new_tokens=4)[0].text


def test_a_random_vector_says_less_than_what_was_mapped(found: CrossModelResult):
    for layer in (0, 2):
        row = of(found, "same-text", layer, layer)
        assert max(row["random"], row["mean"]) < 0.5 < row["precision_at_1"]
        assert min(row["random_surprisal"], row["mean_surprisal"]) > row["surprisal"] + 1


# Other widths and other tokenizers


def test_another_width_is_refused_without_a_map_and_measured_with_one(llama: Model, texts: Texts):
    other = sliced(llama, texts, steps=0, length=LENGTH).model
    with pytest.raises(UsageError, match=r"of width \(?48.* where the width is \(?36"):
        cross_model(llama, other, texts, mapping=Identity(), **SMALL)
    found = cross_model(llama, other, texts, **{**SMALL, "source_layers": 1, "target_layers": 1})
    assert len(found.records) == 2 and found.descriptions


def own_tokenizer() -> PreTrainedTokenizerFast:
    """As many tokens as the other, of other merges: longer words are kept apart less."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        show_progress=False,
        special_tokens=[PAD, EOS, BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(HARBOUR.read_text().splitlines() + CORPUS[-12:], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS, bos_token=BOS)


@pytest.fixture(scope="module")
def foreign() -> Model:
    return wrap(ALL["llama"].build(seed=4), own_tokenizer(), name="foreign")


def test_a_model_with_a_tokenizer_of_its_own_is_described_and_not_compared(llama: Model, foreign: Model, texts: Texts):
    assert llama.vocabulary == foreign.vocabulary, "sizes alone would not tell the tokenizers apart"
    assert llama.tokenize(S).texts != foreign.tokenize(S).texts
    found = cross_model(llama, foreign, texts, **{**SMALL, "source_layers": (0, 3), "target_layers": (0, 3)})
    assert found.records == () and len(found.descriptions) == 4
    assert any("next tokens are not compared" in note for note in found.notes)
    assert "next tokens are not compared" in found.page()
    with pytest.raises(UsageError, match="no name was given .* different vocabularies"):
        cross_model(llama, foreign, texts, **{**SMALL, "names": ()})


def test_shared_places_are_where_both_models_have_read_the_same(llama: Model, foreign: Model, texts: Texts):
    places = draw_shared_places(llama, foreign, texts, positions=40, length=LENGTH, seed=1)
    assert len(places) == 40 and len({(place.window, place.position) for place in places}) == 40
    for place in places:
        ours = llama.decode(place.source.ids[: place.position + 1])
        assert ours == foreign.decode(place.target.ids) == place.target.text
        assert place.position > 0 and len(place.target) > 1
    assert any(len(place.target) != place.position + 1 for place in places), "tokenizers that cut alike prove nothing"
    assert places == draw_shared_places(llama, foreign, texts, positions=40, length=LENGTH, seed=1)
    assert places != draw_shared_places(llama, foreign, texts, positions=40, length=LENGTH, seed=2)


def test_a_text_that_is_too_short_is_refused_with_the_numbers(llama: Model, texts: Texts):
    with pytest.raises(UsageError, match="end together at [0-9,]+ positions. Try: --positions [0-9]+"):
        draw_shared_places(llama, llama, texts, positions=100_000, length=LENGTH)


# What is asked


def test_a_mapping_says_which_layers_and_is_refused_for_others(
    llama: Model, turned: Model, texts: Texts, fitted: Affine
):
    found = cross_model(llama, turned, texts, mapping=fitted, **{**SMALL, "names": ()})
    assert [*found.of("same-text")] == [*found.of("token-identity")] == [(layer, layer) for layer in range(-1, 4)]
    with pytest.raises(UsageError, match="this ridge has"):
        cross_model(llama, turned, texts, mapping=fitted, **{**SMALL, "source_layers": 0, "target_layers": 1})
    with pytest.raises(UsageError, match="belongs to the very weights"):
        cross_model(turned, llama, texts, mapping=fitted, **SMALL)
    with pytest.raises(UsageError, match="the length of what it replaces"):
        cross_model(llama, turned, texts, mapping=NormMatch(), **SMALL)
    with pytest.raises(UsageError, match="the mapping is to be fitted on some"):
        cross_model(llama, turned, texts, held_out=1, **SMALL)


def test_layers_are_every_fifth_unless_said(texts: Texts):
    twelve = replace(ALL["llama"], settings={**ALL["llama"].settings, "num_hidden_layers": 12})
    model = wrap(twelve.build(), tiny_tokenizer(), name="twelve")
    asked = Crossing.of(model, tiny_model("llama"), texts, None, {"positions": 4, "length": LENGTH})
    assert asked.pairs == ((0, 0), (5, 0), (10, 0))


# The planner, the store, and what comes out


def test_a_text_is_run_once_for_all_that_is_written_into_it(llama: Model, turned: Model, texts: Texts):
    told = {}
    cross_model(
        llama,
        turned,
        texts,
        mapping=Identity(),
        planned=told.update,
        **ALL_LAYERS,
    )
    plan = told["windows"]
    assert plan.target_passes == 12 + 1, "the clean pass of each place's text, and of the token-identity prompt"
    assert plan.source_passes == 3, "a window has four places"
    assert plan.token_layers < plan.naive_token_layers / 20
    assert len(told["words"].cells) == 1 + 25 + 5


def test_nothing_is_measured_twice_and_the_store_changes_no_figure(llama: Model, turned: Model, texts: Texts, tmp_path):
    choices = {**SMALL, "source_layers": (0, 2), "target_layers": (0, 2)}
    plain = cross_model(llama, turned, texts, **choices)
    with Store(tmp_path) as store:
        first = cross_model(llama, turned, texts, store=store, **choices)
        again = cross_model(llama, turned, texts, store=store, **choices)
        other = cross_model(llama, turned, texts, store=store, **{**choices, "seed": 4})
    assert first.timing["computed"] == first.timing["cells"] and again.timing["computed"] == 0
    assert other.timing["computed"] > 0
    assert plain.records == first.records == again.records
    assert plain.descriptions == first.descriptions == again.descriptions
    assert first.run == again.run != other.run


def test_a_study_that_was_stopped_goes_on(llama: Model, turned: Model, texts: Texts, tmp_path, monkeypatch):
    monkeypatch.setattr("bathyscope.studies.cross_model_study.portions.WINDOWS", 1)
    choices = {**SMALL, "mapping": Identity(), "source_layers": 1, "target_layers": 1}
    stop, seen = Stop(), []

    def tick(done: int, total: int) -> None:
        seen.append((done, total))
        stop.soon = done > total // 3

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            cross_model(llama, turned, texts, store=store, progress=tick, stop=stop, **choices)
        rest = cross_model(llama, turned, texts, store=store, **choices)
    assert 0 < rest.timing["computed"] < rest.timing["cells"]
    assert rest.records == cross_model(llama, turned, texts, **choices).records
    assert all(0 <= done <= total for done, total in seen)


def test_a_result_is_saved_loaded_and_shown(found: CrossModelResult, tmp_path):
    loaded = Result.load(found.save(tmp_path / "study.json"))
    assert isinstance(loaded, CrossModelResult) and loaded.to_json() == found.to_json()
    data = json.loads(found.to_json())
    assert data["kind"] == "cross-model"
    fields = {
        "source_layer",
        "target_layer",
        "precision_at_1",
        "surprisal",
        "n",
        "unpatched",
        "random",
        "mean",
        "agreement",
    }
    assert all(fields <= row.keys() for row in data["rows"]) and len(data["rows"]) == 8
    assert all(one.keys() == {"name", "source_layer", "target_layer", "text"} for one in data["descriptions"])
    page = replace(found, descriptions=({**found.descriptions[0], "text": "<script>"}, *found.descriptions[1:])).page()
    assert "&lt;script&gt;" in page and "<script>" not in page
    for record in found.records:
        assert f"{record['precision_at_1']:.3f}" in page


def test_a_plot_is_drawn_and_is_the_same_bytes_again(found: CrossModelResult, tmp_path):
    pytest.importorskip("matplotlib")
    for ending, begins in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        first = plots.save_heat_maps(found, tmp_path / f"a{ending}").read_bytes()
        assert first.startswith(begins) and first == plots.save_heat_maps(found, tmp_path / f"b{ending}").read_bytes()
    changed = replace(found, records=({**found.records[0], "precision_at_1": 0.123}, *found.records[1:]))
    drawn = plots.save_heat_maps(changed, tmp_path / "c.svg").read_bytes()
    assert drawn != (tmp_path / "a.svg").read_bytes()
    with pytest.raises(UsageError, match="without figures"):
        plots.save_heat_maps(replace(found, records=()), tmp_path / "d.svg")


# The command line


def test_the_command_prints_json_or_tables_and_keeps_the_pair(bathyscope, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATHYSCOPE_CACHE", str(tmp_path / "cache"))
    common = ["study", "cross-model", "--text", str(HARBOUR), "--source-model", tiny, "--positions", "8"]
    common += ["--layers", "0,2", "--target-layers", "0,2", "--name", "New York City"]
    done = bathyscope(*common, "--pair", "rotated", "--keep", "kept", "--out", "study.html", "--json")
    assert done.code == 0, done.err
    data = done.json()
    assert {(row["source_layer"], row["target_layer"]) for row in data["rows"]} == {(0, 0), (0, 2), (2, 0), (2, 2)}
    assert {one["name"] for one in data["descriptions"]} == {"New York City"} and (tmp_path / "study.html").is_file()
    shown = bathyscope(*common, "--target-model", "kept", "--mapping", "identity", "--explain")
    assert shown.code == 0, shown.err
    assert "a random vector" in shown.out and "nothing written:" in shown.out and "the two models agree at" in shown.out
    assert all(len(line) <= 100 for line in shown.out.splitlines()) and "common target passes" in shown.err
    again = bathyscope(*common, "--pair", "rotated", "--mapping", "identity", "--json")
    figures = [row["precision_at_1"] for row in again.json()["rows"]]
    assert sum(figures) < sum(row["precision_at_1"] for row in data["rows"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no second model was given"),
        (["--pair", "rotated", "--target-model", "x"], "both --target-model x and --pair rotated"),
        (["--pair", "mirrored"], "rotated, sliced, truncated"),
        (["--pair", "rotated:3"], "--pair rotated:3 was given"),
        (["--pair", "rotated", "--mapping", "identity", "--fit-positions", "9"], "either given or fitted"),
        (["--target-model", "x", "--keep", "y"], "only a model that is made here"),
        (["--pair", "rotated", "--layers", "3-1"], "run backwards"),
        (["--pair", "rotated", "--plot", "a.pdf"], "must end in .png or .svg"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(bathyscope, arguments, said):
    done = bathyscope("study", "cross-model", "--text", str(HARBOUR), *arguments)
    assert done.code == 2 and done.out == ""
    command_line.assert_one_line(done, said)


# The embedded model


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.timeout(1200)
def test_in_the_embedded_model_identity_fails_across_a_rotation_and_a_fitted_map_recovers(texts: Texts):
    model = load()
    other = rotated(model)
    choices = {"positions": 20, "source_layers": (10, 20), "target_layers": (10, 20), "new_tokens": 6, "length": 64}
    fails = cross_model(model, other, texts, mapping=Identity(), **choices)
    with pytest.warns(match="was fitted on"):
        fitted = cross_model(model, other, texts, **choices)
    site, fit = residual_site(10), Fit("procrustes", model_identity(model), model_identity(other))
    exact = Affine({(site, site): Term(rotation(model.d_model).float())}, fit)
    choices_of_it = {**choices, "source_layers": None, "target_layers": None}
    recovers = cross_model(model, other, texts, mapping=exact, **choices_of_it)
    own = cross_model(model, model, texts, mapping=Identity(), **choices)
    assert of(fails, "same-text", 10, 10)["precision_at_1"] < 0.2 < of(fitted, "same-text", 10, 10)["precision_at_1"]
    assert of(recovers, "same-text", 10, 10)["precision_at_1"] == 1.0
    assert recovers.described("New York City")[10, 10] == own.described("New York City")[10, 10]
