"""`bathyscope attribute` and `bathyscope steer`: what they print, and what they refuse."""

import json

import pytest

from bathyscope.results import Result
from command_line import assert_one_line, bathyscope, deep, home, tiny  # noqa: F401 (fixtures)

PAIR = ("The boats of the city", "The boat of the city")
ANSWERS = ("--answer", "is", "--wrong-answer", "cat")
SIDES = ("--positive", "The capital of France", "--negative", "The cat", "--layer", "1")


def test_direct_attributions_add_up(bathyscope, tiny):  # noqa: F811
    found = bathyscope("attribute", PAIR[0], *ANSWERS, "--model", tiny, "--json").json()
    assert (found["kind"], found["method"]) == ("attribution", "direct")
    assert sum(row["attribution"] for row in found["rows"]) == pytest.approx(found["values"]["logit"], abs=1e-4)
    assert found["metric"]["answer_text"] == " is"
    shown = bathyscope("attribute", PAIR[0], *ANSWERS, "--model", tiny, "--at", "1")
    assert shown.code == 0 and "direct attribution of each block" in shown.out and "head 3" in shown.out
    assert "logit difference of ' is' and ' cat'" in shown.out and "0.0000" in shown.out


@pytest.mark.parametrize("method", ["attribution-patching", "integrated-gradients"])
def test_estimates_stand_beside_what_is_measured(bathyscope, tiny, tmp_path, method):  # noqa: F811
    out = tmp_path / "map.html"
    arguments = (*PAIR, *ANSWERS, "--model", tiny, "--method", method, "--measure", "all", "--layers", "0-3")
    found = bathyscope("attribute", *arguments, "--json", "--out", str(out)).json()
    assert {"site", "layer", "head", "position", "token", "attribution", "effect"} <= set(found["rows"][0])
    assert all(row["effect"] is not None for row in found["rows"]) and found["rank_correlation"] is not None
    page = out.read_text("utf-8")
    assert f"{method.replace('-', ' ')}: attribution at resid_post" in page
    assert "Colours" in page and "The largest" in page and PAIR[0] in page
    shown = bathyscope("attribute", *arguments)
    assert "rank correlation" in shown.out and "effect at resid_post" in shown.out and "1 boat" in shown.out
    assert PAIR[0] in shown.out and PAIR[1] in shown.out


def test_a_correlation_of_few_effects_says_so(bathyscope, tiny):  # noqa: F811
    arguments = ("attribute", *PAIR, *ANSWERS, "--model", tiny, "--layers", "0-3", "--measure")
    assert "so few say little" in " ".join(bathyscope(*arguments, "5").out.split())
    assert "so few" not in bathyscope(*arguments, "all").out


def test_edges_are_listed(bathyscope, tiny, tmp_path):  # noqa: F811
    out = tmp_path / "edges.json"
    arguments = (*PAIR, *ANSWERS, "--model", tiny, "--method", "edges", "--out", str(out))
    shown = bathyscope("attribute", *arguments, "--steps", "2", "--top", "3")
    assert shown.code == 0 and shown.out.count("+") + shown.out.count("-") >= 3
    strongest = Result.load(out).strongest(3)
    for edge in strongest:
        assert edge.sender in shown.out and edge.receiver in shown.out
    assert bathyscope("attribute", *arguments, "--json").json()["method"] == "edges"


def test_pairs_of_a_file_add_up(bathyscope, tiny, tmp_path):  # noqa: F811
    lines = [
        {"clean": clean, "corrupted": corrupted, "answer": " is", "wrong_answer": " cat"}
        for clean, corrupted in (PAIR, ("The boats", "The boat"), ("The cat", "The cat is"))
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    shown = bathyscope("attribute", "--pairs", str(path), "--layers", "2", "--steps", "3", "--model", tiny)
    assert shown.code == 0 and "1 others" in shown.err and "gradients of 2 pairs, 3 steps" in shown.out
    found = bathyscope("attribute", "--pairs", str(path), "--layers", "embed,3", "--model", tiny, "--json").json()
    assert [row["layer"] for row in found["rows"]] == [-1, -1, 3, 3] and len(found["summary"]) == 2
    assert_one_line(bathyscope("attribute", "--pairs", str(tmp_path / "none"), "--model", tiny), "could not be read")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("attribute",), "no prompt was given"),
        (("attribute", PAIR[0], "--method", "edges"), "direct reads one prompt"),
        (("attribute", *PAIR, "--method", "direct"), "direct reads one prompt"),
        (("attribute", PAIR[0], "--site", "z"), "--site was given to direct"),
        (("attribute", *PAIR, "--steps", "3"), "--steps was given to attribution-patching"),
        (("attribute", *PAIR, "--method", "edges", "--layers", "3"), "--layers was given to edges"),
        (("attribute", *PAIR, "--measure", "many"), "--measure many"),
        (("attribute", PAIR[0], "--pairs", "x.jsonl"), "--pairs was given with"),
        (("attribute", *PAIR, "--out", "map.txt"), ".json or .html"),
        (("steer", "The cat"), "prompts of both sides"),
        (("steer", "The cat", *SIDES, "--factors", "a"), "--factors a"),
        (("steer", "The cat", *SIDES, "--direction", "x.json"), "it has its own"),
        (("steer", "The cat", *SIDES, "--keep", "x.txt"), ".json"),
        (("steer", "The cat", "--direction", "none.json"), "could not be read"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(bathyscope, tiny, arguments, fragment):  # noqa: F811
    done = bathyscope(*arguments, "--model", tiny)
    assert done.code == 2
    assert_one_line(done, fragment)


def test_prompts_of_different_length_are_refused_with_their_tokens(bathyscope, tiny):  # noqa: F811
    done = bathyscope("attribute", "The cat", "The cat is", *ANSWERS, "--model", tiny)
    assert done.code == 2 and "2 tokens (0 'The', 1 ' cat')" in done.err and "2 ' is'" in done.err


def test_steering_stands_beside_its_controls(bathyscope, tiny, tmp_path):  # noqa: F811
    keep, out = tmp_path / "kind.json", tmp_path / "steered.html"
    common = ("--model", tiny, "--new-tokens", "3", "--factors", "-2,3")
    found = bathyscope("steer", "The cat", *SIDES, *common, "--json", "--keep", str(keep), "--out", str(out)).json()
    assert [(row["direction"], row["factor"]) for row in found["rows"]] == [
        ("none", 0.0),
        ("direction", -2.0),
        ("random", -2.0),
        ("direction", 3.0),
        ("random", 3.0),
    ]
    assert "3 x random" in out.read_text("utf-8")
    again = bathyscope("steer", "The cat", "--direction", str(keep), *common, "--json").json()
    assert again["rows"] == found["rows"]
    shown = bathyscope("steer", "The cat", "--direction", str(keep), *common)
    assert "-2 x direction" in shown.out and "nothing" in shown.out
