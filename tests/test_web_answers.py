"""What the web server answers: the same as the library, streamed while it is computed, and typed instead."""

import contextlib
import io
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import bathyscope
from agreement_model import agreement_model, coders
from bathyscope import cli, loading
from bathyscope.circuits import Change, edit_features, examples_of, open_circuit, runs
from bathyscope.engine import CancelledError, Stop
from bathyscope.sae.reading.dashboard import page_data
from bathyscope.store import Store
from bathyscope.web import opened, page
from bathyscope.web.asked import Running
from bathyscope.web.asked.ablate import AblateAsked
from bathyscope.web.asked.steer import SteerAsked
from bathyscope.web.assets import Asset
from bathyscope.web.models import Models
from bathyscope.web.server import WebServer
from conftest import tiny_model
from served_for_tests import AGREEMENT, save_files, served
from web_server import PAGE, TEXT, Client, running

QUESTIONS = {
    "patchscope": {"kind": "patchscope", "text": TEXT, "at": "all", "layers": "0-1", "new_tokens": 3},
    "own prompt": {
        "kind": "patchscope",
        "text": "-x is 'quoted'",
        "own_prompt": "Tell me of y",
        "placeholder": "y",
        "scale": -2.0,
        "new_tokens": 2,
        "controls": ["random"],
    },
    "mapped": {"kind": "patchscope", "text": TEXT, "mapping": "norm-match", "target_layer": "0", "prompt": "bare"},
    "lens": {"kind": "lens", "text": TEXT, "lens": "logit-lens", "top": 3},
    "trace": {"kind": "trace", "text": TEXT, "subject": "Princess", "answer": "o", "samples": 1},
    "patch": {"kind": "patch", "text": "The boats", "corrupted": "The boat", "answer": "a", "wrong": "b"},
    "knockout": {"kind": "knockout", "text": TEXT, "answer": "o", "window": 1},
}
OF_FILES = {
    "ablate": {"kind": "ablate", "circuit": "verb-agreement", "value": 0.5, "pairs": 6},
    "steer": {"kind": "steer", "coder": "resid_post.2", "latent": 3, "text": "The teacher", "factors": [-4, 2.5]},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("web")) as server:
        yield Client(server).enter()


def test_a_patchscope_is_that_of_the_library(client: Client):
    answer = client.question(at="all", layers="0-1")
    found = answer.message("result")["result"]
    source = bathyscope.Source(tiny_model(), TEXT, "all", "0-1")
    expected = bathyscope.patchscope(source, readout=bathyscope.readouts.Generate(4))
    assert [cell["text"] for cell in found["cells"]] == [cell.text for cell in expected.cells]
    assert found["unpatched"] == expected.unpatched
    assert found["provenance"]["spec"]["source"]["prompt"] == TEXT


def test_cells_are_told_while_they_are_computed(client: Client):
    told = client.question(text="Streamed as it grows", at="all", new_tokens=5).lines()
    events = [line["event"] for line in told]
    assert events[:3] == ["queued", "started", "plan"] and events[-2:] == ["result", "done"]
    assert events.index("texts") < events.index("cells")
    plan, result = told[2], told[-2]["result"]
    places = [[cell["source_layer"], cell["source_position"], cell["target_layer"]] for cell in result["cells"]]
    assert plan["cells"] == places
    assert plan["tokens"] == list(tiny_model().tokenize("Streamed as it grows").texts)
    finished = {cell: reading["text"] for line in told if line["event"] == "cells" for cell, reading in line["cells"]}
    assert finished == {number: cell["text"] for number, cell in enumerate(result["cells"])}
    first = next(line["texts"] for line in told if line["event"] == "texts")
    assert all(finished[int(number)].startswith(text.rstrip("\ufffd")) for number, text in first.items())


def test_what_was_asked_before_is_not_computed_again(client: Client):
    first = client.question(text="Asked twice", layers="0")
    again = client.question(text="Asked twice", layers="0")
    assert again.message("done")["timing"]["computed"] == 0
    assert first.message("result")["result"]["cells"] == again.message("result")["result"]["cells"]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_command_and_the_python_ask_the_same(
    name: str, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path, capfd
):
    question = QUESTIONS[name]
    answered = client.post("/api/ask", question).message("result")["result"]
    typed = client.post("/api/command", {"question": question}).json()
    monkeypatch.setattr(loading, "load", lambda *_args, **_options: tiny_model())
    monkeypatch.setattr(loading, "check_folder", lambda _name: None)
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    out = tmp_path / "out.json"
    words = shlex.split(typed["shell"])
    assert words[0] == "bathyscope" and words[words.index("--model") + 1] == "./tiny"
    assert cli.main([words[1], "--out", str(out), *words[2:]]) == 0, capfd.readouterr().err
    there: dict[str, object] = {}
    monkeypatch.setattr(bathyscope, "load", lambda *_args, **_options: tiny_model(), raising=False)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(typed["python"], name, "exec"), there)
    for other in (bathyscope.Result.load(out), there["result"]):
        told = other.to_dict()
        for part in ("cells", "rows", "unpatched"):
            assert _plain(told.get(part)) == _plain(answered.get(part)), (part, typed)


def _plain(value):
    """Numbers to what float32 keeps, lists for tuples."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return pytest.approx(value, rel=1e-4, abs=1e-5) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("web"), models=served(files)) as server:
        yield Client(server).enter()


def latents_of(files: dict[str, Path]) -> list[str]:
    return [str(one.feature) for one in open_circuit(files["circuit"]).nodes if one.feature.index is not None]


@pytest.mark.parametrize("name", OF_FILES)
def test_the_command_and_the_python_ask_the_same_of_files(
    name: str, of_files: Client, files, monkeypatch: pytest.MonkeyPatch, tmp_path, capfd
):
    question = {**OF_FILES[name], **({"features": latents_of(files)[:2]} if name == "ablate" else {})}
    answered = of_files.post("/api/ask", question).message("result")["result"]
    typed = of_files.post("/api/command", {"question": question}).json()
    monkeypatch.setattr(loading, "load", lambda *_args, **_options: agreement_model())
    monkeypatch.setattr(loading, "check_folder", lambda _name: None)
    monkeypatch.setenv("BATHYSCOPE_HOME", str(tmp_path))
    out = tmp_path / "out.json"
    words = shlex.split(typed["shell"])
    assert words[words.index("--model") + 1] == "./agreement"
    assert cli.main([*words[1:], "--out", str(out)]) == 0, capfd.readouterr().err
    there: dict[str, object] = {}
    monkeypatch.setattr(bathyscope, "load", lambda *_args, **_options: agreement_model(), raising=False)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(typed["python"], name, "exec"), there)
    for other in (bathyscope.Result.load(out), there["result"]):
        told = other.to_dict()
        for part in ("rows", "before", "after", "controls"):
            assert _plain(told.get(part)) == _plain(answered.get(part)), (part, typed)


def test_what_was_opened_is_told_and_drawn_as_in_saved_pages(of_files: Client, files):
    told = of_files.get("/api/capabilities").json()
    assert [(one["name"], one["model"], one["pairs"]) for one in told["circuits"]] == [
        ("verb-agreement", AGREEMENT, 32)
    ]
    assert [(one["name"], one["site"], one["read"], one["steers"]) for one in told["coders"]] == [
        ("resid_post.2", "resid_post.2", True, True)
    ]
    drawn = of_files.get("/api/circuits/verb-agreement").json()
    view = open_circuit(files["circuit"]).view("verb agreement")
    assert [one["key"] for one in drawn["nodes"]] == [one.key for one in view.nodes]
    read = bathyscope.Result.load(files["features"])
    assert of_files.get("/api/coders/resid_post.2").json() == json.loads(json.dumps(page_data(read, read.facts())))


def test_an_ablation_tells_its_progress_and_ends_when_nobody_listens(of_files: Client, files):
    question = {**OF_FILES["ablate"], "features": latents_of(files)[:1], "pairs": 32}
    told = of_files.post("/api/ask", question).lines()
    progress = [one["done"] / one["of"] for one in told if one["event"] == "progress"]
    assert progress == sorted(progress) and progress[-1] == 1
    job = SimpleNamespace(stop=Stop(now=True), tell=lambda *_args, **_told: None)
    models = of_files.server._models
    with pytest.raises(CancelledError):
        AblateAsked(**question).run(Running(models, None, job))
    with pytest.raises(CancelledError):
        SteerAsked(**OF_FILES["steer"]).run(Running(models, None, job))


def test_the_next_ablation_of_a_circuit_runs_only_what_it_changes(of_files: Client, files, monkeypatch):
    passes: list[int] = []
    original = runs.differences

    def counted(model, rows, *rest):
        passes.append(len(rows))
        return original(model, rows, *rest)

    monkeypatch.setattr(runs, "differences", counted)
    first, second = latents_of(files)[:2]
    question = {**OF_FILES["ablate"], "pairs": 7}
    of_files.post("/api/ask", {**question, "features": [first, second]}).message("done")
    assert len(passes) > 6
    passes.clear()
    found = of_files.post("/api/ask", {**question, "features": [second]}).message("result")["result"]
    assert passes == [7] * 6, "it, and five controls"
    pairs = examples_of(agreement_model(), open_circuit(files["circuit"]).pairs[:7])
    expected = edit_features(agreement_model(), coders(), [Change.parse(f"{second}=0.5")], pairs).to_dict()
    for part in ("rows", "before", "after", "controls"):
        assert _plain(found[part]) == _plain(expected[part])


def test_what_is_kept_of_a_circuit_is_bounded(files, monkeypatch: pytest.MonkeyPatch):
    circuit = next(iter(served(files).circuits.values()))
    first = circuit.editor(agreement_model(), 4)
    assert circuit.editor(agreement_model(), 4) is first
    for pairs in (5, 6):
        circuit.editor(agreement_model(), pairs)
    assert circuit.editor(agreement_model(), 4) is not first and len(circuit._editors) == opened.EDITORS
    monkeypatch.setattr(opened, "KEPT_BYTES", 0)
    assert circuit.editor(agreement_model(), 9) is not circuit.editor(agreement_model(), 9)


def test_an_error_of_a_circuit_is_taken_away(files, tmp_path: Path):
    error, models = "resid_post.2/error@1", served(files)
    circuit = models.circuits["verb-agreement"]
    node = replace(circuit.view.nodes[0], key=error, kind="error")
    view = replace(circuit.view, nodes=(*circuit.view.nodes, node))
    loaded = dict(iter(models))
    with running(tmp_path, models=Models(loaded, circuits={"verb-agreement": replace(circuit, view=view)})) as server:
        client = Client(server).enter()
        question = {**OF_FILES["ablate"], "features": [error]}
        found = client.post("/api/ask", question).message("result")["result"]
        typed = client.post("/api/command", {"question": question}).json()["shell"]
    pairs = examples_of(agreement_model(), open_circuit(files["circuit"]).pairs[: question["pairs"]])
    expected = edit_features(agreement_model(), coders(), [Change.parse(error)], pairs).to_dict()
    assert _plain(found["rows"]) == _plain(expected["rows"]) and found["rows"][0]["measured"] != 0
    assert f"--set {error} " in typed


@pytest.mark.parametrize("question", [{**OF_FILES["steer"], "model": "tiny"}, {**OF_FILES["steer"], "latent": 9999}])
def test_what_a_coder_is_not_for_is_refused(of_files: Client, question):
    assert "given" in of_files.post("/api/ask", question).message("error")["error"]


def test_one_cell_is_asked_by_its_layer_and_token(client: Client):
    question = QUESTIONS["patchscope"]
    typed = client.post("/api/command", {"question": question, "layer": 1, "position": 2}).json()
    assert "--at 2 --layers 1" in typed["shell"]
    cell = client.post("/api/ask", {**question, "at": 2, "layers": "1"}).message("result")["result"]["cells"]
    whole = client.post("/api/ask", question).message("result")["result"]["cells"]
    assert cell == [one for one in whole if (one["source_layer"], one["source_position"]) == (1, 2)]


def test_what_cannot_be_seen_is_typed_as_an_escape(client: Client):
    text = "a\x1b[31m\u202e'b'\\\n\U000e0041"
    typed = client.post("/api/command", {"question": {"kind": "patchscope", "text": text}}).json()
    assert typed["shell"].isprintable() and all(line.isprintable() for line in typed["python"].splitlines())
    bash = shutil.which("bash")
    if bash is not None:
        command = [bash, "-c", typed["shell"].replace("bathyscope patchscope", "printf %s", 1).partition(" --")[0]]
        told = subprocess.run(command, capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}).stdout
        assert told.decode() == text


def test_capabilities_say_what_can_be_asked(client: Client):
    told = client.get("/api/capabilities").json()
    assert [model["name"] for model in told["models"]] == ["tiny"]
    assert told["prompts"]["entity-description"]["placeholder"] == "x"
    assert set(told["questions"]) == {question["kind"] for question in (QUESTIONS | OF_FILES).values()}
    routes = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/ask", "/api/capabilities", "/api/runs", "/api/tokens", "/api/command"} <= routes.keys()
    assert {"/api/circuits/{name}", "/api/coders/{name}"} <= routes.keys()


def test_tokens_are_those_of_the_model(client: Client):
    told = client.post("/api/tokens", {"text": TEXT}).json()
    assert told == {"ids": list(tiny_model().tokenize(TEXT).ids), "tokens": list(tiny_model().tokenize(TEXT).texts)}


@pytest.mark.parametrize(
    ("asked", "fragment"),
    [
        ({"layers": "99"}, "99"),
        ({"model": "gpt2"}, "no model 'gpt2' is served"),
        ({"own_prompt": "nothing here", "placeholder": "zz"}, "zz"),
        ({"at": "Charles"}, "Charles"),
        ({"text": "a b " * 4000}, "tokens are needed"),
    ],
)
def test_what_cannot_be_answered_says_why(asked: dict[str, object], fragment: str, client: Client):
    error = client.question(**asked).message("error")["error"]
    assert fragment in error["message"] and "internal" not in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"kind": "patchscope"},
        {"kind": "exec", "text": "x"},
        {"kind": "patchscope", "text": "x", "path": "/etc/passwd"},
        {"kind": "patchscope", "text": "x", "new_tokens": 10**9},
        {"kind": "patchscope", "text": "x", "prompt": "../../etc/passwd"},
        {"kind": "lens", "text": "x", "lens": "__import__"},
        {"kind": "patchscope", "text": 3},
        {"kind": "patchscope", "text": "x", "mapping": "../evil.safetensors"},
    ],
)
def test_what_is_no_question_is_refused(body: object, client: Client):
    answer = client.post("/api/ask", body)
    assert answer.status == 422 and answer.json()["error"]["message"]


def test_runs_are_listed_shown_again_and_deleted(client: Client):
    run = client.question(text="Kept in the store").message("result")["result"]["run"]
    listed = {one["id"]: one for one in client.get("/api/runs").json()["runs"]}
    assert listed[run]["status"] == "complete" and listed[run]["text"] == "Kept in the store"
    again = client.ask("POST", f"/api/runs/{run}/again")
    assert again.message("done")["timing"]["computed"] == 0
    assert again.message("result")["result"]["run"] == run
    assert client.ask("DELETE", f"/api/runs/{run}").json()["deleted"] > 0
    assert run not in {one["id"] for one in client.get("/api/runs").json()["runs"]}
    assert client.ask("POST", f"/api/runs/{run}/again").message("error")


@pytest.mark.parametrize("name", ["trace", "patch", "knockout"])
def test_causal_maps_are_shown_again_and_finished(client: Client, name: str):
    question = {**QUESTIONS[name], "text": QUESTIONS[name]["text"] + " too"}
    if name == "patch":
        question["corrupted"] += " too"
    first = client.post("/api/ask", question).message("result")["result"]
    (listed,) = [one for one in client.get("/api/runs").json()["runs"] if one["id"] == first["run"]]
    assert listed["again"] and listed["text"] == question["text"] and listed["method"] == first["method"]
    answer = client.ask("POST", f"/api/runs/{first['run']}/again")
    again = answer.message("result")["result"]
    assert answer.message("done")["timing"]["computed"] == 0
    for part in ("maps", "values", "metric", "prompts", "notes", "run"):
        assert again[part] == first[part], part


def test_runs_that_do_not_say_enough_say_so(tmp_path: Path):
    with running(tmp_path) as server, Store(tmp_path / "store") as store:
        client = Client(server).enter()
        old = store.create_run("causal", {"method": "activation-patching", "positions": [[0]]}, {}, [])
        other = store.create_run("probing", {}, {}, [])
        for run, said in ((old, "older version"), (other, "of kind probing")):
            assert said in client.ask("POST", f"/api/runs/{run}/again").message("error")["error"]["message"]


def test_a_question_is_answered_by_the_model_that_it_names(tmp_path):
    models = Models({"one": tiny_model("llama"), "two": tiny_model("gpt2")}, {"two": "gpt2"})
    with running(tmp_path, models=models) as server:
        client = Client(server).enter()
        told = [client.question(model=name).message("result")["result"] for name in ("one", "two")]
        assert [one["provenance"]["models"][0]["family"] for one in told] == ["llama", "gpt2"]
        typed = client.post("/api/command", {"question": {"kind": "patchscope", "text": "x", "model": "two"}}).json()
        assert typed["shell"] == "bathyscope patchscope x --model gpt2"


def test_a_port_that_is_taken_is_told(client: Client):
    with pytest.raises(bathyscope.BathyscopeError, match="--port 0"):
        WebServer(Models({}), None, port=client.port, files=PAGE)


def test_the_page_is_served_whole_and_known_again(client: Client):
    answer = client.get("/")
    assert answer.body == PAGE["/"].body and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert client.ask("GET", "/", headers={"If-None-Match": answer.headers["etag"]}).status == 304


def test_a_result_becomes_a_page_that_nothing_in_it_can_end(monkeypatch: pytest.MonkeyPatch):
    template = '<script type="application/json" id="result">null</script><script>0</script>'
    monkeypatch.setattr(page, "assets", lambda: {"/export.html": Asset(template.encode(), "text/html", "")})
    text = "</script><script>alert(1)</script><!-- & \u2028"
    result = bathyscope.lenses.logit_lens(tiny_model(), text, layer="0")
    made = page.page(result)
    assert made.count("<script") == 2 and "<!--" not in made and "\u2028" not in made
    data = json.loads(made.partition('id="result">')[2].partition("</script>")[0])
    assert data["text"] == text and data["cells"] == json.loads(json.dumps(result.to_dict()["cells"]))
    with pytest.raises(bathyscope.BathyscopeError, match="to_html"):
        page.page(SimpleNamespace(kind="probing"))


def test_a_server_without_its_files_says_how_they_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path):
    from bathyscope.web import assets

    monkeypatch.setattr(assets, "files", lambda _package: tmp_path)
    with pytest.raises(bathyscope.BathyscopeError, match="make ui"):
        assets.assets()
