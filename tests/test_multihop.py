"""Two hops: both configurations are one where positions do not matter, counts count, and controls are patches too."""

import json
from collections import Counter

import numpy
import pytest
import torch

import command_line
from bathyscope import Model, Store, capture, facts, generate, loading, studies
from bathyscope.controls import random_vector
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.facts import Fact, Relation, TwoHop
from bathyscope.interventions import Replace, Write
from bathyscope.results import Result
from bathyscope.sites import residual_site
from bathyscope.studies.measuring import Measuring
from bathyscope.studies.multihop_study.portions import Layers, PatchPortion, hidden_from_each_other
from bathyscope.studies.multihop_study.queries import Answered, Split, answer_all, draw_queries
from bathyscope.studies.multihop_study.table import Measured, records
from conftest import tiny_model
from families import ALL

bathyscope, tiny = command_line.bathyscope, command_line.tiny

FIRST = Relation(
    "town-country",
    tuple(Fact(*pair) for pair in (("Diana", "France"), ("Wales", "Italy"), ("York", "Spain"), ("cat", "France"))),
    ("{} is in",),
    ("{} is in",),
    "The country of {}",
    hop1_template="the country of {}",
)
SECOND = Relation(
    "country-thing",
    (Fact("France", "river"), Fact("Italy", "sea"), Fact("Spain", "tower")),
    ("{} has a",),
    ("{} has a",),
    "The thing of {}",
    hop2_template="The largest thing in",
)
QUERY = TwoHop(
    Fact("Diana", "France"), Fact("France", "river"), "a", "b", "the country of Diana", "The largest thing in"
)
ROTARY = [name for name, family in ALL.items() if family.positions == "rotary" and not family.sliding_layers]


def study(model: Model, **choices):
    asked = {"layers": "0,2", "new_tokens": 3, "every": True, **choices}
    return studies.multihop(model, [FIRST, SECOND], **asked)


# The configurations


@pytest.mark.parametrize("name", ROTARY)
def test_a_hidden_first_hop_holds_what_it_holds_alone_at_any_position(name: str):
    """Configuration 1 is configuration 2 of the same tokens: rotary positions are relative."""
    model = tiny_model(name)
    split = Split.of(model, QUERY)
    layers = [-1, 0, 1, 2, 3]
    hidden = hidden_from_each_other(model, split, layers)
    alone = capture(model, [split.tokens.ids[split.start :]], [residual_site(layer) for layer in layers])
    seen = capture(model, split.tokens, [residual_site(3)])[residual_site(3)][0][-1]
    for layer in layers:
        torch.testing.assert_close(hidden[layer], alone[residual_site(layer)][0][-1], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(hidden[3], seen, rtol=1e-2, atol=1e-2), "unhidden, it holds something else"


def test_learned_positions_make_them_differ(gpt2: Model):
    split = Split.of(gpt2, QUERY)
    hidden = hidden_from_each_other(gpt2, split, [3])[3]
    alone = capture(gpt2, [split.tokens.ids[split.start :]], [residual_site(3)])[residual_site(3)][0][-1]
    assert not torch.allclose(hidden, alone, rtol=1e-2, atol=1e-2)


def test_both_configurations_say_the_same_of_the_same_tokens(llama: Model):
    """With the first hop's words behind a space in both, the whole grid of texts is the same."""
    spaced = TwoHop(QUERY.first, QUERY.second, "a", "b", " the country of Diana", "The largest thing in")
    joined = TwoHop(QUERY.first, QUERY.second, "a", "b", "the country of Diana", "The largest thing in")
    assert llama.tokenize(spaced.hop1).ids[-3:] == Split.of(llama, joined).tokens.ids[-3:]
    split = Split.of(llama, joined)
    layers = Layers((-1, 0, 2), (0, 1, 3), 4, 0)
    first = PatchPortion(llama, 1, joined, layers)
    (place,) = {cell.positions for cell in first.cells()}
    assert place == (split.start - 1,) and first.target().ids == split.tokens.ids[: split.start]
    found = studies_texts(llama, first)
    for row, source in enumerate(layers.sources):
        (value,) = capture(llama, [split.tokens.ids[split.start :]], [residual_site(source)])[residual_site(source)]
        for column, target in enumerate(layers.targets):
            write = Write(residual_site(target), Replace(value[-1]), split.start - 1)
            said = generate(llama, "The largest thing in", writes=[write], max_new_tokens=4)[0].text
            assert found[row][column] == said


def studies_texts(model: Model, portion: PatchPortion) -> list[list[str]]:
    """The grid of texts of one portion."""
    values = Measuring(model, [[portion]], 2**30).run().values[0]
    return [[values["texts"][number] for number in row] for row in values["grid"]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_configuration_2_is_a_plain_patch_between_two_prompts(family: str):
    model = tiny_model(family)
    layers = Layers((0, 3), (1, 2), 4, 0)
    found = studies_texts(model, PatchPortion(model, 2, QUERY, layers))
    read = capture(model, QUERY.hop1, [residual_site(layer) for layer in layers.sources])
    for row, source in enumerate(layers.sources):
        for column, target in enumerate(layers.targets):
            write = Write(residual_site(target), Replace(read[residual_site(source)][0][-1]), -1)
            assert found[row][column] == generate(model, QUERY.hop2, writes=[write], max_new_tokens=4)[0].text


def test_what_stands_behind_the_written_token_changes_nothing_that_is_read_there(llama: Model):
    split = Split.of(llama, QUERY)
    whole = capture(llama, split.tokens, [residual_site(3)])[residual_site(3)][0][split.start - 1]
    part = capture(llama, split.before(llama), [residual_site(3)])[residual_site(3)][0][-1]
    torch.testing.assert_close(whole, part, rtol=1e-4, atol=1e-4)


# Queries


def test_the_projects_own_relations_make_at_least_150_queries_of_many_joins():
    found = draw_queries(facts.own_relations().values(), count=200)
    assert len(found) == len({query.query for query in found}) == 200
    joins = Counter((query.first_relation, query.second_relation) for query in found)
    assert len(joins) >= 12 and max(joins.values()) <= 20
    assert set(found[:150]) == set(draw_queries(facts.own_relations().values(), count=150))
    assert draw_queries(facts.own_relations().values(), count=200, seed=1) != found


def test_a_query_whose_answer_stands_in_it_is_none():
    second = Relation("b", (Fact("France", "country"),), ("{} a",), ("{} a",), "A {}", hop2_template="The name of")
    with pytest.raises(UsageError, match="no two of the relations"):
        draw_queries([FIRST, second])


def test_a_model_is_asked_each_hop_alone_and_the_query_in_three_ways(llama: Model):
    (one, *_) = answer_all(llama, [QUERY_OF_RELATIONS], [FIRST, SECOND], new_tokens=3)
    asked = {
        "hop1": "Diana is in",
        "hop2": "France has a",
        "vanilla": "The largest thing in the country of Diana",
        "statement": "The largest thing in the country of Diana is",
        "chain_of_thought": "Let's think step by step. The largest thing in the country of Diana",
    }
    for field, prompt in asked.items():
        assert getattr(one, field) == generate(llama, prompt, max_new_tokens=3)[0].text


QUERY_OF_RELATIONS = TwoHop(
    FIRST.facts[0], SECOND.facts[0], "town-country", "country-thing", "the country of Diana", "The largest thing in"
)


# Counting


def measured(patches: list[list[list[str]]], vanilla: list[str], random: str = "no") -> Measured:
    """Four queries with texts in their cells; each is the control of the one before."""
    queries = [
        TwoHop(Fact(f"s{n}", "m"), Fact("m", answer), "a", "b", f"the s{n}", "The")
        for n, answer in enumerate(("river", "sea", "tower", "lamp"))
    ]
    answered = tuple(Answered(query, "m", "", said, "", "") for query, said in zip(queries, vanilla, strict=True))
    found = {}
    for query, grid in zip(queries, patches, strict=True):
        distinct = sorted({text for row in grid for text in row})
        numbers = [[distinct.index(text) for text in row] for row in grid]
        found |= {(number, query.query): {"grid": numbers, "texts": distinct} for number in (1, 2)}
    controls = {query.query: {"texts": [random], "unpatched": 0, "random": [0, 0]} for query in queries}
    return Measured(answered, (*queries[1:], queries[0]), found, controls)


def test_answers_that_are_corrected_and_broken_are_counted_apart():
    grids = [[["river", "x"]], [["sea", "x"]], [["tower", "x"]], [["x", "x"]]]
    (record, same) = records(measured(grids, ["no", "the sea", "no", "a lamp"]), Layers((5,), (0, 7), 3, 0))
    assert (record["vanilla"], record["patchscope"], record["patchscope_oracle"]) == (2, 3, 3)
    assert (record["corrected"], record["broken"]) == (record["corrected_oracle"], record["broken_oracle"]) == (2, 1)
    assert record["best_cell"] == [5, 0] and record["best_cell_right"] == 3
    assert record["chosen_cells"] == [[5, 0], [5, 0]]
    assert (record["control_other"], record["control_other_oracle"], record["control_random_oracle"]) == (0, 0, 0)
    assert record["p"] == pytest.approx(1.0)
    assert {**same, "configuration": 1} == record


def test_a_text_that_has_every_answer_is_seen_through_by_its_controls():
    every = "river sea tower lamp"
    (record, _) = records(measured([[[every, every]]] * 4, ["no"] * 4, random=every), Layers((5,), (0, 7), 3, 0))
    assert record["patchscope_oracle"] == record["control_other_oracle"] == record["control_random_oracle"] == 4
    assert record["control_unpatched"] == 4


def test_controls_have_another_answer_and_the_same_second_hop(llama: Model):
    from bathyscope.studies.multihop_study.study import _Asked

    asked = _Asked.of(llama, [FIRST, SECOND], {"layers": "0", "new_tokens": 2, "every": True}, None)
    for one, other in zip(asked.patched, asked.others(), strict=True):
        assert other is not None and other.hop2 == one.query.hop2 and other.answer != one.query.answer


def test_every_count_is_of_single_plain_runs(llama: Model):
    found = study(llama, layers="0,3", seed=1)
    queries = draw_queries([FIRST, SECOND], seed=1)
    grid, random = numpy.zeros((2, 2), int), 0
    for query in queries:
        held = capture(llama, query.hop1, [residual_site(0), residual_site(3)])
        for row, source in enumerate((0, 3)):
            for column, target in enumerate((0, 3)):
                write = Write(residual_site(target), Replace(held[residual_site(source)][0][-1]), -1)
                said = generate(llama, query.hop2, writes=[write], max_new_tokens=3)[0].text
                grid[row, column] += facts_in(query, said)
        drawn = [random_vector(f"{query.query}|{residual_site(layer)}", (48,), seed=1) for layer in (0, 3)]
        writes = [
            Write(residual_site(layer), Replace(value, True), -1) for layer, value in zip((0, 3), drawn, strict=True)
        ]
        random += any(
            facts_in(query, generate(llama, query.hop2, writes=[one], max_new_tokens=3)[0].text) for one in writes
        )
    assert found.grids["2"] == grid.tolist()
    assert found.records[1]["control_random_oracle"] == random
    assert found.records[0]["n"] == len(queries) == 4


def facts_in(query: TwoHop, text: str) -> bool:
    from bathyscope.readouts import Contains

    return Contains(query.answer).found_in(text)


# Runs


def test_a_study_goes_on_where_it_was_stopped_and_is_saved_and_drawn(llama: Model, tmp_path, monkeypatch):
    from bathyscope import plots

    pytest.importorskip("matplotlib")
    monkeypatch.setattr("bathyscope.studies.multihop_study.study.CELLS_AT_ONCE", 5)
    plain = study(llama)
    stop = Stop()

    def tick(done: int, total: int) -> None:
        stop.soon = total == plain.timing["cells"] and done > 10

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            study(llama, store=store, stop=stop, progress=tick)
        resumed = study(llama, store=store)
        again = study(llama, store=store)
    assert 0 < resumed.timing["computed"] < resumed.timing["cells"] and again.timing["computed"] == 0
    assert plain.records == resumed.records == again.records and plain.grids == again.grids
    loaded = Result.load(plain.save(tmp_path / "study.json"))
    assert json.loads(loaded.to_json()) == json.loads(plain.to_json())
    assert "ORACLE" in plots.save_counts(plain, tmp_path / "study.svg").read_text()
    assert "Configuration 2" in plain.to_html()


def test_a_model_that_answers_no_hop_has_nothing_to_repair(llama: Model):
    with pytest.raises(UsageError, match=r"of 4 queries the model answers both hops alone of 0.*--every"):
        study(llama, every=False)


def test_relations_that_cannot_be_joined_are_told_before_a_model_is_waited_for(bathyscope, monkeypatch):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = bathyscope("study", "multihop", "--relation", "city-country", "--relation", "animal-class", "--model", "x")
    command_line.assert_one_line(done, "no two of the relations", "Try: city-country with country-capital, country-")
    done = bathyscope("study", "multihop", "--relation", "city-contry", "--model", "x")
    command_line.assert_one_line(done, "Try: city-country, or a FILE.json")


def test_the_command_prints_counts_and_no_percentages_of_few(bathyscope, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    paths = []
    for relation in (FIRST, SECOND):
        paths.append(tmp_path / f"{relation.name}.json")
        paths[-1].write_text(
            json.dumps(
                {
                    "name": relation.name,
                    "prompt_templates": list(relation.prompt_templates),
                    "samples": [{"subject": fact.subject, "object": fact.object} for fact in relation.facts],
                    **({"hop1_template": relation.hop1_template} if relation.hop1_template else {}),
                    **({"hop2_template": relation.hop2_template} if relation.hop2_template else {}),
                }
            )
        )
    asked = ["study", "multihop", "--model", tiny, "--every", "--new-tokens", "3", "--no-store", "--layers", "0,1"]
    asked += [part for path in paths for part in ("--relation", str(path))]
    done = bathyscope(*asked, "--explain", "--plot", str(tmp_path / "m.svg"))
    assert done.code == 0, done.err
    assert " patched " in done.out and "…" not in done.out, "no head is cut"
    assert " of 4" in done.out and "%" not in done.out and (tmp_path / "m.svg").is_file()
    data = bathyscope(*asked, "--json").json()
    assert data["kind"] == "multihop" and [row["configuration"] for row in data["rows"]] == [1, 2]
    assert data["joins"][0]["queries"] == 4
    assert "controls" not in data and "control_random" in data["rows"][0], "they stand in the rows"
    assert all(name.startswith("first of ") for name in data["plans"])
