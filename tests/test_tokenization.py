"""The tokenization study: the numbers of a loop, controls that are what they say, and nothing measured twice."""

import json
from pathlib import Path

import pytest

import command_line
from bathyscope import Model, Source, Store, Target, embedded, generate, load, patchscope, plots, studies
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import UsageError
from bathyscope.facts import SplitWord, split_words
from bathyscope.readouts import Generate
from bathyscope.results import Result
from bathyscope.studies import TokenizationResult, drawn_words
from bathyscope.studies.tokenization_study.asked import TARGETS, AskedWords, kind_of
from bathyscope.studies.tokenization_study.measures import says
from bathyscope.studies.tokenization_study.portions import WordPortion
from conftest import tiny_model

bathyscope, tiny = command_line.bathyscope, command_line.tiny

SOME = tuple(SplitWord(word, gloss) for word, gloss in (
    ("keeper", "man"), ("harbour", "water"), ("question", "word"), ("evening", "day"), ("morning", "dawn"),
))  # fmt: skip


def study(model: Model, **choices) -> TokenizationResult:
    return studies.tokenization(model, **{"words": SOME, "new_tokens": 4, **choices})


def asked(model: Model, **choices) -> AskedWords:
    return AskedWords.of(model, {"words": SOME, "new_tokens": 4, **choices})


# Pieces


def test_pieces_are_the_tokens_that_hold_the_words_letters(llama: Model):
    found = asked(llama)
    for number, one in enumerate(SOME):
        assert "".join(found.pieces(number)).strip() == one.word
        assert len(found.pieces(number)) > 1


def test_pieces_are_called_by_their_place():
    assert [kind_of(place, 4) for place in range(4)] == ["first", "middle", "middle", "last"]
    assert [kind_of(place, 2) for place in range(2)] == ["first", "last"]


def test_controls_hold_the_last_piece_and_not_the_words_others(llama: Model):
    found = asked(llama)
    for number in range(len(SOME)):
        tokens, positions = found.placed[number]
        other, places = found.placed[found.others[number]]
        last = tokens.ids[positions[-1]]
        alone, position = found.alone(number)
        assert alone.ids[position] == last and alone.ids[:position] == tokens.ids[: positions[0]]
        swapped, position = found.swapped(number)
        assert swapped.ids[position] == last
        assert swapped.ids[:position] == other.ids[: places[-1]]


def test_a_word_is_found_whole_or_not_at_all():
    assert says(' -> "Keeper".', "keeper") == 1.0
    assert says("keepers", "keeper") == says("", "keeper") == says("keeper", "\ufffd") == 0.0


def test_words_are_drawn_by_a_seed():
    assert drawn_words(10) != drawn_words(10, seed=1)
    assert len(set(drawn_words(10))) == 10
    assert drawn_words(1000) == split_words()


# The numbers


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("target_layer", ["same", 1])
def test_every_text_is_that_of_a_single_patchscope(family: str, target_layer):
    model = tiny_model(family)
    found = asked(model, target_layer=target_layer)
    portion = WordPortion(found, 1)
    from bathyscope.engine import collect, plan

    values = portion.values(collect(plan(portion.cells(), model, model), model, model).readings)
    tokens, positions = found.placed[1]
    places = [*((tokens, position) for position in positions), found.alone(1), found.swapped(1)]
    rows = [*values["pieces"], values["alone"], values["swapped"]]
    for (prompt, position), texts in zip(places, rows, strict=True):
        for layer, text in zip(found.layers, texts, strict=True):
            target = Target(model, TARGETS["repeat"], layer=layer if target_layer == "same" else 1)
            single = patchscope(Source(model, prompt, position, layer), target, readout=Generate(4), control=False)
            assert single.cells[0].text == text


def known(monkeypatch: pytest.MonkeyPatch, said) -> None:
    """Have the study find texts that are known: `said(number, place, layer)`, where a place may be a control."""
    from bathyscope.studies.tokenization_study import portions as tokenization_portions

    def values(self, readings):
        places = range(len(self.asked.pieces(self.number)))
        rows = [
            [said(self.number, place, layer) for layer in self.asked.layers] for place in [*places, "alone", "swap"]
        ]
        return {"pieces": rows[:-2], "alone": rows[-2], "swapped": rows[-1]}

    monkeypatch.setattr(tokenization_portions.WordPortion, "values", values)


def test_words_that_are_read_are_counted_at_their_first_layer(llama: Model, monkeypatch: pytest.MonkeyPatch):
    lengths = [len(asked(llama).pieces(number)) for number in range(len(SOME))]

    def said(number, place, layer):
        if place == lengths[number] - 1 and layer >= number:
            return f" -> {SOME[number].word.title()}\n"
        return f" {SOME[number].gloss}" if place == "alone" and layer == 2 else " nothing"

    known(monkeypatch, said)
    found = study(llama)
    last = {row["layer"]: row for row in found.of("last")}
    assert [last[layer]["whole"] for layer in (-1, 0, 1, 2, 3)] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert all(row["whole"] == 0.0 for piece in ("first", "middle") for row in found.of(piece))
    assert [last[layer]["gloss_alone"] for layer in (1, 2)] == [0.0, 1.0]
    assert found.first_layers == {"-1": 0, "0": 1, "1": 1, "2": 1, "3": 1, "never": 1}
    assert [one["layer"] for one in found.words] == [0, 1, 2, 3, None]
    assert found.words[1]["layers"] == [1, 2, 3]
    assert found.words[1]["text"] == " -> Harbour\n"
    assert found.best["any_layer"] == 0.8
    assert set(found.best["chosen_layers"]) <= {2, 3}
    assert found.best["any_layer_swapped"] == found.best["any_layer_shuffled"] == 0.0
    assert sum(one["read"] for one in found.by_pieces) == 4 and sum(one["n"] for one in found.by_pieces) == 5


def test_another_word_is_looked_for_as_a_control(llama: Model, monkeypatch: pytest.MonkeyPatch):
    known(monkeypatch, lambda number, place, layer: " ".join(one.word for one in SOME))
    row = study(llama).of("last")[0]
    assert row["whole"] == row["shuffled"] == row["alone"] == row["swapped"] == 1.0


def test_a_pieces_own_letters_are_found(llama: Model, monkeypatch: pytest.MonkeyPatch):
    found = asked(llama)
    known(monkeypatch, lambda number, place, layer: "" if isinstance(place, str) else found.pieces(number)[place])
    assert {row["own"] for row in study(llama).of("last")} == {1.0}
    assert {row["whole"] for row in study(llama).rows()} == {0.0}


def test_words_as_text_and_nothing_written(llama: Model):
    found = study(llama)
    text = TARGETS["repeat"].text
    for one in found.words:
        assert one["prompting"] == generate(llama, text[:-4] + one["word"] + text[-3:], max_new_tokens=4)[0].text
    assert [record["control"] for record in found.controls] == ["unpatched", "prompting"]
    for row in (*found.rows(), *found.controls):
        low, high = row["whole_interval"]
        assert low - 1e-9 <= row["whole"] <= high + 1e-9


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"words": SOME[:3]}, "at least 4"),
        ({"words": [*SOME, SOME[0]]}, "each once"),
        ({"layers": 9}, "layer 9"),
        ({"target_layer": 9}, "layer 9"),
        ({"prompt": "poem"}, "repeat, token-identity"),
        ({"context": "no place"}, "place {}"),
        ({"new_tokens": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(llama: Model, choices: dict, said: str):
    with pytest.raises(UsageError, match=said):
        study(llama, **choices)


def test_words_that_the_model_does_not_split_are_left_out_and_said(llama: Model):
    found = study(llama, words=[*SOME, SplitWord("a", "letter")], context="They saw the {} by the wall")
    assert [one["word"] for one in found.words] == [one.word for one in SOME]
    assert any("does not split them: a" in note for note in found.notes)


# What is kept


def test_a_stopped_study_goes_on_and_gives_what_an_undisturbed_one_gives(
    llama: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from bathyscope.studies.tokenization_study import portions as tokenization_portions

    monkeypatch.setattr(tokenization_portions, "TOGETHER", 2)
    whole, stop = study(llama), Stop()

    def in_the_second(done: int, total: int) -> None:
        stop.soon = stop.soon or done * 3 > total

    with Store(tmp_path) as store:
        with pytest.raises(CancelledError):
            study(llama, store=store, stop=stop, progress=in_the_second)
        on, again = study(llama, store=store), study(llama, store=store)
    assert 0 < on.timing["computed"] < whole.timing["computed"]
    assert again.timing["computed"] == 0
    assert on.rows() == again.rows() == whole.rows()
    assert on.words == whole.words


def test_a_result_is_saved_loaded_and_drawn(llama: Model, tmp_path: Path):
    found = study(llama)
    loaded = Result.load(found.save(tmp_path / "study.json"))
    assert isinstance(loaded, TokenizationResult)
    assert loaded.to_dict() == json.loads(json.dumps(found.to_dict()))
    assert "keeper" in found.to_html()
    drawn = plots.save_curves(found, tmp_path / "study.svg").read_text()
    assert drawn == plots.save_curves(found, tmp_path / "again.svg").read_text()
    assert plots.save_curves(found, tmp_path / "study.png").stat().st_size > 10_000


# The command


def test_the_command_prints_a_table_with_controls_and_notes(bathyscope, tiny: str, tmp_path: Path):
    asked = ("study", "tokenization", "--model", tiny, "--words", "5", "--new-tokens", "3", "--layers", "0-2")
    found = bathyscope(*asked, "--plot", str(tmp_path / "a.svg"), "--out", str(tmp_path / "a.json"), "--explain")
    assert found.code == 0, found.err
    assert "\\n" not in found.out
    assert ("what is said there" in found.out) == ("first read whole at some layer: 0 of" not in found.out)
    for said in ("ORACLE", "chosen on the other half", "first read whole at some layer", "swapped", "prompting"):
        assert said in found.out
    assert "cells in" in found.err
    assert (tmp_path / "a.svg").exists()
    printed = bathyscope(*asked, "--json").json()
    assert printed["kind"] == "tokenization"
    assert {(row["piece"], row["layer"]) for row in printed["rows"]} >= {("last", 0), ("first", 2)}
    assert printed["rows"] == json.loads((tmp_path / "a.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("option", "said"), [(("--target-layer", "top"), "a layer, or same"), (("--prompt", "poem"), "repeat")]
)
def test_a_wrong_option_is_told(bathyscope, tiny: str, option: tuple[str, str], said: str):
    refused = bathyscope("study", "tokenization", "--model", tiny, "--words", "5", *option)
    assert refused.code == 2
    command_line.assert_one_line(refused, said)


# The embedded model


@pytest.mark.embedded
@pytest.mark.skipif(not embedded.embedded_status().cached, reason="the embedded model is not in the cache")
def test_the_embedded_model_reads_some_last_pieces_as_words_and_not_behind_other_pieces():
    wanted = ("bulldozer", "dandelion", "flamingo", "sauna", "skyscraper")
    words = [one for one in split_words() if one.word in wanted]
    embedded_, later = studies.tokenization(load(), words=words, layers="-1,12").of("last")
    assert embedded_["whole"] == 0.0, "an embedding knows no other piece"
    assert later["whole"] >= 0.8
    assert later["alone"] == later["swapped"] == later["shuffled"] == 0.0
