"""Facts: tables without holes, templates that ask, questions that join, and files that are told from wrong ones."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import bathyscope
from bathyscope import embedded
from bathyscope.errors import StorageError, UsageError
from bathyscope.facts import (
    Fact,
    Relation,
    contexts,
    entities,
    load_entities,
    load_relation,
    own_relation,
    own_relations,
    split_words,
    two_hops,
)

FOLDER = files("bathyscope") / "data"
RELATIONS = sorted(Path(str(FOLDER / "relations")).glob("*.json"))
TEMPLATES = ("prompt_templates", "prompt_templates_zs", "extraction_template", "hop1_template")


def raw(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def relation(**fields) -> dict:
    return {
        "name": "fruit colour",
        "prompt_templates": ["On the outside, {} are"],
        "samples": [{"subject": "limes", "object": "green"}, {"subject": "lemons", "object": "yellow"}],
        **fields,
    }


def written(folder: Path, data) -> Path:
    path = folder / "relation.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return path


# The tables


@pytest.mark.parametrize("path", RELATIONS, ids=lambda path: path.stem)
def test_a_table_has_no_empty_cell_no_double_and_an_order(path: Path):
    data = raw(path)
    assert data["name"] == path.stem.replace("_", "-")
    subjects = [sample["subject"] for sample in data["samples"]]
    cells = [cell for sample in data["samples"] for cell in (sample["subject"], sample["object"])]
    assert all(cell == cell.strip() != "" for cell in cells)
    assert subjects == sorted(subjects)
    assert len(set(subjects)) == len(subjects) >= 40, "a subject with two objects would have no right answer"
    assert all(set(sample) == {"subject", "object"} for sample in data["samples"])


@pytest.mark.parametrize("path", RELATIONS, ids=lambda path: path.stem)
def test_every_template_has_one_place_and_asks_for_what_comes_next(path: Path):
    data = raw(path)
    for name in TEMPLATES:
        for template in [data.get(name, "{}")] if isinstance(data.get(name, ""), str) else data[name]:
            assert template.count("{}") == 1, (name, template)
    assert data["extraction_template"].endswith(" {}")
    assert "{" not in data["hop2_template"]
    objects = {sample["object"] for sample in data["samples"]}
    for template in (*data["prompt_templates"], *data["prompt_templates_zs"]):
        assert not template.endswith("{}")
        assert not objects & set(re.findall(r"\w+", template)), "a template may not say an answer"


def test_there_are_enough_tables_and_most_have_classes():
    relations = own_relations()
    assert len(relations) >= 8
    assert list(relations) == sorted(relations)
    with_classes = [one for one in relations.values() if 2 * len(one.objects) <= len(one.facts) + 10]
    assert len(with_classes) >= 8


def test_no_object_is_written_in_two_ways():
    objects = {fact.object for one in own_relations().values() for fact in one.facts}
    subjects = {
        fact.subject for name, one in own_relations().items() if name.startswith("country") for fact in one.facts
    }
    assert len({text.casefold().replace(" ", "") for text in objects | subjects}) == len(objects | subjects)
    for name in ("landmark-country", "city-country", "dish-country", "company-country"):
        assert set(own_relation(name).objects) <= subjects, f"a country of {name} has no facts"


def test_entities_are_many_described_in_few_words_and_different():
    found = entities()
    assert len(found) >= 120
    assert len({one.name for one in found}) == len(found)
    assert [(one.type, one.name) for one in found] == sorted((one.type, one.name) for one in found)
    assert all(1 < len(one.description.split()) <= 12 for one in found)
    assert min([one.type for one in found].count(kind) for kind in {one.type for one in found}) >= 10
    assert len({one.name[0] for one in found}) >= 20


def test_words_to_split_are_single_and_a_gloss_is_no_part_of_its_word():
    found = split_words()
    assert [one.word for one in found] == sorted({one.word for one in found})
    assert len(found) >= 60
    for one in found:
        assert re.fullmatch("[a-z]{5,}", one.word)
        assert re.fullmatch("[a-z]{3,}", one.gloss)
        assert one.gloss not in one.word


def test_sentences_end_in_their_subject():
    assert len(set(contexts())) == len(contexts()) >= 8
    assert all(re.fullmatch(r"[A-Z][^{}]+ \{\}", one) for one in contexts())


@pytest.mark.embedded
@pytest.mark.skipif(not embedded.embedded_status().cached, reason="the embedded model is not in the cache")
def test_the_embedded_model_splits_every_word_and_names_of_all_lengths():
    model = bathyscope.load()
    for one in split_words():
        assert len(model.tokenize(one.word)) >= 2, one.word
        assert len(model.tokenize(f" {one.word}")) >= 2, one.word
    lengths = [len(model.tokenize(one.name)) for one in entities()]
    assert all(lengths.count(length) >= 5 for length in (1, 2, 3, 4))
    assert max(lengths) >= 6


# Two hops


def test_questions_join_an_object_with_a_subject_of_the_same_letters():
    asked = two_hops(own_relations().values())
    assert len(asked) >= 200
    assert len({(one.query, one.answer) for one in asked}) == len(asked)
    for one in asked:
        assert one.first.object == one.second.subject
        assert one.first in own_relation(one.first_relation).facts
        assert one.second in own_relation(one.second_relation).facts
        assert one.first.subject in one.query
        assert one.first.object not in one.hop1


def test_a_question_is_made_of_both_phrases():
    first = Relation(
        "a", (Fact("x", "y"), Fact("p", "q")), ("{} is",), ("{} is",), "of {}", hop1_template="the a of {}"
    )
    second = Relation("b", (Fact("y", "z"), Fact("y", "x")), ("{} is",), ("{} is",), "of {}", hop2_template="The b of")
    (asked,) = two_hops([first, second])
    assert (asked.query, asked.answer) == ("The b of the a of x", "z"), "what leads back to x is no question"
    assert two_hops([first]) == ()


# Files


def test_a_public_file_is_read_and_its_extraction_template_said(tmp_path: Path):
    data = relation(
        prompt_templates_zs=["{} are the colour of", "The colour of {} is"], properties={"symmetric": False}
    )
    found = load_relation(written(tmp_path, data))
    assert found.facts == (Fact("limes", "green"), Fact("lemons", "yellow"))
    assert (found.extraction_template, found.extraction_from) == ("The colour of {}", "The colour of {} is")
    assert found.zero_shot_templates == ("{} are the colour of", "The colour of {} is")
    assert found.ask("limes") == "limes are the colour of"
    assert (found.hop1_template, found.hop2_template) == (None, None)
    assert found.properties == {"symmetric": False}


def test_a_pair_that_is_there_twice_is_taken_once(tmp_path: Path):
    data = relation()
    data["samples"] += data["samples"]
    assert len(load_relation(written(tmp_path, data)).facts) == 2


def test_own_files_and_the_loader_agree():
    for path in RELATIONS:
        assert load_relation(path) == own_relation(path.stem.replace("_", "-"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("[1, 2", "is not JSON"),
        ([], "holds a list"),
        (relation(name=None), "name of .* is missing"),
        (relation(prompt_templates=[]), "has no templates"),
        (relation(prompt_templates="On the outside, {} are"), "must be a list"),
        (relation(prompt_templates=["On the outside, they are"]), "place {} must be in it once"),
        (relation(prompt_templates=["{} and {}"]), "place {} must be in it once"),
        (relation(samples=[]), "has no samples"),
        (relation(samples=[["limes", "green"]]), "sample 1 of .* must be an object"),
        (relation(samples=[{"subject": "limes", "object": " "}]), "object of sample 1"),
        (relation(samples=[{"subject": "limes"}]), "object of sample 1 .* is missing"),
        (relation(samples=[{"subject": 3, "object": "green"}]), "subject of sample 1 .* is 3"),
        (relation(extraction_template="The colour"), "extraction_template"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, data, said: str):
    with pytest.raises((UsageError, StorageError), match=said):
        load_relation(written(tmp_path, data))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"none\.json could not be read"):
        load_relation(tmp_path / "none.json")


def test_an_unknown_relation_is_told_which_there_are():
    with pytest.raises(UsageError, match="country-capital"):
        own_relation("country-king")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "no list of entities"),
        ({"name": "Paris"}, "no list of entities"),
        (["Paris"], "entity 1 .* lacks everything"),
        ([{"name": "Paris", "type": "city", "description": ""}], "lacks description"),
        ([{"name": "Paris", "type": "city", "description": "City"}] * 2, "'Paris' twice"),
    ],
)
def test_a_wrong_list_of_entities_is_told_what_is_wrong(tmp_path: Path, data, said: str):
    with pytest.raises(UsageError, match=said):
        load_entities(written(tmp_path, data))


def test_facts_load_no_model_library():
    code = "import sys, bathyscope.facts as f; f.own_relations(), f.entities(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
