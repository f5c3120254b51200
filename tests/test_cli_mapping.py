"""`bathyscope mapping`, and patchscopes with what it wrote: the contract, the defaults, interruptions and refusals."""

import dataclasses
import json
import random
import signal
from pathlib import Path

import pytest
import torch

import command_line
from bathyscope.cli.fit_request import Request
from bathyscope.cli.mapping_choice import layers_for
from bathyscope.cli.text_files import read_statements
from bathyscope.errors import UsageError
from bathyscope.fitting import collecting, tuned
from bathyscope.fitting.checkpoints import Checkpoint
from bathyscope.mappings import Affine, Fit, Scale, Term, model_identity
from bathyscope.sites import residual_site
from command_line import TEXT, Outcome, assert_one_line
from conftest import tiny_model
from families import FAMILIES, save_tiny
from tokenizers_for_tests import tiny_tokenizer

tiny, narrow, bathyscope, home = command_line.tiny, command_line.narrow, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    return str(save_tiny("gpt2", tmp_path_factory.mktemp("gpt2")))


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> str:
    """A model of twelve layers."""
    folder, family = tmp_path_factory.mktemp("deep"), FAMILIES["llama"]
    dataclasses.replace(family, settings={**family.settings, "num_hidden_layers": 12}).build().save_pretrained(folder)
    tiny_tokenizer(bos=True).save_pretrained(folder)
    return str(folder)


WORDS = ("the", "sea", "and", "city", "a", "princess", "of", "Wales", "lives", "in", "cat", "capital", "France", "is")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path, draw = tmp_path_factory.mktemp("text") / "news.txt", random.Random(0)
    path.write_text("\n\n".join(" ".join(draw.choice(WORDS) for _ in range(400)) for _ in range(8)))
    return str(path)


FEW = ("--positions", "600")


# The contract


@pytest.fixture(scope="module")
def between(tiny, other, text, tmp_path_factory) -> str:
    """A mapping from one model to another, fitted by a command with nothing but defaults."""
    from bathyscope import cli

    path = str(tmp_path_factory.mktemp("between") / "MAP")
    code = cli.main(
        ["mapping", "fit", "--source-model", tiny, "--target-model", other, "--text", text, "--out", path, "--json"]
    )
    assert code == 0
    return path


def test_a_fit_with_defaults_is_shown_and_applied(bathyscope, tiny, other, between):
    shown = bathyscope("mapping", "show", between, "--json").json()
    mapping = Affine.load(between)
    assert (shown["kind"], shown["method"], shown["path"]) == ("mapping", "ridge", between)
    assert shown["fingerprint"] == mapping.fingerprint()
    assert shown["fit"] == json.loads(json.dumps(dataclasses.asdict(mapping.fit)))
    assert [shown["fit"][side]["model"] for side in ("source", "target")] == [tiny, other]
    assert {f"{source}>{target}" for source, target in mapping.terms} == {
        f"{site}>{site}" for site in map(residual_site, range(-1, 4))
    }
    done = bathyscope(
        "patchscope", TEXT, "--model", tiny, "--target-model", other, "--mapping", between, "--top", "1", "--json"
    )
    assert (done.code, done.err) == (0, "")
    found = done.json()
    assert found["provenance"]["spec"]["mapping_fingerprint"] == mapping.fingerprint()
    assert [(cell["source_layer"], cell["target_layer"]) for cell in found["cells"]] == [
        (layer, layer) for layer in range(-1, 4)
    ]


def test_a_mapping_leads_to_another_width(bathyscope, tiny, narrow, text, tmp_path):
    out, models = str(tmp_path / "map"), ("--target-model", narrow)
    done = bathyscope("mapping", "fit", "--source-model", tiny, *models, "--text", text, *FEW, "--out", out)
    assert done.code == 0 and "width 48) to " in done.out and "width 32)" in done.out
    patch = ("patchscope", TEXT, "--model", tiny, *models, "--layers", "1", "--target-layer", "1", "--new-tokens", "2")
    assert bathyscope(*patch).code == 2
    told = bathyscope(*patch, "--mapping", out)
    assert told.code == 0 and "written: at the same layer (ridge), over 'x' of" in told.out


def test_what_a_fit_prints(bathyscope, tiny, text, tmp_path):
    out = tmp_path / "map"
    done = bathyscope("mapping", "fit", "--model", tiny, "--text", text, *FEW, "--out", str(out))
    assert done.code == 0 and done.err.splitlines()[-1] == f"saved to {out}"
    assert f"models:    {tiny} (4 layers, width 48)" in done.out
    assert "positions: 600, 12.5 for each number of the width 48" in done.out
    held_out = Affine.load(out).fit.held_out
    rows = [line.split() for line in done.out.splitlines() if line.split()[1:2] == ["3"]]
    assert [row[0] for row in rows] == ["embed", "0", "1", "2", "3"]
    for row, errors in zip(rows, held_out.values(), strict=True):
        assert [float(one) for one in row[2:]] == pytest.approx(list(errors.values()), rel=1e-3)
    assert bathyscope("mapping", "show", str(out)).out.splitlines()[-12:] == done.out.splitlines()[-12:]


def test_a_linear_map_of_a_model_onto_itself_is_the_identity(bathyscope, tiny, text, tmp_path):
    """Theory: x = x W has the least squares solution W = 1, so a patchscope with it says what one without says."""
    out = str(tmp_path / "map")
    asked = ("--method", "linear", "--layers", "1,2", "--target-layers", "same")
    found = bathyscope("mapping", "fit", "--model", tiny, "--text", text, *asked, "--out", out, *FEW, "--json").json()
    assert all(errors["error"] < 1e-10 for errors in found["fit"]["held_out"].values())
    patch = ("patchscope", TEXT, "--model", tiny, "--new-tokens", "6", "--json")
    mapped = bathyscope(*patch, "--mapping", out)
    assert mapped.err == "layers 1,2 to the same, which this linear was fitted for\n"
    plain = bathyscope(*patch, "--layers", "1,2")
    texts = [[cell["text"] for cell in done.json()["cells"]] for done in (mapped, plain)]
    assert texts[0] == texts[1]
    table = bathyscope(*patch[:-1], "--mapping", out).out
    assert "written: at the same layer (linear), over" in table


@pytest.mark.parametrize("method", ["affine", "least-squares", "scalar-affine", "procrustes", "mean-shift"])
def test_every_method_writes_a_mapping_of_its_name(bathyscope, tiny, text, tmp_path, method):
    out = str(tmp_path / "map")
    asked = ("--model", tiny, "--text", text, "--layers", "1", "--method", method, *FEW, "--out", out)
    found = bathyscope("mapping", "fit", *asked, "--json").json()
    assert found["method"] == {"affine": "ridge"}.get(method, method) == Affine.load(out).fit.method


def test_lenses_that_are_fitted_are_the_lenses_own(bathyscope, tiny, text, tmp_path):
    """From the command that fits to the command that looks, for the methods that no other test fits."""
    statements = tmp_path / "capitals.txt"
    statements.write_text("The capital of [France] is\n\nThe king of [Wales] is\n")
    for method, lens, more in (
        ("tuned-lens", "tuned-lens", ("--text", text, *FEW)),
        ("jacobian-lens", "jacobian-lens", ("--text", text, "--positions", "128")),
        ("linear", "linear-shortcut", ("--text", text, *FEW)),
        ("relation", "attribute-lens", ("--text", str(statements), "--layers", "1")),
        ("future-lens", "future-lens", ("--text", text, *FEW, "--ahead", "2")),
        ("soft-prompt", "future-lens", ("--text", text, "--positions", "8", "--ahead", "1", "--layers", "2")),
    ):
        out = str(tmp_path / f"{method}.map")
        done = bathyscope("mapping", "fit", "--method", method, "--model", tiny, *more, "--out", out)
        assert done.code == 0 and f"method:    {method}" in done.out, done.err
        assert not Path(f"{out}.checkpoint").exists()
        seen = bathyscope("lens", lens, TEXT, "--mapping", out, "--model", tiny, "--json")
        assert seen.code == 0 and seen.json()["lens"] == lens, seen.err
        layers = {cell["layer"] for cell in seen.json()["cells"]}
        assert layers == {"relation": {1}, "soft-prompt": {2}}.get(method, {-1, 0, 1, 2, 3})
    refused = bathyscope("lens", "future-lens", TEXT, "--ahead", "2", "--mapping", str(tmp_path / "future-lens.map"))
    assert refused.code == 2
    assert_one_line(refused, "--ahead 2 was given with --mapping")


def test_statements_name_their_subject_in_brackets(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("Rome, Rome: the capital of [Rome] is\n\n[Ann] lives in\n")
    prompts, subjects = read_statements(path)
    assert prompts == ["Rome, Rome: the capital of Rome is", "Ann lives in"]
    assert [(subject.text, subject.occurrence) for subject in subjects] == [("Rome", 2), ("Ann", 0)]


# Defaults


def request(source: str, target: str, layers: str | None = None, target_layers: str | None = None) -> Request:
    models = {name: tiny_model(name) for name in (source, target)}
    more = dict.fromkeys(("positions", "ahead", "seed", "checkpoint", "progress", "stop"))
    return Request(models[source], models[target], None, "text", layers, target_layers, **more)


def test_layers_that_are_paired_unless_said():
    assert request("llama", "llama").pairs() == [(layer, 3) for layer in range(-1, 4)]
    assert request("llama", "gpt2").pairs() == [(layer, layer) for layer in range(-1, 4)]
    assert request("llama", "gpt2", "1,2", "all").pairs() == [(one, two) for one in (1, 2) for two in range(-1, 4)]
    assert request("llama", "gpt2", "1,2", "last").pairs() == [(1, 3), (2, 3)]
    assert request("llama", "llama", None, "same").pairs() == [(layer, layer) for layer in range(-1, 4)]


def test_models_of_two_depths_are_paired_by_a_few_layers_of_each(bathyscope, tiny, deep, text, tmp_path):
    out = str(tmp_path / "map")
    done = bathyscope(
        "mapping", "fit", "--source-model", tiny, "--target-model", deep, "--text", text, *FEW, "--out", out, "--json"
    )
    grid = [(one, two) for one in range(4) for two in (1, 3, 5, 7, 9, 11)]
    assert list(done.json()["fit"]["held_out"]) == [f"resid_post.{one}>resid_post.{two}" for one, two in grid]
    patch = ("patchscope", TEXT, "--model", tiny, "--target-model", deep, "--mapping", out, "--top", "1", "--json")
    found = bathyscope(*patch)
    assert found.err == "layers 0,1,2,3 to 1,3,5,7,9,11, which this ridge was fitted for\n"
    assert [(cell["source_layer"], cell["target_layer"]) for cell in found.json()["cells"]] == grid
    found = bathyscope(*patch, "--target-layer", "5")
    assert [(cell["source_layer"], cell["target_layer"]) for cell in found.json()["cells"]] == [
        (one, 5) for one in range(4)
    ]
    refused = bathyscope(*patch, "--target-layer", "4")
    assert refused.code == 2
    assert_one_line(refused, "to resid_post.4 is needed; this ridge has resid_post.0 to resid_post.1")


def fitted_for(*pairs: tuple[int, int]) -> Affine:
    identity = model_identity(tiny_model("llama"))
    terms = {(residual_site(one), residual_site(two)): Term(torch.tensor(1.0)) for one, two in pairs}
    return Affine(terms, Fit("ridge", identity, identity))


@pytest.mark.parametrize(
    ("pairs", "layers", "target_layer", "expected", "told"),
    [
        ([(1, 1), (2, 2)], None, None, ((1, 2), "same"), "layers 1,2 to the same"),
        ([(1, 1), (2, 2)], "2", None, ((2,), "same"), ""),
        ([(layer, layer) for layer in range(-1, 4)], None, None, (tuple(range(-1, 4)), "same"), ""),
        ([(1, 3), (2, 3)], None, None, ((1, 2), (3,)), "layers 1,2 to 3"),
        ([(1, 3), (2, 3)], "2", None, ((2,), (3,)), "layers 2 to 3"),
        ([(1, 2), (1, 3), (2, 3)], None, None, ((1, 2), (3,)), "layers 1,2 to 3"),
        ([(1, 2), (1, 3), (2, 3)], None, "2", ((1,), "2"), "layers 1 to 2"),
        ([(1, 1), (1, 3)], None, "same", ((1,), "same"), "layers 1 to the same"),
        ([(1, 3)], None, "2", ("all", "2"), ""),
        ([(1, 3)], "0-2", "all", ("0-2", "all"), ""),
    ],
)
def test_layers_of_a_patchscope_are_those_of_its_mapping_unless_said(
    pairs, layers, target_layer, expected, told, capfd
):
    model = tiny_model("llama")
    assert layers_for(fitted_for(*pairs), (model, model), layers, target_layer) == expected
    assert capfd.readouterr().err == (f"{told}, which this ridge was fitted for\n" if told else "")


def test_layers_without_a_fitted_mapping_are_the_usual_ones(capfd):
    model = tiny_model("llama")
    assert layers_for(Scale(2.0), (model, model), None, None) == ("all", "same")
    assert layers_for(Scale(2.0), (model, model), "1", "2") == ("1", "2")
    assert capfd.readouterr().err == ""
    with pytest.raises(UsageError, match="fitted for none that goes with all of them"):
        layers_for(fitted_for((1, 2), (2, 3)), (model, model), None, None)


def test_a_factor_may_stand_in_the_mappings_name(bathyscope, tiny):
    patch = ("patchscope", TEXT, "--layers", "0-2", "--top", "1", "--json", "--model", tiny)
    named, option = (bathyscope(*patch, *how).json() for how in (("--mapping", "scale:2"), ("--scale", "2")))
    assert named["cells"] == option["cells"]
    assert (named["provenance"]["spec"]["mapping"], named["provenance"]["spec"]["factor"]) == ("Scale", 2.0)


def test_without_a_text_the_model_writes_one_and_that_is_said(bathyscope, tiny, tmp_path):
    out, asked = str(tmp_path / "map"), ("--layers", "1", "--method", "mean-shift", "--positions", "50")
    done = bathyscope("mapping", "fit", "--model", tiny, *asked, "--seed", "3", "--out", out, "--json")
    assert done.err.splitlines()[0] == f"no --text was given: {tiny} writes 8 documents itself"
    assert done.json()["fit"]["text"]["format"] == "sampled from the model" and done.json()["fit"]["text"]["seed"] == 3


# What goes wrong


def test_too_little_text_is_a_warning_with_the_numbers(bathyscope, tiny, text, tmp_path):
    out = tmp_path / "map"
    done = bathyscope(
        "mapping", "fit", "--model", tiny, "--text", text, "--positions", "40", "--out", str(out), "--json"
    )
    assert done.code == 0 and done.json()["fit"]["n_samples"] == 40
    warned, saved = done.err.splitlines()
    assert warned.startswith("warning: ridge was fitted on 40 positions at width 48") and saved == f"saved to {out}"


def fit(bathyscope, out: Path, *arguments: str) -> Outcome:
    return bathyscope("mapping", "fit", *arguments, "--out", str(out))


def test_bad_input_is_refused_and_nothing_is_overwritten(bathyscope, tiny, other, text, tmp_path):
    out, model = tmp_path / "old.map", ("--model", tiny)
    out.write_bytes(b"an older mapping")
    latin, empty, short = (tmp_path / f"{name}.txt" for name in ("latin", "empty", "short"))
    latin.write_bytes("naïve café ".encode("latin-1") * 200)
    empty.write_bytes(b"\n \n")
    short.write_text("One line.\n\n" * 3)
    for arguments, fragment in (
        (["--text", str(tmp_path / "none.txt")], "does not exist"),
        (["--text", str(latin)], "latin.txt"),
        (["--text", str(empty)], "has no text in it"),
        (["--text", str(short), *model], "document"),
        (["--text", str(tmp_path)], "is a folder"),
        (["--text", text, "--column", "body"], "plain text has no columns"),
        (["--text", text, "--method", "magic"], "--method magic was given; methods are ridge"),
        (["--text", text, "--method", "jacobian-lens", "--target-layers", "3"], "--target-layers was given with"),
        (["--text", text, "--method", "jacobian-lens", "--target-model", other], "--target-model was given with"),
        (["--text", text, "--ahead", "2"], "only future-lens, soft-prompt have it"),
        (["--method", "relation", "--layers", "1", *model], "no --text was given with --method relation"),
        (["--method", "relation", "--text", text, "--layers", "1"], "line 1 of news.txt has no subject"),
        (["--method", "soft-prompt", "--text", text, *model], "no --layers was given"),
        (["--text", text, "--layers", "same"], "'same' is not a choice of layers"),
        (["--text", text, "--layers", "9", *model], "layer 9 does not exist"),
        (["--text", text, "--target-layers", "9", *model], "layer 9 does not exist"),
        (["--text", text, "--positions", "1"], "'--positions'"),
        (["--text", text, "--revision", "main"], "without --model"),
    ):
        done = fit(bathyscope, out, *arguments)
        assert (done.code, done.out) == (2, ""), (arguments, done)
        assert_one_line(done, fragment)
        assert out.read_bytes() == b"an older mapping"
    assert fit(bathyscope, out, "--text", text, *model, *FEW).code == 0
    assert Affine.load(out).fit.n_samples == 600


def test_files_that_no_mapping_can_be_kept_in(bathyscope, text, tmp_path):
    copy = tmp_path / "text.txt"
    copy.write_bytes(Path(text).read_bytes())
    for out, fragment in (
        (tmp_path, "that is a folder"),
        (tmp_path / "none" / "map", "there is no folder"),
        (copy, "that is the text that is read"),
    ):
        done = fit(bathyscope, out, "--text", str(copy))
        assert done.code == 2
        assert_one_line(done, fragment)
    assert copy.read_bytes() == Path(text).read_bytes()
    missing = bathyscope("mapping", "fit", "--text", text)
    assert missing.code == 2
    assert_one_line(missing, "Missing option '--out'")


def test_a_file_that_is_no_mapping_is_not_shown(bathyscope, text):
    done = bathyscope("mapping", "show", text)
    assert (done.code, done.out) == (2, "")
    assert_one_line(done, "could not be read as a mapping")


def test_a_mapping_refuses_models_that_it_was_not_fitted_on(bathyscope, tiny, other, between):
    done = bathyscope("patchscope", TEXT, "--model", other, "--target-model", tiny, "--mapping", between)
    assert (done.code, done.out) == (2, "")
    assert_one_line(done, "as its source", "very weights")


def test_a_fit_that_is_interrupted_leaves_what_was_there(bathyscope, tiny, text, tmp_path, monkeypatch):
    out, read = tmp_path / "map", collecting.Side.read

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return read(*arguments)

    out.write_bytes(b"older")
    monkeypatch.setattr(collecting.Side, "read", interrupted)
    done = fit(bathyscope, out, "--model", tiny, "--text", text, "--positions", "3000")
    assert (done.code, done.out, out.read_bytes()) == (130, "", b"older")
    assert "bathyscope: the fit was stopped; nothing of it is kept" in done.err


@pytest.mark.parametrize(("method", "positions"), [("jacobian-lens", "1024"), ("tuned-lens", "2500")])
def test_a_fit_that_keeps_a_checkpoint_goes_on_where_it_was(
    bathyscope, tiny, text, tmp_path, monkeypatch, method, positions
):
    monkeypatch.setattr(tuned, "PORTION", 8)  # steps after which a checkpoint is written
    asked = ("--model", tiny, "--text", text, "--method", method, "--positions", positions)
    whole, out = tmp_path / "whole", tmp_path / "map"
    assert fit(bathyscope, whole, *asked).code == 0
    write, calls = Checkpoint.write, []

    def interrupted(*arguments):
        write(*arguments)
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "write", interrupted)
    stopped = fit(bathyscope, out, *asked)
    kept = tmp_path / "map.checkpoint"
    assert stopped.code == 130 and not out.exists() and kept.exists()
    assert f"the same command goes on from {kept}" in stopped.err
    done = fit(bathyscope, out, *asked)
    assert done.code == 0 and not kept.exists() and len(calls) > 1
    assert Affine.load(out) == Affine.load(whole)
