"""The agreement study on a small GPT-2 that learned the grammar: a circuit is found, and holds on other nouns."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import command_line
from agreement_model import SITES, agreement_model, coders
from bathyscope.circuits import CircuitResult, FindChoices, MaskSettings, open_circuit
from bathyscope.circuits.nodes import told_apart
from bathyscope.engine import CancelledError, Stop
from bathyscope.errors import StorageError, UsageError
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.sae import SparseCoder, save_coder
from bathyscope.studies import AgreementChoices, AgreementResult, agreement
from bathyscope.studies.agreement_study.items import Items

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

FIND = FindChoices(errors="ablated", sizes=(5, 20, 60), penalties=(0.1,), effects=50)
CHOICES = AgreementChoices(case="nounpp", train=64, held_out=48, find=FIND)


def placed() -> dict[Path, SparseCoder]:
    return {Path(str(one.site)): one for one in coders()}


@cache
def found() -> AgreementResult:
    return agreement(agreement_model(), placed(), CHOICES)


def records(**wanted: object) -> list[dict]:
    return [one for one in found().rows() if all(one[name] == value for name, value in wanted.items())]


def test_the_model_has_learned_to_agree():
    for case in ("simple", "nounpp", "within_rc", "rc"):
        items = Items.of(agreement_model(), case, 64, 48, seed=3)  # type: ignore[arg-type]
        for examples in (items.train, items.held_out):
            right = 0
            for one in examples.pairs:
                logits = one.metric.measure(agreement_model(), _last(agreement_model(), one.clean))
                right += int(logits.item() > 0)
            assert right / len(examples) >= 0.99, case


def _last(model: Model, tokens) -> torch.Tensor:
    from bathyscope import run

    return run(model, tokens).logits[0][-1:]


def test_nouns_of_one_side_are_never_on_the_other():
    items = Items.of(agreement_model(), "within_rc", 64, 48, seed=0)
    sides = [{text for one in side.pairs for text in one.clean.texts[1:]} for side in (items.train, items.held_out)]
    shared = sides[0] & sides[1]
    assert shared == {" that", " the"}, "only the words of the template are shared"
    assert len(items.train) == 64 and len(set(items.train.groups)) > 10
    assert items.train.kinds.count("plural") == 32 and items.train.cases.count("congruent") == 32


def test_a_small_circuit_does_what_the_model_does_on_other_nouns():
    (chosen,) = [one for one in found().rows() if one.get("shown")]
    assert chosen["size"] <= 60 and chosen["shown"] and chosen["errors"] == "ablated"
    assert 0.85 <= chosen["faithfulness"] <= 1.15 and chosen["accuracy"] >= 0.95 and chosen["completeness"] <= 0.15
    assert chosen["low"] < chosen["faithfulness"] < chosen["high"]


def test_its_controls_do_less():
    size = 5
    (ranked,) = records(basis="latents", rule="largest attributions", errors="ablated", size=size)
    drawn = [one for one in records(basis="latents", size=size) if one["rule"].startswith("random")]
    assert len(drawn) == 5 and max(one["faithfulness"] for one in drawn) < ranked["faithfulness"] - 0.2
    (raw,) = records(basis="coordinates", size=size)
    assert raw["faithfulness"] < ranked["faithfulness"]
    assert {one["basis"] for one in found().rows()} == {"latents", "coordinates", "directions", "neurons"}


def test_errors_as_nodes_and_as_kept_stand_beside():
    for errors in ("ablated", "nodes", "kept"):
        assert len(records(basis="latents", rule="largest attributions", errors=errors)) == len(FIND.sizes)
    (ceiling,) = records(rule="all of them")
    assert ceiling["size"] == 2 * 256 * len(found().found.positions)


def test_effects_add_up_and_one_gradient_is_shown_beside():
    for one in found().found.sums:
        assert abs(one["gap"]) < 0.02, one
        assert one["one_gradient"] != pytest.approx(1, abs=0.005)
        assert one["gap_q10"] <= one["gap_q50"] <= one["gap_q90"] and abs(one["gap_q50"]) < 0.05
        assert one["effects"] == 50 and one["rank_correlation"] > 0.5 and 0 <= one["near"] <= 1
        assert 0 <= abs(one["error_share"]) < 1


def test_features_say_what_they_tell():
    top = found().found.nodes[0]
    assert top.separates is not None and top.separates > 0.9, "the strongest tells the numbers apart on other nouns"
    assert set(top.by_kind) == {"singular", "plural"} and top.feature.position in (1, 4)
    assert abs(top.attribution - top.effect) < 0.5 * max(abs(top.attribution), abs(top.effect))
    for one in found().found.nodes:
        assert one.label and (one.feature.index is None) == (not one.promotes)


def test_edges_lead_from_lower_sites_to_higher_ones_and_to_the_metric():
    edges = found().found.edges
    assert edges and {one.source for one in edges} <= found().found.circuit.features
    for one in edges:
        if one.target is not None:
            assert one.source.site == SITES[0] and one.target.site == SITES[1]
    assert any(one.target is None for one in edges)


def test_it_is_saved_drawn_and_read_again(tmp_path):
    saved = found().save(tmp_path / "agreement.json")
    again = Result.load(saved)
    assert isinstance(again, AgreementResult) and again.to_dict() == found().to_dict()
    assert isinstance(open_circuit(saved), CircuitResult)
    assert open_circuit(saved).circuit == found().found.circuit
    page = found().to_html()
    assert "<script src" not in page and "Which features make the verb agree" in page
    assert {str(one.feature) for one in found().found.nodes} <= {one["key"] for one in shown_by(page)["nodes"]}
    assert json.loads(found().to_json())["kind"] == "agreement"


def shown_by(page: str) -> dict:
    """The data of a page to explore a circuit in."""
    return json.loads(page.partition('type="application/json" id="data">')[2].partition("</script>")[0])


def test_own_labels_stand_beside_the_file_and_are_taken(tmp_path):
    saved = found().save(tmp_path / "agreement.json")
    first = found().found.nodes[0].feature
    (tmp_path / "agreement.labels.json").write_text(json.dumps({f"{first.site}/{first.index}": "plural subject"}))
    nodes = open_circuit(saved).nodes
    assert nodes[0].label == "plural subject" and nodes[1].label != "plural subject"
    (tmp_path / "agreement.labels.json").write_text("[1]")
    with pytest.raises(StorageError, match="no JSON object of texts"):
        open_circuit(saved)


def test_telling_apart_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    values, positive = torch.randint(5, (30,), generator=generator).float(), torch.rand(30, generator=generator) > 0.4
    if values[positive].mean() < values[~positive].mean():
        positive = ~positive
    wins = [
        (1.0 if a > b else 0.5 if a == b else 0.0)
        for a in values[positive].tolist()
        for b in values[~positive].tolist()
    ]
    means, separates = told_apart(values, ["yes" if one else "no" for one in positive.tolist()])
    assert separates == pytest.approx(sum(wins) / len(wins))
    assert means["yes"] == pytest.approx(float(values[positive].mean()))


def test_a_study_that_was_stopped_goes_on_from_what_is_kept(tmp_path, monkeypatch: pytest.MonkeyPatch):
    find = FindChoices(errors="ablated", sizes=(5,), penalties=(0.3,), steps=2, mask=MaskSettings(steps=4))
    quick = AgreementChoices(case="nounpp", train=16, held_out=16, compare=False, find=find)
    stop = Stop()

    def say(what: str) -> None:
        stop.soon = what.startswith("a mask")

    with pytest.raises(CancelledError, match="mask"):
        agreement(agreement_model(), placed(), quick, kept=tmp_path, say=say, stop=stop)

    def made_again(*_: object) -> torch.Tensor:
        raise AssertionError("what is kept is made again")

    monkeypatch.setattr("bathyscope.circuits.attributions.mean_gradient", made_again)
    assert agreement(agreement_model(), placed(), quick, kept=tmp_path).rows()
    with pytest.raises(AssertionError, match="made again"):
        agreement(agreement_model(), placed(), replace(quick, train=20), kept=tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agreement(agreement_model(), {}), "no coder"),
        (lambda: agreement(agreement_model(), {**placed(), Path("again"): coders()[0]}), "two coders"),
        (lambda: AgreementChoices(case="verbs"), "case='verbs'"),  # type: ignore[arg-type]
        (lambda: FindChoices(sizes=(0,)), "sizes from 1"),
        (lambda: Items.of(agreement_model(), "nounpp", 10, 48, 0), "a multiple of 4"),
        (lambda: Items.of(agreement_model(), "simple", 4000, 48, 0), "can be asked"),
    ],
)
def test_what_cannot_be_asked_is_refused(make, message: str):
    with pytest.raises(UsageError, match=message):
        make()


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Coders in a folder, and the small model whatever is asked for."""
    monkeypatch.setattr("bathyscope.cli.agreement.open_model", lambda *_args, **_options: agreement_model())
    for one in coders():
        save_coder(one, tmp_path / "coders" / str(one.site))
    return tmp_path


QUICK = ("--train", "16", "--held-out", "16", "--sizes", "5,20", "--penalties", "0.3", "--steps", "2", "--no-compare")


def test_the_command_prints_draws_and_saves(bathyscope, folder):
    picture, page = folder / "circuit.svg", folder / "circuit.html"
    done = bathyscope(
        "study", "agreement", "--coders", str(folder / "coders"), *QUICK, "--plot", str(picture), "--out", str(page)
    )
    assert done.code == 0, done.err
    assert "faith" in done.out and "resid_post.2/" in done.out and "largest attributions" in done.out
    assert picture.read_text("utf-8").startswith("<?xml") and shown_by(page.read_text("utf-8"))["nodes"]


def test_the_command_speaks_json_and_takes_labels(bathyscope, folder):
    labels = folder / "labels.json"
    everywhere = {f"{site}/{index}": "mine" for site in SITES for index in range(256)}
    labels.write_text(json.dumps(everywhere))
    done = bathyscope(
        "study",
        "agreement",
        "--coders",
        str(folder / "coders"),
        "--sites",
        SITES[1],
        *QUICK,
        "--labels",
        str(labels),
        "--json",
    )
    assert done.code == 0, done.err
    found = done.json()
    assert found["kind"] == "agreement" and found["found"]["circuit"]["sites"] == [SITES[1]]
    assert {one["label"] for one in found["found"]["rows"]} == {"mine"}


def test_errors_may_be_features_of_the_circuit_that_is_shown(bathyscope, folder):
    asked = ("--coders", str(folder / "coders"), "--errors", "nodes", "--json")
    done = bathyscope("study", "agreement", *asked, *QUICK, "--sizes", "150", "--penalties", "")
    assert done.code == 0, done.err
    assert done.json()["found"]["measured"]["errors"] == "nodes"
    assert any(one["index"] is None for one in done.json()["found"]["rows"])


def test_coders_are_trained_where_there_are_none(bathyscope, folder):
    text = folder / "news.txt"
    text.write_text("\n\n".join(["The teacher near the cars is here . " * 40] * 10))
    trained = folder / "trained"
    options = ("--text", str(text), "--sites", ",".join(SITES), "--latents", "64")
    done = bathyscope("study", "agreement", "--coders", str(trained), *options, *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json()["kind"] == "agreement", "what is said of the training does not stand in the JSON"
    assert {path.parent.name for path in trained.glob("*/cfg.json")} == set(SITES)
    again = bathyscope("study", "agreement", "--coders", str(trained), *options, *QUICK, "--json")
    assert again.code == 0 and "tokens an epoch" in done.err and "tokens an epoch" not in again.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--case", "verbs"), "it is one of simple"),
        (("--errors", "some"), "it is one of nodes"),
        (("--sizes", "five"), "numbers with commas"),
        (("--train", "10"), "a multiple of 4"),
        (("--sites", "resid_post.1"), "has coders of"),
        (("--ablation", "noise"), "it is one of mean"),
        (("--labels", "nowhere.json"), "could not be read"),
        (("--coders", "nowhere"), "nowhere"),
    ],
)
def test_the_command_says_what_is_wrong(bathyscope, folder, typed, message: str):
    done = bathyscope("study", "agreement", "--coders", str(folder / "coders"), *QUICK, *typed)
    assert done.code == 2 and message in done.err, done.err
    assert done.err.count("\n") == 1
