"""`bathyscope circuit`: a circuit of any pairs, found, measured on others, edited; and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import command_line
from agreement_model import SITES, agreement_model, coders
from bathyscope import capture, run
from bathyscope.circuits import (
    Change,
    CircuitResult,
    FindChoices,
    edit_features,
    find_circuit,
    open_circuit,
    read_examples,
)
from bathyscope.engine import Stop
from bathyscope.facts import agreement_pairs, write_agreement
from bathyscope.results import Result
from bathyscope.sae import Edit, Splice, save_coder
from bathyscope.sites import Site

bathyscope, home = command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

QUICK = ("--sizes", "5,20", "--penalties", "none", "--steps", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with coders, pairs, and a circuit that was found once."""
    made = tmp_path_factory.mktemp("circuit")
    for one in coders():
        save_coder(one, made / "coders" / str(one.site))
    for nouns in ("train", "held-out"):
        write_agreement(agreement_pairs("nounpp", nouns=nouns, n=32), made / f"{nouns}.jsonl")
    model = agreement_model()
    choices = FindChoices(errors="ablated", sizes=(5, 20), penalties=(0.3,), steps=4)
    placed = {made / "coders" / str(one.site): one for one in coders()}
    find_circuit(model, read_examples(model, made / "train.jsonl"), placed, choices).save(made / "found.json")
    return made


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the small model whatever is asked for."""
    for module in ("circuit_find", "circuit_request"):
        monkeypatch.setattr(f"bathyscope.cli.{module}.open_model", lambda *_args, **_options: agreement_model())
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shutil.copy(tmp_path / "found.json", tmp_path / "circuit.json")
    return tmp_path


def find(bathyscope, folder: Path, *more: str):
    given = ("--pairs", str(folder / "train.jsonl"), "--coders", str(folder / "coders"))
    return bathyscope("circuit", "find", *given, *QUICK, "--out", str(folder / "circuit.json"), *more)


def test_a_circuit_is_found_and_measured_on_other_pairs(bathyscope, folder):
    done = find(bathyscope, folder, "--errors", "ablated", "--penalties", "0.3")
    assert done.code == 0, done.err
    assert "learned mask" in done.out and "resid_post.2/" in done.out
    found = open_circuit(folder / "circuit.json")
    assert not list(folder.glob(".circuit.json*")), "what was kept meanwhile is gone"

    measured = bathyscope(
        "circuit", "eval", str(folder / "circuit.json"), "--pairs", str(folder / "held-out.jsonl"), "--json"
    )
    assert measured.code == 0, measured.err
    told = measured.json()
    assert told["nodes"] == len(found.nodes) and told["n"] == 32 and told["errors"] == "ablated"
    span = told["metric_full"] - told["metric_empty"]
    assert told["faithfulness"] == pytest.approx((told["metric_circuit"] - told["metric_empty"]) / span)
    assert told["completeness"] == pytest.approx((told["metric_without"] - told["metric_empty"]) / span)
    assert told["faithfulness"] > 0.7 and told["completeness"] < 0.3, "on nouns that it was not found on"
    assert set(told["by_case"]) == {"congruent", "incongruent"}


def test_the_same_pairs_give_the_figures_that_it_was_found_with(bathyscope, folder):
    assert find(bathyscope, folder).code == 0
    asked = ("--pairs", str(folder / "train.jsonl"), "--json")
    told = bathyscope("circuit", "eval", str(folder / "circuit.json"), *asked).json()
    found = open_circuit(folder / "circuit.json").measured
    assert told["faithfulness"] == pytest.approx(found["faithfulness"], abs=1e-5)
    assert told["completeness"] == pytest.approx(found["completeness"], abs=1e-5)
    table = bathyscope("circuit", "eval", str(folder / "circuit.json"), *asked[:2])
    assert table.code == 0 and "incongruent" in table.out


@pytest.mark.parametrize("nodes", [1, 7])
def test_at_most_so_many_nodes_are_kept(bathyscope, folder, nodes: int):
    assert find(bathyscope, folder, "--nodes", str(nodes)).code == 0
    assert 1 <= len(open_circuit(folder / "circuit.json").nodes) <= nodes


@pytest.mark.parametrize("method", ["relp", "attribution-patching"])
def test_other_attributions_find_a_circuit_too(bathyscope, folder, method: str):
    done = find(bathyscope, folder, "--method", method, "--json")
    assert done.code == 0, done.err
    assert done.json()["provenance"]["spec"]["method"] == method and done.json()["measured"]["accuracy"] > 0.8


def test_a_search_that_was_stopped_goes_on_where_it_was(bathyscope, folder, monkeypatch: pytest.MonkeyPatch):
    from bathyscope.circuits import attributions, finding

    made: list[str] = []
    gradient, learn = attributions.mean_gradient, finding.learned_circuit

    def counted(examples, site, *rest):
        made.append(str(site))
        return gradient(examples, site, *rest)

    def stopped(*args, stop: Stop, **options):
        stop.soon = True
        return learn(*args, stop=stop, **options)

    monkeypatch.setattr(attributions, "mean_gradient", counted)
    monkeypatch.setattr(finding, "learned_circuit", stopped)
    assert find(bathyscope, folder, "--penalties", "0.3", "--limit", "8").code == 130
    first = list(made)
    assert first[:2] == list(SITES) and (folder / ".circuit.json.parts").exists()
    monkeypatch.setattr(finding, "learned_circuit", learn)
    assert find(bathyscope, folder, "--penalties", "0.3", "--limit", "8").code == 0
    assert made == first, "gradients of finished sites are not taken again"
    resumed = open_circuit(folder / "circuit.json").to_dict()
    (folder / "circuit.json").unlink()
    assert find(bathyscope, folder, "--penalties", "0.3", "--limit", "8").code == 0
    again = open_circuit(folder / "circuit.json").to_dict()
    for one in (resumed, again):
        del one["timing"], one["provenance"]["created"]
    assert resumed == again


def test_features_are_taken_out_as_their_attributions_said(bathyscope, folder):
    strongest = open_circuit(folder / "circuit.json").nodes[0].feature
    change = f"{strongest.site}/{strongest.index}@{strongest.position}"
    asked = ("--pairs", str(folder / "held-out.jsonl"), "--set", change)
    done = bathyscope("circuit", "edit", str(folder / "circuit.json"), *asked, "--json")
    assert done.code == 0, done.err
    told = done.json()
    (row,) = told["rows"]
    moved = told["after"]["logit_difference"] - told["before"]["logit_difference"]
    assert row["measured"] == pytest.approx(moved) and abs(moved) > 0.3
    assert 0.4 < row["predicted"] / moved < 2.5, "other features make up for a part of it"
    controls = sorted(map(abs, told["controls"]))
    assert abs(moved) > 2 * controls[-1] and abs(moved) > 10 * controls[2], "latents that are active there do less"
    table = bathyscope("circuit", "edit", str(folder / "circuit.json"), *asked, "--out", str(folder / "edit.json"))
    assert table.code == 0 and "predicted" in table.out
    assert Result.load(folder / "edit.json").to_dict()["after"] == told["after"]


def test_an_edit_is_the_splice_that_it_says(folder):
    model = agreement_model()
    examples = read_examples(model, folder / "held-out.jsonl").examples
    changes = [Change(SITES[1], 3, None, 2.0), Change(SITES[1], 9, None, 0.0)]
    found = edit_features(model, coders(), changes, examples, steps=1)
    splice = Splice(coders()[1], edits=[Edit(3, "clamp", 2.0), Edit(9, "clamp", 0.0)])
    logits = run(model, examples.clean, writes=[splice.write(model)]).logits
    right, wrong = examples.answers.T
    values = torch.stack([one[-1] for one in logits]).double()
    rows = torch.arange(len(examples))
    expected = (values[rows, right] - values[rows, wrong]).mean()
    assert found.after["logit_difference"] == pytest.approx(float(expected), abs=1e-4)


def test_controls_of_an_edit_at_one_position_are_active_there(folder):
    model = agreement_model()
    examples = read_examples(model, folder / "train.jsonl").examples
    for position in (1, examples.length - 1):
        found = edit_features(model, coders(), [Change(SITES[1], 3, position, 0.0)], examples, steps=1)
        site = model.site(SITES[1])
        values = torch.stack([one[position] for one in capture(model, examples.clean, [site])[site]])
        active = (coders()[1].encode(values).dense() != 0).any(0)
        active[3] = False
        assert active.any() and len(found.controls) == 5
        splices = [Splice(coders()[1], edits=[Edit(int(one), "clamp", 0.0)]) for one in active.nonzero().flatten()]
        possible = []
        for splice in splices:
            logits = torch.stack(
                [one[-1] for one in run(model, examples.clean, writes=[splice.write(model, position=position)]).logits]
            )
            rows = torch.arange(len(examples))
            right, wrong = examples.answers.T
            possible.append(float((logits.double()[rows, right] - logits.double()[rows, wrong]).mean()))
        changes = [one - found.before["logit_difference"] for one in possible]
        assert all(min(abs(control - one) for one in changes) < 1e-4 for control in found.controls)


def test_an_edit_changes_text_and_loss(bathyscope, folder):
    text = folder / "text.txt"
    text.write_text("The teacher near the cars is here .\n\nThe cars near the teacher are here .\n")
    change = ("--set", f"{SITES[1]}/3=20", "--text", str(text), "--prompt", "The teacher near", "--new-tokens", "3")
    asked = ("--pairs", str(folder / "held-out.jsonl"), *change)
    done = bathyscope("circuit", "edit", str(folder / "circuit.json"), *asked)
    assert done.code == 0, done.err
    assert "loss on" in done.out and "after: The teacher near" in done.out
    at_one = bathyscope(
        "circuit", "edit", str(folder / "circuit.json"), *asked[:2], "--set", f"{SITES[1]}/3@1", *change[2:]
    )
    assert at_one.code == 2 and "one position" in at_one.err


def test_coders_in_the_public_format_before_a_block_give_the_same_circuit(bathyscope, folder):
    """As those of GPT-2 lie on the hub: SAELens's files, read before a block instead of after the one below."""
    assert find(bathyscope, folder, "--sites", SITES[0]).code == 0
    after = open_circuit(folder / "circuit.json")
    theirs = next(one for one in coders() if str(one.site) == SITES[0])
    before = replace(theirs, site=Site("resid_pre", 1), target=Site("resid_pre", 1))
    save_coder(before, folder / "public" / "blocks.1.hook_resid_pre", format="saelens")
    given = ("--pairs", str(folder / "train.jsonl"), "--coders", str(folder / "public"))
    done = bathyscope("circuit", "find", *given, *QUICK, "--out", str(folder / "public.json"))
    assert done.code == 0, done.err
    found = open_circuit(folder / "public.json")
    assert found.circuit.sites == after.circuit.sites
    assert [one.feature for one in found.nodes] == [one.feature for one in after.nodes]
    for one, other in zip(found.nodes, after.nodes, strict=True):
        assert one.attribution == pytest.approx(other.attribution, abs=1e-4)
    asked = ("--pairs", str(folder / "held-out.jsonl"), "--set", f"{SITES[0]}/{found.nodes[0].feature.index}")
    edited = bathyscope("circuit", "edit", str(folder / "public.json"), *asked, "--json")
    assert edited.code == 0 and edited.json()["rows"][0]["measured"] != 0


def wrong_pairs(folder: Path, *lines: dict) -> str:
    path = folder / "wrong.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


GOOD = {"clean": "The teacher", "corrupted": "The teachers", "answer": " is", "wrong_answer": " are"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({**GOOD, "corrupted": "The teachers near"}, "line 2: the clean prompt has 2 tokens"),
        ({**GOOD, "answer": " is here"}, "line 2: "),
        ({**GOOD, "corrupted": "The teacher"}, "line 2: clean and corrupted prompt are the same"),
        ({"clean": "The teacher"}, "line 2 of"),
    ],
)
def test_pairs_that_cannot_be_asked_name_the_line_and_the_tokens(bathyscope, folder, line: dict, message: str):
    given = ("--coders", str(folder / "coders"), "--out", str(folder / "circuit.json"))
    done = bathyscope("circuit", "find", "--pairs", wrong_pairs(folder, GOOD, line), *given)
    assert message in done.err, done.err
    assert done.code == (2 if "line 2 of" in message else 0), "one good pair is left"
    alone = bathyscope("circuit", "find", "--pairs", wrong_pairs(folder, line), *given)
    assert alone.code == 2 and message.replace("line 2", "line 1") in alone.err


def test_coders_of_another_model_and_other_coders_are_refused(bathyscope, folder):
    asked = ("--pairs", str(folder / "held-out.jsonl"))
    other = folder / "other"
    for one in coders():
        save_coder(
            type(one)(
                one.encoder * 1.01, one.encoder_bias, one.decoder, one.decoder_bias, one.selection, site=one.site
            ),
            other / str(one.site),
        )
    done = bathyscope("circuit", "eval", str(folder / "circuit.json"), *asked, "--coders", str(other))
    assert done.code == 2 and "fingerprint" in done.err and "--coders DIR" in done.err
    moved = bathyscope("circuit", "eval", str(folder / "circuit.json"), *asked, "--coders", str(folder / "nowhere"))
    assert moved.code == 2 and "nowhere" in moved.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data["rows"].pop(), "differ in"),
        (
            lambda data: data["edges"].append({"source": "resid_post.0/1@1", "target": None, "weight": 1.0}),
            "an edge of",
        ),
        (lambda data: data.update(kind="lens"), "could not be read"),
        (lambda data: data["rows"][0].update(feature="nonsense"), "is no feature"),
        (lambda data: data["positions"].clear(), "positions"),
        (lambda data: data.pop("coders"), "could not be read"),
    ],
)
def test_a_file_that_lies_is_refused(bathyscope, folder, damage, message: str):
    path = folder / "circuit.json"
    data = json.loads(path.read_text("utf-8"))
    damage(data)
    path.write_text(json.dumps(data))
    done = bathyscope("circuit", "eval", str(path), "--pairs", str(folder / "held-out.jsonl"))
    assert done.code == 2 and message in done.err and done.err.count("\n") == 1, done.err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("--method", "guess"), "it is one of integrated-gradients"),
        (("--errors", "some"), "it is one of nodes"),
        (("--nodes", "0"), "at least 1"),
        (("--sizes", "ten"), "numbers with commas"),
        (("--sites", "resid_post.1"), "has coders of"),
        (("--out", "circuit.txt"), ".json"),
    ],
)
def test_find_says_what_is_wrong(bathyscope, folder, typed, message: str):
    done = find(bathyscope, folder, *typed)
    assert done.code == 2 and message in done.err, done.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("resid_post.2", "is no change of a latent"),
        ("resid_post.2/9999", "latents 0 to 255"),
        ("resid_post.1/3", "there are coders of"),
        ("resid_post.2/3@99", "positions 0 to"),
        ("resid_post.2/3=much", "is no change of a latent"),
    ],
)
def test_edit_says_what_is_wrong(bathyscope, folder, change: str, message: str):
    asked = ("--pairs", str(folder / "held-out.jsonl"), "--set", change)
    done = bathyscope("circuit", "edit", str(folder / "circuit.json"), *asked)
    assert done.code == 2 and message in done.err, done.err


def test_what_is_saved_is_read_again(bathyscope, folder):
    found = Result.load(folder / "circuit.json")
    assert isinstance(found, CircuitResult)
    found.save(folder / "again.json")
    assert Result.load(folder / "again.json").to_dict() == found.to_dict()
    assert "logit difference" in found.page() and str(found.nodes[0].feature) in found.page()


def test_a_feature_that_was_changed_by_hand_is_refused(bathyscope, folder: Path):
    """The same feature everywhere in the file: it contradicts itself nowhere, and its figures are another's."""
    path = folder / "found.json"
    text = path.read_text("utf-8")
    one = json.loads(text)["rows"][0]["feature"].rpartition("@")[0]
    spare = f"{one.rpartition('/')[0]}/255"
    assert spare not in text
    data = json.loads(text.replace(f'"{one}@', f'"{spare}@'))
    for row in data["rows"]:
        row["index"] = 255 if row["feature"].startswith(f"{spare}@") else row["index"]
    path.write_text(json.dumps(data), "utf-8")
    done = bathyscope("circuit", "eval", str(path), "--pairs", str(folder / "held-out.jsonl"))
    assert done.code == 2 and "was changed after its file was written" in done.err, done.err
    del data["checksum"]
    path.write_text(json.dumps(data), "utf-8")
    assert bathyscope("circuit", "eval", str(path), "--pairs", str(folder / "held-out.jsonl")).code == 0


def test_baselines_and_effects_are_asked_for_and_told(bathyscope, folder: Path):
    done = find(bathyscope, folder, "--baseline", "mean", "--effects", "5", "--nodes", "20")
    assert done.code == 0 and "rank correlation" in done.out and "a fifth" in done.out, done.err
    found = open_circuit(folder / "circuit.json")
    assert found.provenance["spec"]["baseline"] == "mean" and all(one["effects"] == 5 for one in found.sums)
    done = find(bathyscope, folder, "--baseline", "median")
    assert done.code == 2 and "corrupted, mean, zero" in done.err


def test_a_search_says_that_it_goes_on(bathyscope, folder: Path):
    parts = folder / ".circuit.json.parts" / "0"
    parts.mkdir(parents=True)
    (parts / "gradient.safetensors").write_bytes(b"")
    assert "going on from 1 finished part in" in find(bathyscope, folder).err


def test_labels_of_nothing_are_told(bathyscope, folder: Path):
    (folder / "circuit.labels.json").write_text(json.dumps({"resid_post.0/99999": "plural"}))
    done = bathyscope("circuit", "convert", str(folder / "circuit.json"))
    assert done.code == 0 and "1 of 1 labels name no feature that is here, such as resid_post.0/99999" in done.err
