"""`bathyscope patch`, `trace` and `knockout`: what they return, show and refuse."""

import pytest

import command_line
from bathyscope import causal, loading
from bathyscope.cli import opening
from bathyscope.readouts import LogitDiff, Probability, answer_token
from command_line import assert_one_line

tiny, bathyscope, home = command_line.tiny, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""

CLEAN, CORRUPTED = "The cat of the keeper lives in", "The cat in the keeper lives in"
ROW = {"site", "layer", "position", "token", "effect"}
PATCH = ("patch", CLEAN, CORRUPTED, "--answer", "Paris", "--wrong-answer", "of")


def test_patch_prints_what_the_library_returns(bathyscope, tiny):
    done = bathyscope(*PATCH, "--site", "resid_post", "--json", "--model", tiny)
    assert done.code == 0 and done.out.count("\n") == 1
    found, model = done.json(), loading.load(tiny)
    right, wrong = (answer_token(model, text, after=CLEAN).id for text in ("Paris", "of"))
    expected = causal.activation_patching(model, CLEAN, CORRUPTED, LogitDiff(right, wrong))
    assert found["kind"] == "causal" and found["method"] == "activation-patching"
    assert all(row.keys() >= ROW for row in found["rows"])
    assert [row["effect"] for row in found["rows"]] == pytest.approx([cell.effect for cell in expected.cells], abs=1e-6)


def test_trace_prints_what_the_library_returns(bathyscope, tiny):
    asked = ("trace", CLEAN, "--subject", "keeper", "--answer", "Paris", "--samples", "2", "--noise", "0.5", "--json")
    found, model = bathyscope(*asked, "--model", tiny).json(), loading.load(tiny)
    answer = Probability(answer_token(model, "Paris", after=CLEAN).id)
    expected = causal.causal_tracing(model, CLEAN, "keeper", answer, samples=2, noise="0.5")
    assert all(row.keys() >= ROW for row in found["rows"])
    assert [row["effect"] for row in found["rows"]] == pytest.approx([cell.effect for cell in expected.cells], abs=1e-7)
    assert {row["site"].split(".")[0] for row in found["rows"]} == {"embed", "resid_post", "mlp_out", "attn_out"}


def test_knockout_prints_what_the_library_returns(bathyscope, tiny):
    asked = ("knockout", CLEAN, "--answer", "Paris", "--keys", "cat", "--keys", "keeper", "--window", "2", "--json")
    found, model = bathyscope(*asked, "--model", tiny).json(), loading.load(tiny)
    answer = Probability(answer_token(model, "Paris", after=CLEAN).id)
    keys = {"cat": "cat", "keeper": "keeper"}
    expected = causal.attention_knockout(model, CLEAN, answer, keys=keys, window=2)
    assert [row["effect"] for row in found["rows"]] == pytest.approx([cell.effect for cell in expected.cells], abs=1e-5)
    assert [row["token"] for row in found["rows"][:2]] == ["cat", "keeper"]


@pytest.mark.parametrize("asked", [PATCH, ("trace", CLEAN, "--subject", "cat"), ("knockout", CLEAN)])
def test_a_person_sees_maps_and_the_largest_effects(bathyscope, tiny, tmp_path, asked):
    page = tmp_path / "map.html"
    done = bathyscope(*asked, "--layers", "0-2", "--explain", "--out", str(page), "--model", tiny)
    assert done.code == 0
    assert "effect at" in done.out and "Largest effects:" in done.out and "Layers count from 0" in done.out
    assert "a loop over the cells" in done.err and f"saved to {page}" in done.err
    assert "Colours" in page.read_text("utf-8") and "The largest" in page.read_text("utf-8")
    assert "<title>bathyscope: causal</title>" not in page.read_text("utf-8")
    assert "keeper" in page.read_text("utf-8") and "<script" not in page.read_text("utf-8")


def test_a_token_has_one_name_in_all_maps(bathyscope, tiny):
    words = (CLEAN, CORRUPTED, "--answer", "Paris", "--wrong-answer", "of", "--layers", "1", "--model", tiny)
    for command in ("patch", "attribute"):
        done = bathyscope(command, *words)
        assert "1 cat   2 of    3 the" in done.out, "the clean prompt's tokens, without the space before them"
        assert "of ' Paris' and ' of'" in done.out and "LogitDiff" not in done.out
        assert "is measured as" not in done.err, "that a space was put before a word goes without saying"


def test_a_short_column_has_room_for_its_numbers(bathyscope, tiny):
    place = ("--site", "resid_post", "--layers", "0", "--at", "2", "--noise", "0.001", "--samples", "1")
    done = bathyscope("trace", CLEAN, "--subject", "cat", "--answer", "Paris", *place, "--model", tiny)
    assert "e-" in done.out.split("layer 2 of")[1] and "…" not in done.out


def test_cutting_the_first_token_is_warned_of(bathyscope, tiny):
    asked = ("knockout", CLEAN, "--layers", "1", "--model", tiny)
    assert (
        "attention sink" in bathyscope(*asked).out and "attention sink" not in bathyscope(*asked, "--keys", "cat").out
    )


def test_what_is_measured_is_said_where_it_is_not_what_was_typed(bathyscope, tiny):
    done = bathyscope("knockout", CLEAN, "--answer", "lives", "--layers", "1", "--model", tiny)
    assert "is measured as" in done.err
    done = bathyscope("knockout", CLEAN, "--layers", "1", "--model", tiny)
    assert "which the model says itself" in done.err


def test_asking_again_computes_nothing(bathyscope, tiny):
    first, again = (bathyscope(*PATCH, "--layers", "1", "--json", "--model", tiny).json() for _ in range(2))
    assert again["timing"]["computed"] == 0 and again["rows"] == first["rows"]


@pytest.mark.parametrize(
    "asked",
    [
        (*PATCH, "--layers", "1", "--site", "z", "--heads"),
        (*PATCH, "--layers", "embed,1", "--window", "2"),
        ("trace", CLEAN, "--subject", "cat", "--noise", "us2", "--samples", "2", "--layers", "0-1", "--at", "last"),
        ("knockout", CLEAN, "--layers", "1,2", "--keys", "cat", "--window", "1"),
    ],
)
def test_a_run_is_asked_again_by_its_id(bathyscope, tiny, asked):
    first = bathyscope(*asked, "--json", "--model", tiny).json()
    again = bathyscope("runs", "resume", first["run"][:8], "--json").json()
    assert again["timing"]["computed"] == 0 and again["run"] == first["run"]
    for part in ("rows", "values", "prompts", "metric", "notes"):
        assert again[part] == first[part], part
    assert "effect at" in bathyscope("runs", "resume", first["run"][:8]).out
    assert CLEAN in bathyscope("runs", "list").out


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("patch", CLEAN, "The cat", "--answer", "Paris"), "both must have as many"),
        (("patch", CLEAN, CLEAN, "--answer", "Paris"), "must differ"),
        (("patch", CLEAN, "", "--answer", "Paris"), "empty prompt"),
        ((*PATCH[:-1], "Paris"), "two tokens are compared"),
        ((*PATCH, "--site", "logits"), "resid_post"),
        ((*PATCH, "--site", "resid_pots"), "no component is called 'resid_pots'"),
        ((*PATCH, "--site", "resid_post.12"), "Try: resid_post\n"),
        (("attribute", CLEAN, CORRUPTED, "--site", "resid_post.12"), "Try: resid_post\n"),
        (("knockout", CLEAN, "--layers", "embed,1"), "no attention to cut. Try: 1\n"),
        ((*PATCH, "--heads"), "have heads"),
        ((*PATCH, "--layers", "99"), "does not exist"),
        ((*PATCH, "--at", "zebra"), "it is not there"),
        ((*PATCH, "--window", "0"), "--window"),
        ((*PATCH, "--direction", "up"), "denoising"),
        ((*PATCH, "--out", "map.txt"), ".json or .html"),
        (("trace", CLEAN, "--subject", "Eiffel"), "the tokens are 0 'The'"),
        (("trace", CLEAN, "--subject", "Cat"), "subject 'Cat' was given and it is not there"),
        (("trace", CLEAN, "--subject", "Cat"), "Try: cat\n"),
        (("knockout", CLEAN, "--keys", "keper"), "Try: keeper, an index\n"),
        (("trace", CLEAN, "--subject", "cat", "--noise", "loud"), "s3"),
        (("trace", CLEAN, "--subject", "cat", "--samples", "0"), "--samples"),
        (("trace", CLEAN), "--subject"),
        (("knockout", CLEAN, "--keys", "zebra"), "it is not there"),
        (("knockout", CLEAN, "--queries", "cat", "--keys", "keeper"), "looks back only"),
        (("knockout", CLEAN, "--answer", " "), "seen"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(bathyscope, tiny, asked, says):
    done = bathyscope(*asked, "--model", tiny)
    assert done.code == 2
    assert_one_line(done, says)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("trace", CLEAN, "--subject", "cat", "--noise", "loud"), "loud"),
        (("trace", CLEAN, "--subject", "cat", "--site", "resid"), "no component is called 'resid'"),
        ((*PATCH, "--site", "resid_post", "--heads"), "have heads"),
        (("knockout", CLEAN, "--answer", ""), "the answer '' was given"),
        (("attribute", CLEAN, CORRUPTED, "--site", "logits"), "attributions at 'logits'"),
        (("patchscope", CLEAN, "--controls", "zeros"), "Try: no-activation"),
        (("patchscope", CLEAN, "--target-model", "./no-such-model"), "there is no folder './no-such-model'"),
    ],
)
def test_what_can_be_is_told_before_a_model_is_waited_for(bathyscope, monkeypatch, asked, says):
    monkeypatch.setattr(loading, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(opening, "embedded_path", lambda: pytest.fail("a model was fetched"))
    assert_one_line(bathyscope(*asked), says)
