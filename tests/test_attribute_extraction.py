"""Attribute extraction: each text is a single plain run's, cells are chosen without their items, controls are alike."""

import json

import numpy
import pytest
import torch

import command_line
from bathyscope import Model, Store, capture, facts, generate, run, studies
from bathyscope.controls import random_vector
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.facts import Fact, Relation
from bathyscope.interventions import Replace, Write
from bathyscope.probing import Example, Folds, predictions, representations
from bathyscope.results import Result
from bathyscope.sites import residual_site
from bathyscope.studies.attribute_extraction_study.asked import Asked, some_layers
from bathyscope.studies.attribute_extraction_study.items import relation_items
from bathyscope.studies.attribute_extraction_study.table import Table
from bathyscope.studies.paired import by_subject, cross_fitted, halves, sign_flip
from conftest import tiny_model

pytest.importorskip("sklearn")

bathyscope, tiny = command_line.bathyscope, command_line.tiny

WHERE = {"France": "river", "Italy": "sea", "Spain": "river", "Syria": "sea", "Wales": "river", "London": "tower"}
RELATION = Relation(
    "where", tuple(Fact(*pair) for pair in WHERE.items()), ("{} is",), ("{} is",), "The largest city in {}"
)
FILE = {
    "name": "where",
    "prompt_templates": ["The place of {} is"],
    "samples": [{"subject": subject, "object": name} for subject, name in WHERE.items()],
}


def study(model: Model, relation: Relation = RELATION, **choices):
    asked = {"layers": "0,2", "new_tokens": 4, **choices}
    return studies.attribute_extraction(model, [relation], **asked)


def saying(model: Model, text: str, layer: int, value: torch.Tensor, place: int, norm: bool = False) -> str:
    write = Write(residual_site(layer), Replace(value, norm), place)
    return generate(model, text, writes=[write], max_new_tokens=4)[0].text


# The texts


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "falcon"])
def test_every_text_is_that_of_a_plain_run(family: str):
    model = tiny_model(family)
    asked = Asked.of(model, [RELATION], {"layers": "0,2", "new_tokens": 4, "seed": 2})
    measuring = asked.measuring(2**30)
    values = measuring.run().values
    relation, items = asked.relations[0], asked.relations[0].items
    target, (place,) = relation.inspection.tokens.text, relation.inspection.positions
    assert target == "The largest city in x" and relation.inspection.tokens.texts[place].strip() == "x"
    sites = [residual_site(layer) for layer in (0, 2)]
    held = [capture(model, item.source, sites) for item in items]
    for item, read, found in zip(items, held, values[1:], strict=True):
        texts = found["texts"]
        for row, site in enumerate(sites):
            for column, layer in enumerate((0, 2)):
                expected = saying(model, target, layer, read[site][0][item.position], place)
                assert texts[found["grid"][row][column]] == expected
            final = Write(residual_site(3), Replace(read[site][0][item.position]), len(model.tokenize("any text")) - 1)
            ranked = run(model, "any text", writes=[final]).logits[0][-1].topk(10).indices.tolist()
            assert found["logit_lens"][row] == ranked
        for column, layer in enumerate((0, 2)):
            drawn = random_vector(f"{item.source.text}|{residual_site(layer)}", (model.d_model,), seed=2)
            assert texts[found["random"][column]] == saying(model, target, layer, drawn, place, norm=True)
        prompted = generate(model, f"The largest city in {item.subject}", max_new_tokens=4)[0].text
        assert texts[found["prompting"]] == prompted
    whole = values[0]
    assert whole["texts"][whole["unpatched"]] == generate(model, target, max_new_tokens=4)[0].text
    for column, layer in enumerate((0, 2)):
        zeros = saying(model, target, layer, torch.zeros(model.d_model), place)
        assert whole["texts"][whole["no_activation"][column]] == zeros
        for row, site in enumerate(sites):
            mean = torch.stack([read[site][0][item.position] for read, item in zip(held, items, strict=True)]).mean(0)
            assert whole["texts"][whole["mean"][row][column]] == saying(model, target, layer, mean, place)


def test_a_subject_stands_in_a_sentence_that_says_nothing_of_it(llama: Model):
    found = relation_items(llama, RELATION, n_contexts=3, seed=1)
    assert len(found.items) == 18
    for item in found.items:
        assert item.subject in item.source.text and not item.given
        assert item.source.texts[item.position] and item.source.text[: item.source.offsets[item.position][1]].endswith(
            item.subject
        )
    assert len({item.source.text for item in found.items}) == 18


def test_the_placeholder_is_found_where_the_subject_was(llama: Model):
    relation = Relation("x", RELATION.facts, ("{} a",), ("{} a",), "In x and {} they say x is")
    found = relation_items(llama, relation).inspection
    assert [found.tokens.texts[place].strip() for place in found.positions] == ["x"]
    assert found.tokens.offsets[found.positions[0]][1] == len("In x and x")


def test_fewer_pairs_are_among_more(llama: Model):
    drawn = [{item.source.text for item in relation_items(llama, RELATION, pairs=n, seed=1).items} for n in (2, 4, 6)]
    assert [len(found) for found in drawn] == [2, 4, 6] and drawn[0] < drawn[1] < drawn[2]


# Scoring


def fake(asked: Asked, texts: dict[str, list[list[str]]], random: str = "nothing") -> list[dict]:
    """What portions would give, with a text for each subject and cell."""
    whole = {"texts": ["nothing"], "unpatched": 0, "no_activation": [0, 0], "mean": [[0, 0], [0, 0]]}
    found = [whole]
    for item in asked.relations[0].items:
        grid = texts[item.subject]
        distinct = sorted({*grid[0], *grid[1], random})
        found.append(
            {
                "texts": distinct,
                "grid": [[distinct.index(text) for text in row] for row in grid],
                "random": [distinct.index(random)] * 2,
                "prompting": distinct.index(random),
                "logit_lens": [[item.first_token], [0]],
            }
        )
    return found


def test_a_cell_that_is_right_for_each_by_chance_is_an_oracle_and_no_finding(llama: Model):
    """Half are right at one target layer and half at the other: an oracle has all, a chosen cell about half."""
    asked = Asked.of(llama, [RELATION], {"layers": "0,2", "new_tokens": 4})
    first = set(list(WHERE)[::2])
    texts = {
        subject: [[f"the {name}" if (subject in first) == (column == 0) else "no" for column in range(2)]] * 2
        for subject, name in WHERE.items()
    }
    (record, _) = Table.of(asked, asked.relations[0], fake(asked, texts)).records(1)
    assert record["patchscope_oracle"] == 1.0 and record["patchscope"] < 1.0
    assert record["control_random_oracle"] == record["control_unpatched"] == record["control_mean_oracle"] == 0.0


def test_a_figure_counts_what_it_says(llama: Model):
    asked = Asked.of(llama, [RELATION], {"layers": "0,2", "new_tokens": 4})
    texts = {subject: [[name, "no"], ["no", f"A {name.upper()}!"]] for subject, name in WHERE.items()}
    records = list(Table.of(asked, asked.relations[0], fake(asked, texts, random="the river")).records(4))
    assert [record["patchscope"] for record in records] == [1.0, 1.0]
    assert [record["target_layers"] for record in records] == [[0, 0], [2, 2]]
    assert [record["control_random"] for record in records] == [0.5, 0.5]
    assert [record["control_prompting"] for record in records] == [0.5, 0.5]
    assert [record["logit_lens"] for record in records] == [1.0, 0.0]
    # Every shuffled sentence is that of another object.
    assert [record["control_shuffled_oracle"] for record in records] == [0.0, 0.0]
    record = records[0]
    assert (record["n"], record["n_classes"], record["n_learnable"]) == (6, 3, 5)
    assert record["p_bonferroni"] == min(1, 4 * record["p"])
    wins = round(6 * record["patchscope_minus_probe"])
    assert record["p"] == pytest.approx(2 * 0.5**wins) and wins > 0


def test_the_probe_is_that_of_the_same_items_by_subject(llama: Model):
    found = study(llama, seed=3)
    asked = Asked.of(llama, [RELATION], {"layers": "0,2", "seed": 3})
    items = asked.relations[0].items
    labels, subjects = [item.object for item in items], [item.subject for item in items]
    read = representations(llama, [Example(item.source.text, item.subject, item.object) for item in items], [0, 2])
    folds = Folds.by_subject(subjects, labels, k=3, seed=3)
    for record in found.records:
        right = numpy.array(predictions(read[record["layer"]], labels, folds)) == numpy.array(labels)
        assert record["probe"] == right.mean()
        assert record["probe_learnable"] == right[folds.learnable].mean()


def test_answers_that_are_in_the_text_already_are_counted_and_left_out(llama: Model):
    given = (*RELATION.facts, Fact("France and Italy", "Italy"), Fact("Diana", "largest"))
    found = study(llama, Relation("where", given, ("{} is",), ("{} is",), "The largest city in {}"))
    assert found.records[0]["n_answer_in_text"] == 2 and found.records[0]["n"] == 6
    assert any("already: where 2" in note for note in found.notes)
    every = Relation("all", (Fact("Rome of Italy", "Italy"), Fact("a city", "city")), ("{} is",), ("{} is",), "In {}")
    with pytest.raises(UsageError, match="stands in no text already"):
        study(llama, every)


def test_a_sentence_that_offers_the_answers_is_passed_over(llama: Model):
    offering = "Is {} a river, a sea or a tower? It is a"
    relation = Relation("where", RELATION.facts, ("{} has a",), (offering,), offering)
    found = relation_items(llama, relation)
    assert found.template == "{} has a" and not any(item.given for item in found.items)
    every = Relation("all", RELATION.facts, (offering,), (offering,), offering)
    both = studies.attribute_extraction(llama, [RELATION, every], layers="0", new_tokens=2)
    assert both.relations == ("where",) and any("left out" in note and "all" in note for note in both.notes)


def test_halves_and_choices_never_look_at_what_they_score():
    generator = numpy.random.default_rng(0)
    subjects = [f"s{number // 2}" for number in range(40)]
    half = halves(subjects, seed=1)
    assert all(half[row] == half[row + 1] for row in range(0, 40, 2)) and abs(half.mean() - 0.5) < 0.1
    right = generator.random((40, 7)) < 0.3
    found = cross_fitted(right, half)
    for row in range(40):
        changed = right.copy()
        changed[half == half[row]] = generator.random(7) < 0.5
        assert cross_fitted(changed, half).chosen[half[row]] == found.chosen[half[row]]
    chance = [
        cross_fitted(generator.random((40, 50)) < 0.2, halves(range(40), seed=seed)).right.mean() for seed in range(60)
    ]
    assert abs(numpy.mean(chance) - 0.2) < 0.02, "chosen on other items, the best of 50 is no better than one"


def test_the_exact_test_is_mcnemars_and_that_of_all_signs():
    from itertools import product
    from math import comb

    assert sign_flip([1] * 9 + [-1] * 2 + [0] * 5) == pytest.approx(
        sum(comb(11, k) for k in (0, 1, 2, 9, 10, 11)) / 2**11
    )
    for given in ([3, -1, 2, 2], [1, 1, 5], [0, 0], [-4, 1, 1, 1, 2]):
        signs = [
            abs(sum(s * abs(d) for s, d in zip(one, given, strict=True))) for one in product((1, -1), repeat=len(given))
        ]
        assert sign_flip(given) == pytest.approx(numpy.mean([size >= abs(sum(given)) for size in signs]))
    assert by_subject([1, 1, -1, 0], ["a", "b", "a", "b"]) == [0, 1]


@pytest.mark.parametrize("n_layers", [4, 9, 10, 12, 13, 14, 28, 30, 80])
def test_ten_layers_are_spread_over_all_and_many_are_early(n_layers: int):
    found = some_layers(n_layers)
    assert len(found) == min(10, n_layers + 1) and len(set(found)) == len(found) and list(found) == sorted(found)
    assert found[0] == -1 and found[-1] == n_layers - 1
    assert sum(0 <= layer <= 5 for layer in found) >= min(3, n_layers)


# Runs


def test_a_study_goes_on_where_it_was_stopped(llama: Model, tmp_path, monkeypatch):
    monkeypatch.setattr("bathyscope.studies.attribute_extraction_study.asked.CELLS_AT_ONCE", 10)
    plain = study(llama)
    stop = Stop()

    def tick(done: int, total: int) -> None:
        assert 0 <= done <= total
        stop.soon = done > 40

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            study(llama, store=store, stop=stop, progress=tick)
        resumed = study(llama, store=store)
        again = study(llama, store=store)
    assert 0 < resumed.timing["computed"] < resumed.timing["cells"] and again.timing["computed"] == 0
    assert plain.records == resumed.records == again.records and plain.summary == again.summary


def test_a_subject_with_two_objects_is_one_sentence(llama: Model, tmp_path):
    relation = Relation(
        "where", (*RELATION.facts, Fact("France", "sea")), ("{} is",), ("{} is",), "The largest city in {}"
    )
    with Store(tmp_path) as store:
        found = study(llama, relation, store=store)
    assert found.records[0]["n"] == 7


def test_results_are_saved_drawn_and_shown(llama: Model, tmp_path):
    from bathyscope import plots

    pytest.importorskip("matplotlib")
    found = study(llama)
    loaded = Result.load(found.save(tmp_path / "study.json"))
    assert json.loads(loaded.to_json()) == json.loads(found.to_json())
    assert "ORACLE patchscope" in found.to_html()
    assert "ORACLE" in plots.save_curves(found, tmp_path / "study.svg").read_text()


def test_what_cannot_be_is_refused(llama: Model):
    with pytest.raises(UsageError, match="contexts a pair"):
        study(llama, contexts=0)
    with pytest.raises(UsageError, match="at least one"):
        studies.attribute_extraction(llama, [])
    with pytest.raises(UsageError, match="each once"):
        studies.attribute_extraction(llama, [RELATION, RELATION])


# The command line


def test_the_command_prints_the_contract(bathyscope, tiny, tmp_path):
    path = tmp_path / "where.json"
    path.write_text(json.dumps(FILE))
    asked = (
        "study",
        "attribute-extraction",
        "--relation",
        str(path),
        "--model",
        tiny,
        "--new-tokens",
        "3",
        "--no-store",
    )
    data = bathyscope(*asked, "--json").json()
    assert data["kind"] == "attribute-extraction"
    wanted = {
        "relation",
        "layer",
        "patchscope",
        "patchscope_oracle",
        "probe",
        "control_unpatched",
        "control_random",
        "n",
    }
    assert len(data["rows"]) == 5 and all({*wanted, "n_classes"} <= set(row) for row in data["rows"])
    done = bathyscope(*asked, "--explain", "--out", str(tmp_path / "a.html"), "--plot", str(tmp_path / "a.svg"))
    assert done.code == 0, done.err
    assert "Oracles: right at ANY layer" in done.out and "By the layer that is read" in done.out
    assert "cells in 1 parts" in done.err and (tmp_path / "a.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--relation", "nowhere"], "no relation is called 'nowhere'"),
        (["--relation", "nowhere.json"], "could not be read"),
        (["--relation", "country-capital", "--pairs", "0"], "--pairs 0 was given"),
        (["--relation", "country-capital", "--layers", "9-3"], "--layers"),
        (["--relation", "country-capital", "--layers", "99"], "layer 99 does not exist"),
    ],
)
def test_what_was_typed_wrong_is_said_in_one_line(bathyscope, tiny, arguments, fragment):
    done = bathyscope("study", "attribute-extraction", "--model", tiny, "--no-store", *arguments)
    command_line.assert_one_line(done)
    assert done.code == 2, done.err


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_says_a_class_of_animals_and_random_vectors_do_not():
    from bathyscope import load

    (record,) = studies.attribute_extraction(
        load(), [facts.own_relation("country-capital")], layers="3", target_layers="0-5", pairs=12, new_tokens=12
    ).records
    assert record["patchscope_oracle"] > record["control_random_oracle"] + 0.2
    assert record["control_shuffled_oracle"] <= 0.1 and record["control_unpatched"] == 0.0
