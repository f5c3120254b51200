"""Fitted lenses and two models in the web app: what goes through a mapping, and what is refused."""

import contextlib
import io
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import bathyscope
from bathyscope import cli, lenses, loading
from bathyscope.cli.served_files import ServedFiles
from bathyscope.errors import UsageError
from bathyscope.mappings import Affine
from bathyscope.soft_prompts import SoftPrompt
from bathyscope.web.models import Models
from conftest import tiny_model
from mappings_for_tests import mapping, save_mappings
from test_web_answers import _plain as plain
from web_server import TEXT, Client, running

LENSES = {
    "tuned-lens": {"mapping": "tuned"},
    "jacobian-lens": {"mapping": "jacobian", "top": 2},
    "attribute-lens": {"mapping": "capitals"},
    "linear-shortcut": {"mapping": "jump", "layers": "0,2"},
    "future-lens": {"mapping": "ahead"},
    "soft": {"lens": "future-lens", "mapping": "soft", "new_tokens": 2},
    "fixed": {"lens": "future-lens", "layers": "1", "new_tokens": 2},
    "kept": {"lens": "tuned-lens", "mapping": "tuned", "keep": True},
    "selfie": {"layers": "1", "at": "last", "new_tokens": 3},
    "backward-lens": {"token": "a", "layers": "0-2"},
}
PATCHSCOPES = {
    "another model": {"target_model": "two", "layers": "0-1", "new_tokens": 2},
    "mapped into it": {"target_model": "two", "mapping": "across", "new_tokens": 2},
    "mapped to a layer": {"target_model": "two", "mapping": "across", "target_layer": "1", "new_tokens": 2},
    "fitted": {"mapping": "jump", "new_tokens": 2},
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_mappings(tmp_path_factory.mktemp("files"), tiny_model("llama"), tiny_model("gpt2"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, paths: dict[str, Path]) -> Iterator[Client]:
    loaded = {"one": tiny_model("llama"), "two": tiny_model("gpt2")}
    files = ServedFiles(None, None, None, None, list(paths.values()))
    models = Models(loaded, {"one": "./llama", "two": "./gpt2"}, mappings=files.mappings(loaded))
    with running(tmp_path_factory.mktemp("web"), models=models) as server:
        yield Client(server).enter()


def asked(name: str) -> dict[str, Any]:
    if name in PATCHSCOPES:
        return {"kind": "patchscope", "text": TEXT, **PATCHSCOPES[name]}
    return {"kind": "lens", "lens": name, "text": TEXT, **LENSES[name]}


def test_each_mapping_is_told_with_its_lens_and_its_models(client: Client, paths: dict[str, Path]):
    told = {one["name"]: one for one in client.get("/api/capabilities").json()["mappings"]}
    assert {name: told[name]["lens"] for name in paths} == {
        "tuned": "tuned-lens",
        "jacobian": "jacobian-lens",
        "capitals": "attribute-lens",
        "jump": "linear-shortcut",
        "ahead": "future-lens",
        "across": None,
        "tuned-two": "tuned-lens",
        "soft": "future-lens",
    }
    assert (told["across"]["source"], told["across"]["target"]) == ("one", "two")
    assert [name for name, one in told.items() if not one["writes"]] == ["soft"]
    assert not any(str(path) in str(told) for path in paths.values()), "where files lie is nobody's business"


@pytest.mark.parametrize("name", [*LENSES, *PATCHSCOPES])
def test_the_command_and_the_python_ask_the_same(
    name: str, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path, capfd
):
    question = asked(name)
    answered = client.post("/api/ask", question).message("result")["result"]
    typed = client.post("/api/command", {"question": question}).json()
    models = {"./llama": tiny_model("llama"), "./gpt2": tiny_model("gpt2")}
    monkeypatch.setattr(loading, "load", lambda name=None, **_options: models[name])
    monkeypatch.setattr(loading, "check_folder", lambda _name: None)
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    out = tmp_path / "out.json"
    words = shlex.split(typed["shell"])
    assert cli.main([words[1], "--out", str(out), *words[2:]]) == 0, capfd.readouterr().err
    there: dict[str, object] = {}
    monkeypatch.setattr(bathyscope, "load", lambda name=None: models[name], raising=False)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(typed["python"], name, "exec"), there)
    assert answered["cells"]
    for other in (bathyscope.Result.load(out), there["result"]):
        told = other.to_dict()
        for part in ("cells", "unpatched"):
            assert plain(told.get(part)) == plain(answered.get(part)), (part, typed)


def test_a_fitted_lens_is_the_librarys_and_not_the_logit_lens(client: Client, paths: dict[str, Path]):
    found = client.post("/api/ask", asked("tuned-lens")).message("result")["result"]
    layers = tuple(range(tiny_model().n_layers - 1))
    expected = lenses.tuned_lens(tiny_model(), TEXT, Affine.load(paths["tuned"]), layer=layers)
    assert [one["text"] for one in found["cells"]] == [one.text for one in expected.cells]
    plainly = client.post("/api/ask", {"kind": "lens", "text": TEXT}).message("result")["result"]
    there = {(one["layer"], one["position"]): one["text"] for one in plainly["cells"]}
    assert any(there[one["layer"], one["position"]] != one["text"] for one in found["cells"])
    cells = [line for line in client.post("/api/ask", asked("tuned-lens")).lines() if line["event"] == "cells"]
    assert sum(len(line["cells"]) for line in cells) == len(found["cells"]), "cells are told as they come"


def test_what_is_written_into_another_model_goes_on_there(client: Client, paths: dict[str, Path]):
    found = client.post("/api/ask", asked("mapped into it")).message("result")["result"]
    assert [one["family"] for one in found["provenance"]["models"]] == ["llama", "gpt2"]
    assert {(one["source_layer"], one["target_layer"]) for one in found["cells"]} == {(0, 1), (2, 1)}
    source = bathyscope.Source(tiny_model("llama"), TEXT, "last", (0, 2))
    target = bathyscope.Target(tiny_model("gpt2"), layer=1)
    readout = bathyscope.readouts.Generate(2)
    expected = bathyscope.patchscope(source, target, mapping=Affine.load(paths["across"]), readout=readout)
    assert [one["text"] for one in found["cells"]] == [one.text for one in expected.cells]


@pytest.mark.parametrize("name", ["tuned-lens", "jacobian-lens", "logit-lens", "token-identity", "linear-shortcut"])
def test_a_lens_that_is_kept_is_shown_again_as_that_lens(client: Client, name: str):
    question = {"kind": "lens", "lens": name, "text": f"Kept by {name}", **LENSES.get(name, {}), "keep": True}
    first = client.post("/api/ask", question).message("result")["result"]
    listed = [one for one in client.get("/api/runs").json()["runs"] if one["text"] == question["text"]]
    assert [(one["method"], one["again"], one["status"]) for one in listed] == [(name, True, "complete")]
    again = client.ask("POST", f"/api/runs/{listed[0]['id']}/again")
    found = again.message("result")["result"]
    assert found["kind"] == "lens" and found["lens"] == name and plain(found["cells"]) == plain(first["cells"])


def test_a_lens_is_not_kept_unless_that_is_asked_for(client: Client):
    client.post("/api/ask", {"kind": "lens", "text": "Not kept"}).message("done")
    assert not any(one["text"] == "Not kept" for one in client.get("/api/runs").json()["runs"])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ({"lens": "tuned-lens"}, "bathyscope serve --mapping"),
        ({"lens": "tuned-lens", "mapping": "other"}, "no mapping 'other' is served"),
        ({"lens": "tuned-lens", "mapping": "jacobian"}, "it is for jacobian-lens"),
        ({"lens": "logit-lens", "mapping": "tuned"}, "it is for tuned-lens"),
        ({"lens": "linear-shortcut", "mapping": "across"}, "it leads from one to two"),
        ({"lens": "tuned-lens", "mapping": "tuned", "model": "two"}, "the mapping is for one"),
        ({"lens": "tuned-lens", "mapping": "tuned", "layers": "3"}, "resid_post.3"),
        ({"lens": "logit-lens", "token": "a"}, "backward-lens"),
        ({"lens": "backward-lens", "text": "a b " * 40}, "gradients"),
        ({"lens": "backward-lens", "keep": True}, "not stored"),
        ({"kind": "patchscope", "mapping": "nothing"}, "no mapping 'nothing'"),
        ({"kind": "patchscope", "mapping": "soft"}, "soft prompt"),
        ({"kind": "patchscope", "mapping": "across"}, "target"),
        ({"kind": "patchscope", "target_model": "three"}, "no model 'three'"),
    ],
)
def test_what_does_not_go_together_is_refused(client: Client, question: dict[str, str], said: str):
    error = client.post("/api/ask", {"kind": "lens", "text": TEXT, **question}).message("error")["error"]
    assert said in error["message"] and "internal" not in error["message"]


@pytest.mark.parametrize("name", ["../tuned", "a/b", "x" * 100, "tuned.safetensors\x00"])
def test_a_mapping_is_never_a_path(client: Client, name: str):
    for question in ({"kind": "lens", "lens": "tuned-lens"}, {"kind": "patchscope"}):
        assert client.post("/api/ask", {"text": TEXT, **question, "mapping": name}).status == 422


def test_a_mapping_of_a_model_that_is_not_served_is_refused_at_the_start(paths: dict[str, Path], tmp_path: Path):
    files = ServedFiles(None, None, None, None, [paths["tuned"], paths["across"]])
    assert files.models() == ["llama", "gpt2"]
    with pytest.raises(UsageError, match="was fitted on gpt2"):
        files.mappings({"one": tiny_model("llama")})
    other = mapping(tiny_model("llama"), tiny_model("llama"), {0: 1}, "linear").save(tmp_path / "identity.safetensors")
    (name,) = ServedFiles(None, None, None, None, [other]).mappings({"one": tiny_model("llama")})
    assert name == "identity-2", "what is not fitted is called so"


def test_soft_prompts_are_opened_as_what_they_are(paths: dict[str, Path]):
    opened = ServedFiles(None, None, None, None, [paths["soft"]]).mappings({"one": tiny_model("llama")})
    assert isinstance(opened["soft"].mapping, SoftPrompt) and opened["soft"].layers == 1
    assert torch.equal(opened["soft"].mapping.vectors, SoftPrompt.load(paths["soft"]).vectors)
