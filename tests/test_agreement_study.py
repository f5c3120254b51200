"""The agreement study on a small GPT-2 that learned the grammar: a circuit is found, and holds on other nouns."""

import json
from functools import cache

import pytest
import torch

import command_line
from agreement_model import agreement_model
from bathyscope import capture
from bathyscope.circuits import Circuit
from bathyscope.errors import UsageError
from bathyscope.facts import agreement_sentences
from bathyscope.model import Model
from bathyscope.results import Result
from bathyscope.sae import CoderConfig, GivenActivations, Settings, SparseCoder, TopK, save_coder, train_coders
from bathyscope.sites import Site
from bathyscope.studies import AgreementChoices, AgreementResult, agreement
from bathyscope.studies.agreement_study.items import Items
from bathyscope.studies.agreement_study.nodes import auc

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

SITES = ("resid_post.0", "resid_post.2")
CHOICES = AgreementChoices(case="nounpp", train=64, held_out=48, sizes=(5, 20, 60), penalties=(0.1,), steps=8)


@cache
def coders() -> tuple[SparseCoder, ...]:
    """Coders of sentences with train nouns only."""
    model = agreement_model()
    read = capture(model, list(agreement_sentences(nouns="train", n=3000)), SITES, batch_size=256)
    tables = {site: torch.cat([row[1:] for row in read[site]]) for site in SITES}
    asked = [CoderConfig(Site.parse(site), TopK(8), 256) for site in SITES]
    trained = train_coders(GivenActivations(tables), asked, Settings(12, 512))
    return tuple(one.coder for one in trained)


@cache
def found() -> AgreementResult:
    return agreement(agreement_model(), coders(), CHOICES)


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
    assert items.train_numbers.count("plural") == 32 and items.train.cases.count("congruent") == 32


def test_a_small_circuit_does_what_the_model_does_on_other_nouns():
    chosen = found().chosen
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
        assert len(records(basis="latents", rule="largest attributions", errors=errors)) == len(CHOICES.sizes)
    (ceiling,) = records(rule="all of them")
    assert ceiling["size"] == 2 * 256 * len(found().positions)


def test_effects_add_up_and_one_gradient_is_shown_beside():
    for one in found().sums:
        assert abs(one["gap"]) < 0.02, one
        assert one["one_gradient"] != pytest.approx(1, abs=0.005)
        assert 0 <= abs(one["error_share"]) < 1


def test_features_say_what_they_tell():
    top = found().nodes[0]
    assert max(top["auc"], 1 - top["auc"]) > 0.9, "the strongest feature tells singular from plural on other nouns"
    assert top["position"] in (1, 4)
    assert abs(top["attribution"] - top["effect"]) < 0.5 * max(abs(top["attribution"]), abs(top["effect"]))
    for one in found().nodes:
        assert one["label"] and (one["index"] is None) == (not one["promotes"])


def test_edges_lead_from_lower_sites_to_higher_ones_and_to_the_metric():
    features = {one["feature"] for one in found().nodes}
    assert found().edges
    assert {one["source"] for one in found().edges} <= features
    for one in found().edges:
        if one["target"] is not None:
            assert one["source"].startswith(SITES[0]) and one["target"].startswith(SITES[1])
    assert any(one["target"] is None for one in found().edges)


def test_it_is_saved_drawn_and_read_again(tmp_path):
    saved = found().save(tmp_path / "agreement.json")
    again = Result.load(saved)
    assert isinstance(again, AgreementResult) and again.to_dict() == found().to_dict()
    assert again.as_circuit() == Circuit.from_dict(found().circuit)
    page = found().to_html()
    assert "<svg" in page and "logit difference" in page and "<script src" not in page
    assert json.loads(found().to_json())["kind"] == "agreement"


def test_own_labels_are_taken(monkeypatch: pytest.MonkeyPatch):
    from bathyscope.studies.agreement_study.nodes import node_records

    items = Items.of(agreement_model(), CHOICES.case, 64, 48, 0)
    from bathyscope.circuits import Latents, feature_attributions

    effects = feature_attributions(
        agreement_model(), items.train, {one.site: Latents(one) for one in coders()}, steps=2
    )
    circuit = Circuit(SITES, [one for one, _ in effects.top(2)])
    name = max(circuit.features, key=lambda one: abs(dict(effects.top(2))[one]))
    nodes, _ = node_records(agreement_model(), items, effects, circuit, {f"{name.site}/{name.index}": "plural subject"})
    assert nodes[0]["label"] == "plural subject" and nodes[1]["label"] != "plural subject"


def test_auc_counts_pairs():
    generator = torch.Generator().manual_seed(0)
    values, positive = torch.randint(5, (30,), generator=generator).float(), torch.rand(30, generator=generator) > 0.4
    wins = [
        (1.0 if a > b else 0.5 if a == b else 0.0)
        for a in values[positive].tolist()
        for b in values[~positive].tolist()
    ]
    assert auc(values, positive) == pytest.approx(sum(wins) / len(wins))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agreement(agreement_model(), []), "no coder"),
        (lambda: agreement(agreement_model(), [*coders(), coders()[0]]), "two coders"),
        (lambda: AgreementChoices(case="verbs"), "case='verbs'"),  # type: ignore[arg-type]
        (lambda: AgreementChoices(sizes=(0,)), "sizes from 1"),
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
    assert picture.read_text("utf-8").startswith("<?xml") and "<svg" in page.read_text("utf-8")


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
    assert found["kind"] == "agreement" and found["circuit"]["sites"] == [SITES[1]]
    assert {one["label"] for one in found["nodes"]} == {"mine"}


def test_errors_may_be_features_of_the_circuit_that_is_shown(bathyscope, folder):
    asked = ("--coders", str(folder / "coders"), "--errors", "nodes", "--json")
    done = bathyscope("study", "agreement", *asked, *QUICK, "--sizes", "150", "--penalties", "")
    assert done.code == 0, done.err
    assert done.json()["chosen"]["errors"] == "nodes"
    assert any(one["index"] is None for one in done.json()["nodes"])


def test_coders_are_trained_where_there_are_none(bathyscope, folder):
    text = folder / "news.txt"
    text.write_text("\n\n".join(["The teacher near the cars is here . " * 40] * 10))
    trained = folder / "trained"
    options = ("--text", str(text), "--sites", ",".join(SITES), "--latents", "64")
    done = bathyscope("study", "agreement", "--coders", str(trained), *options, *QUICK, "--json")
    assert done.code == 0, done.err
    assert {path.parent.name for path in trained.glob("*/cfg.json")} == set(SITES)
    again = bathyscope("study", "agreement", "--coders", str(trained), *options, *QUICK, "--json")
    assert again.code == 0 and "tokens an epoch" in done.err and "tokens an epoch" not in again.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--case", "verbs"), "it is one of simple"),
        (("--errors", "some"), "it is one of ablated"),
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
