"""`bathyscope lens`: what it returns, and what it refuses. What it draws is in test_heatmaps.py."""

import inspect
import json
import re
import shlex
import typing

import pytest
import torch

import bathyscope as library
import command_line
from bathyscope import loading, results
from bathyscope.cli import opening
from bathyscope.cli.lens import command
from bathyscope.cli.lenses import KEYWORDS, LENSES, lens_name
from bathyscope.lens_result import LensResult
from bathyscope.mappings import Affine, Fit, Term, model_identity
from bathyscope.sites import residual_site
from command_line import TEXT, Outcome, assert_one_line
from families import save_tiny

tiny, bathyscope, home = command_line.tiny, command_line.bathyscope, command_line.home
"""The fixtures that are used here."""


@pytest.fixture(scope="module")
def shift(tiny, tmp_path_factory) -> dict[str, str]:
    """For each method a mapping of that name: to the last layer, and from the first two to layer 2."""
    model, folder = loading.load(tiny), tmp_path_factory.mktemp("maps")
    last = model.n_layers - 1
    pairs = [(layer, last) for layer in range(-1, last + 1)] + [(-1, 2), (0, 2)]
    generator = torch.Generator().manual_seed(0)
    terms = {
        (residual_site(layer), residual_site(target)): Term(
            torch.eye(model.d_model), torch.randn(model.d_model, generator=generator)
        )
        for layer, target in pairs
    }
    identity = model_identity(model)
    paths = {}
    for method in ("tuned-lens", "jacobian-lens", "linear", "relation", "future-lens"):
        paths[method] = str(folder / f"{method}.safetensors")
        Affine(terms, Fit(method, identity, identity, n_samples=1)).save(paths[method])
    return paths


# What it returns


def test_json_is_what_the_library_returns(bathyscope, tiny):
    done = bathyscope("lens", "logit-lens", TEXT, "--json", "--model", tiny)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 1)
    found, expected = done.json(), library.lenses.logit_lens(loading.load(tiny), TEXT)
    assert (found["kind"], found["lens"]) == ("lens", "logit-lens")
    assert found["cells"] == json.loads(expected.to_json())["cells"]
    assert [cell["layer"] for cell in found["cells"][:5]] == [-1, 0, 1, 2, 3]


def test_the_last_layer_says_what_the_model_says(bathyscope, tiny):
    cells = bathyscope("lens", "logit", TEXT, "--layers", "3", "--top", "2", "--json", "--model", tiny).json()["cells"]
    model = loading.load(tiny)
    with torch.no_grad():
        shares = model.hf(torch.tensor([model.tokenize(TEXT).ids])).logits[0].softmax(-1)
    for cell, share in zip(cells, shares, strict=True):
        best = share.topk(2)
        assert [one["id"] for one in cell["candidates"]] == best.indices.tolist()
        assert [one["probability"] for one in cell["candidates"]] == pytest.approx(best.values.tolist(), rel=1e-4)


def test_positions_layers_and_candidates_are_those_asked_for(bathyscope, tiny):
    asked = ("--at", "Princess", "--layers", "embed,2", "--top", "3", "--json", "--model", tiny)
    cells = bathyscope("lens", "token-identity", TEXT, *asked).json()["cells"]
    assert [(cell["layer"], cell["token"], len(cell["candidates"])) for cell in cells] == [
        (-1, " Princess", 3),
        (2, " Princess", 3),
    ]


def test_every_lens_of_the_library_has_a_name_and_takes_what_its_options_become():
    assert {lens.function for lens in LENSES.values()} == set(library.lenses.__all__) - {"LensOptions"}
    typed = set(library.lenses.LensOptions.__annotations__)
    for lens in LENSES.values():
        taken = inspect.signature(getattr(library.lenses, lens.function)).parameters
        named = set(taken) | (typed if "options" in taken else set())
        wanted = {KEYWORDS.get(option, option) for option in lens.takes}
        renamed = {"at": "position", "layers": "layer", "memory": "budget", "explain": "planned"}
        renamed["mapping"] = lens.mapping_as
        assert {renamed.get(name, name) for name in wanted} <= named, lens.function


def test_the_help_says_what_each_lens_shows():
    told = dict(re.findall(r"^      ([a-z-]+) {2,}(.+)$", inspect.getdoc(command).replace("\n  ", "\n      "), re.M))
    assert told == {name: lens.shows for name, lens in LENSES.items()}


def test_a_word_of_a_name_is_enough_if_no_other_has_it():
    assert [lens_name(word) for word in ("tuned", "bare", "shortcut", "token-identity", "future")] == [
        "tuned-lens",
        "bare-placeholder",
        "linear-shortcut",
        "token-identity",
        "future-lens",
    ]


@pytest.mark.parametrize("lens", ["tuned-lens", "jacobian-lens", "linear-shortcut", "attribute-lens", "future-lens"])
def test_a_fitted_lens_reads_its_mapping(bathyscope, tiny, shift, lens):
    """The mapping adds a constant: at the last block that is norm and unembedding of the sum."""
    method = {"linear-shortcut": "linear", "attribute-lens": "relation"}.get(lens, lens)
    asked = ("lens", lens, TEXT, "--layers", "3", "--at", "last", "--top", "1", "--mapping", shift[method])
    (cell,) = bathyscope(*asked, "--json", "--model", tiny).json()["cells"]
    model, mapping = loading.load(tiny), Affine.load(shift[method])
    last = residual_site(3)
    state = library.capture(model, TEXT, [last])[last][0][-1]
    expected = model.unembed(mapping.apply(state[None], last, last)).softmax(-1).max()
    assert cell["candidates"][0]["probability"] == pytest.approx(float(expected), rel=1e-4)


def test_a_fitted_lens_reads_the_layers_that_it_was_fitted_for(bathyscope, tiny, shift):
    done = bathyscope("lens", "shortcut", TEXT, "--to", "2", "--mapping", shift["linear"], "--json", "--model", tiny)
    assert {cell["layer"] for cell in done.json()["cells"]} == {-1, 0}
    assert done.err == "layers -1,0, which this linear was fitted for\n"
    done = bathyscope("lens", "shortcut", TEXT, "--mapping", shift["linear"], "--json", "--model", tiny)
    assert {cell["layer"] for cell in done.json()["cells"]} == {-1, 0, 1, 2, 3} and done.err == ""


def test_a_published_jacobian_lens_is_read(bathyscope, tiny, tmp_path):
    model = loading.load(tiny)
    eye = torch.eye(model.d_model, dtype=torch.float16)
    content = {"J": {0: eye, 2: eye}, "source_layers": [0, 2], "d_model": model.d_model, "n_prompts": 1}
    torch.save(content, tmp_path / "lens.pt")
    asked = (TEXT, "--layers", "0,2", "--json", "--model", tiny)
    found = bathyscope("lens", "jacobian-lens", "--mapping", str(tmp_path / "lens.pt"), *asked).json()
    plain = bathyscope("lens", "logit-lens", *asked).json()
    assert found["lens"] == "jacobian-lens" and found["cells"] == plain["cells"]


def test_explain_says_before_that_the_logit_lens_needs_no_target_pass(bathyscope, tiny):
    def passes(lens: str) -> tuple[int, int]:
        done = bathyscope("lens", lens, TEXT, "--explain", "--json", "--model", tiny)
        assert done.json()["kind"] == "lens"
        common, batch = (re.search(rf"{name} passes +(\d+)", done.err)[1] for name in ("common target", "batch"))
        return int(common), int(batch)

    assert passes("logit-lens") == (0, 0)
    assert passes("token-identity") == (1, 1)


def test_cells_are_kept_only_where_that_is_asked_for(bathyscope, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    bathyscope("lens", "logit-lens", TEXT, "--json", "--model", tiny)
    assert bathyscope("runs", "list", "--json").json()["runs"] == []
    stored = bathyscope("lens", "logit-lens", TEXT, "--store", "--json", "--model", tiny).json()
    (run,) = bathyscope("runs", "list", "--json").json()["runs"]
    assert (run["cells"], run["done"]) == (25, 25)
    shown = bathyscope("runs", "resume", run["id"])
    assert shown.code == 0 and "written: at layer 3" in shown.out and "nothing written" not in shown.out
    assert repr(stored["cells"][0]["text"]) in shown.out


@pytest.mark.parametrize("ending", [".json", ".html"])
def test_out_writes_a_file_beside_what_is_printed(bathyscope, tiny, tmp_path, ending):
    out = tmp_path / f"lens{ending}"
    done = bathyscope("lens", "logit-lens", TEXT, "--out", str(out), "--model", tiny)
    assert done.code == 0 and done.err == f"saved to {out}\n" and "Princess" in done.out
    if ending == ".json":
        assert isinstance(results.Result.load(out), LensResult)
    else:
        assert "--heat: " in out.read_text("utf-8") and "<script" not in out.read_text("utf-8")


# What it refuses


def refused(bathyscope, *arguments: str) -> Outcome:
    done = bathyscope("lens", *arguments)
    assert (done.code, done.out) == (2, "")
    return done


WITHOUT_A_MODEL = [
    (["poetry", TEXT], "no lens is called 'poetry'"),
    (["lens", TEXT], "no lens is called 'lens'"),
    (["logit", ""], "an empty prompt"),
    (["logit", TEXT, "--layers", "7-3"], "write the lower layer first"),
    (["logit", TEXT, "--top", "0"], "'--top': it must be at least 1"),
    (["logit", TEXT, "--to", "3"], "--to was given to logit-lens; only linear-shortcut has it"),
    (["logit", TEXT, "--mapping", "x"], "--mapping was given to logit-lens; only tuned-lens, jacobian-lens"),
    (["selfie", TEXT, "--top", "3"], "--top was given to selfie"),
    (["embedding", "mlp_post.1", "--at", "0"], "--at was given to embedding-space"),
    (["embedding", "mlp_post.1", "--units", "5-3"], "--units 5-3 was given"),
    (["backward", TEXT, "--store"], "--store was given to backward-lens"),
    (["logit", TEXT, "--suppressed"], "only embedding-space has it"),
    (["logit", TEXT, "--out", "lens.txt"], "must end in .json or .html"),
    (["tuned", TEXT, "--mapping", "nowhere.safetensors"], "nowhere.safetensors could not be read as a mapping"),
    (["logit"], "Missing argument 'TEXT'. Try: bathyscope lens --help"),
]


@pytest.mark.parametrize(("arguments", "fragment"), WITHOUT_A_MODEL)
def test_bad_input_is_refused_before_any_model_is_loaded(bathyscope, monkeypatch, arguments, fragment):
    def load(*args: object, **options: object) -> typing.NoReturn:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(opening, "embedded_path", load)
    assert_one_line(refused(bathyscope, *arguments), fragment)


@pytest.mark.parametrize("lens", [name for name, lens in LENSES.items() if lens.fitted])
def test_a_missing_mapping_is_refused_with_the_command_that_makes_one(bathyscope, lens):
    done = refused(bathyscope, lens, TEXT, "--model", "my model")
    typed = shlex.split(done.err.strip().partition("Try: ")[2])
    word = lens.split("-")[0]
    assert typed == [
        *("bathyscope", "mapping", "fit", "--method", LENSES[lens].fitted, "--source-model", "my model"),
        *("--text", "FILE", "--out", f"{word}.safetensors"),
    ]
    plain = refused(bathyscope, "tuned-lens", TEXT)
    assert "bathyscope mapping fit --method tuned-lens --text FILE --out tuned.safetensors" in plain.err


@pytest.mark.parametrize("kind", ["JSON", "PNG", "empty", "truncated", "result", "folder", "weights"])
def test_a_file_that_is_no_mapping_is_refused(bathyscope, tiny, shift, tmp_path, kind):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "result":
        path = tmp_path / "lens.json"
        bathyscope("lens", "logit-lens", TEXT, "--layers", "0", "--out", str(path), "--model", tiny)
    else:
        whole = open(shift["tuned-lens"], "rb").read()  # noqa: PTH123, SIM115
        weights = open(f"{tiny}/model.safetensors", "rb").read()  # noqa: PTH123, SIM115
        content = {"JSON": b'{"a": [1]}', "PNG": b"\x89PNG\r\n\x1a\n" + bytes(64), "empty": b"", "weights": weights}
        path.write_bytes(content.get(kind, whole[: len(whole) // 2]))
    for asked in (["lens", "tuned-lens", TEXT], ["patchscope", TEXT]):
        done = bathyscope(*asked, "--mapping", str(path), "--model", tiny)
        assert (done.code, done.out) == (2, "")
        assert_one_line(done, str(path), "could not be read as a mapping")


def test_a_lens_of_another_model_or_method_is_refused(bathyscope, tiny, shift, tmp_path):
    other = str(save_tiny("gpt2", tmp_path))
    asked = ("--mapping", shift["tuned-lens"])
    assert_one_line(refused(bathyscope, "tuned-lens", TEXT, *asked, "--model", other), "was fitted with", repr(tiny))
    done = refused(bathyscope, "tuned-lens", TEXT, *asked, "--model", tiny, "--dtype", "float64")
    assert_one_line(done, "dtype included")
    done = refused(bathyscope, "jacobian-lens", TEXT, *asked, "--model", tiny)
    assert_one_line(done, "'tuned-lens' was given", "--method jacobian-lens")


def test_what_only_the_model_can_tell(bathyscope, tiny, shift):
    for arguments, fragment in (
        (["logit", TEXT, "--layers", "4"], "layer 4 does not exist"),
        (["logit", TEXT, "--at", "Charles"], "it is not there"),
        (["shortcut", TEXT, "--to", "9", "--mapping", shift["linear"]], "layer 9 does not exist"),
        (["shortcut", TEXT, "--to", "1", "--mapping", shift["linear"]], "a mapping from"),
        (["embedding", "resid_post.1"], "neurons and heads write into the residual stream"),
        (["embedding", "mlp_post.1", "--units", "5000"], "units [5000]"),
        (["backward", TEXT, "--token", "no such token"], "no such token"),
    ):
        assert_one_line(refused(bathyscope, *arguments, "--model", tiny), fragment)
