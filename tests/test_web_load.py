"""Many clients, many cancelled runs, and the end of the process: nothing is mixed up, left over or half done."""

import gc
import http.client
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agreement_model import agreement_model, coders
from bathyscope.circuits import Change, edit_features, examples_of, open_circuit
from bathyscope.cli.served_files import ServedFiles
from bathyscope.web import worker
from bathyscope.web.models import Models
from conftest import tiny_model
from mappings_for_tests import save_mappings
from served_for_tests import save_files, served
from web_server import TEXT, Client, running

pytestmark = pytest.mark.slow
"""Memory, handles and seconds are measured: on a machine that does something else meanwhile they say little."""

CLIENTS, REQUESTS = 64, 20
QUESTIONS = [
    *(
        {"kind": "patchscope", "text": f"Diana {number}", "at": "all", "layers": "0-1", "new_tokens": 3}
        for number in range(10)
    ),
    *({"kind": "lens", "text": f"Barack {number}", "top": 3} for number in range(10)),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with running(tmp_path_factory.mktemp("web")) as server:
        yield Client(server).enter()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory, paths: dict[str, Path]) -> Iterator[Client]:
    """A server of circuits, coders, features and mappings besides."""
    folder, there = tmp_path_factory.mktemp("web"), served(paths)
    files = save_mappings(folder / "mappings", tiny_model("llama"), tiny_model("gpt2"))
    loaded = {**dict(iter(there)), "gpt2": tiny_model("gpt2")}
    mappings = ServedFiles(None, None, None, None, list(files.values())).mappings(loaded)
    models = Models(loaded, circuits=there.circuits, coders=there.coders, mappings=mappings)
    with running(folder, models=models) as server:
        yield Client(server).enter()


def of_files_questions(paths: dict[str, Path]) -> list[dict[str, object]]:
    """What the newer routes answer: ablations, steered texts, fitted lenses, two models, causal maps; and files."""
    nodes = open_circuit(paths["circuit"]).nodes
    latents = [str(one.feature) for one in nodes if one.feature.index is not None]
    ablate = {"kind": "ablate", "circuit": "verb-agreement", "pairs": 4}
    steer = {"kind": "steer", "coder": "resid_post.2", "text": "The teacher", "factors": [2.0], "new_tokens": 3}
    lens = {"kind": "lens", "text": TEXT, "top": 3}
    return [
        *({**ablate, "features": [one]} for one in latents[:4]),
        {**ablate, "features": latents[:3], "value": 1.5},
        *({**steer, "latent": number} for number in range(4)),
        {**lens, "lens": "tuned-lens", "mapping": "tuned"},
        {**lens, "lens": "jacobian-lens", "mapping": "jacobian"},
        {**lens, "lens": "future-lens", "mapping": "soft", "new_tokens": 2},
        {**lens, "lens": "selfie", "at": "last", "layers": "1", "new_tokens": 2},
        {**lens, "lens": "backward-lens"},
        {"kind": "patchscope", "text": TEXT, "target_model": "gpt2", "mapping": "across", "new_tokens": 2},
        {"kind": "trace", "text": TEXT, "subject": "Princess", "answer": "o", "samples": 1, "layers": "1"},
        {"kind": "patch", "text": "The boats", "corrupted": "The boat", "answer": "a", "wrong": "b", "layers": "1"},
        {"kind": "knockout", "text": TEXT, "answer": "o", "window": 1, "layers": "1"},
        {"get": "/api/circuits/verb-agreement"},
        {"get": "/api/coders/resid_post.2"},
    ]


def content(client: Client, question: dict[str, object]) -> bytes:
    """The answer to a question without its times; asked again while too much waits."""
    if "get" in question:
        return client.get(str(question["get"])).body
    while (answer := client.post("/api/ask", question)).status == 429:
        assert answer.headers["retry-after"] == "1"
        time.sleep(random.uniform(0.01, 0.1))
    found = answer.message("result")["result"]
    found["provenance"].pop("created")
    found.get("plan", {}).pop("estimated_seconds", None)
    return json.dumps(found, sort_keys=True).encode()


def handles() -> int:
    return psutil.Process().num_fds()


def settled(client: Client, seconds: float = 10) -> None:
    """Wait until the model has nothing to do."""
    deadline = time.monotonic() + seconds
    while not client.get("/api/health").json()["idle"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(600)
def test_many_clients_get_the_serial_answers_and_leave_nothing(client: Client):
    ask_at_once(client, QUESTIONS)


@pytest.mark.timeout(600)
def test_many_clients_of_circuits_coders_and_mappings_do_too(of_files: Client, paths: dict[str, Path]):
    ask_at_once(of_files, of_files_questions(paths))


def ask_at_once(client: Client, questions: list[dict[str, object]]) -> None:
    """All clients ask all questions, each in an order of its own."""
    assert len(questions) == REQUESTS
    # Twice: the first ablation of a circuit finds what the next ones are spared, and says the same.
    first, serial = ([content(client, question) for question in questions] for _ in range(2))
    assert first == serial
    gc.collect()
    before, memory, threads = handles(), psutil.Process().memory_info().rss, threading.active_count()
    wrong: list[object] = []

    def one(seed: int) -> None:
        order = list(range(REQUESTS))
        random.Random(seed).shuffle(order)
        for number in order:
            try:
                if content(client, questions[number]) != serial[number]:
                    wrong.append((seed, number))
            except Exception as error:
                wrong.append(error)

    clients = [threading.Thread(target=one, args=(seed,)) for seed in range(CLIENTS)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert wrong == []
    settled(client)
    gc.collect()
    assert handles() <= before + 2
    assert threading.active_count() <= threads + 2
    assert psutil.Process().memory_info().rss - memory < 64 * 2**20


def test_more_than_may_wait_is_told_to_come_again(client: Client):
    answers: list[int] = []
    slow = {"kind": "patchscope", "text": TEXT, "at": "all", "new_tokens": 48}

    def one(number: int) -> None:
        answers.append(client.post("/api/ask", {**slow, "text": f"{number} {TEXT}"}).status)

    asking = [threading.Thread(target=one, args=(number,)) for number in range(40)]
    for thread in asking:
        thread.start()
    began = time.perf_counter()
    assert client.get("/api/health").status == 200 and client.post("/api/tokens", {"text": TEXT}).status == 200
    assert time.perf_counter() - began < 5
    for thread in asking:
        thread.join()
    assert set(answers) == {200, 429} and answers.count(200) >= 16


def leave_after(client: Client, question: dict[str, object], seconds: float) -> float:
    """Ask, leave in the middle, and return how long the model was busy after that."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    sent = {"Cookie": client.cookie, "Content-Type": "application/json"}
    connection.request("POST", "/api/ask", json.dumps(question).encode(), sent)
    answer = connection.getresponse()
    answer.readline()
    time.sleep(seconds)
    answer.close()
    connection.close()
    began = time.monotonic()
    settled(client, 5)
    return time.monotonic() - began


def test_cancelled_runs_leave_no_hook_and_no_half_cell(client: Client):
    model, rng = tiny_model("llama"), random.Random(0)
    registered = lambda: sum(  # noqa: E731
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.hf.modules()
    )
    before, waited = registered(), []
    for number in range(50):
        question = {"kind": "patchscope", "text": f"{number} {TEXT * 6}", "at": "all", "new_tokens": 64}
        waited.append(leave_after(client, question, rng.uniform(0, 0.15)))
    assert registered() == before
    assert max(waited) < 1
    runs = client.get("/api/runs").json()["runs"]
    stopped = [one for one in runs if one["text"] and one["text"].endswith(TEXT * 6)]
    unfinished = [one for one in stopped if one["status"] == "incomplete"]
    assert unfinished, "every run was quicker than its cancelling: nothing was tested"
    # A batch is stored whole or not at all: of a run of one batch nothing is there, but for the one cell that all
    # these runs have in common, the target prompt as it is, once a whole run has stored it.
    assert {one["done"] for one in unfinished} <= {0, 1}
    question = {"kind": "patchscope", "text": unfinished[0]["text"], "at": "all", "new_tokens": 64}
    again = client.post("/api/ask", question).message("result")["result"]
    fresh = tiny_model("llama")
    assert len(again["cells"]) == len(fresh.tokenize(question["text"])) * (fresh.n_layers + 1)


def test_cancelled_ablations_and_steered_texts_leave_no_hook_and_free_the_model(
    of_files: Client, paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    rng, waited, told, tell = random.Random(0), [], [], worker.Job.tell
    monkeypatch.setattr(
        worker.Job, "tell", lambda job, event, **content: (told.append(event), tell(job, event, **content))
    )
    models = [model.hf for _, model in of_files.server._models]
    registered = lambda: sum(  # noqa: E731
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for model in models
        for module in model.modules()
    )
    before, questions = registered(), of_files_questions(paths)
    for number in range(50):
        # Another number of pairs each time, so that nothing of it was found before.
        pairs = {"pairs": 5 + number % 27} if number % 2 else {}
        question = {**questions[4 if number % 2 else 5], **pairs, **({} if number % 2 else {"new_tokens": 24})}
        waited.append(leave_after(of_files, question, rng.uniform(0, 0.1)))
    assert told.count("cancelled") > 5, "every run was quicker than its cancelling: nothing was tested"
    assert registered() == before and not any(model.training for model in models)
    assert max(waited) < 1
    pairs = examples_of(agreement_model(), open_circuit(paths["circuit"]).pairs[:4])
    (expected,) = edit_features(agreement_model(), coders(), [Change.parse(questions[0]["features"][0])], pairs).changes
    found = of_files.post("/api/ask", questions[0]).message("result")["result"]["rows"][0]
    assert found["measured"] == pytest.approx(expected["measured"], abs=1e-5)


TINY_SERVER = """
import sys; sys.path.insert(0, {tests!r})
from web_server import PAGE
from conftest import tiny_model
from bathyscope.store import Store
from bathyscope.web.models import Models
from bathyscope.web.server import WebServer
with Store({store!r}) as store:
    server = WebServer(Models({{"tiny": tiny_model()}}), store, files=PAGE)
    server.run(lambda: print(server.access.link(), flush=True))
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while a run streams"])
def test_sigterm_ends_the_process_within_two_seconds_and_frees_the_port(busy: bool, tmp_path: Path):
    code = TINY_SERVER.format(tests=str(Path(__file__).parent), store=str(tmp_path / "store"))
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **piped) as process:
        try:
            link = process.stdout.readline().strip()
            port, token = int(link.split(":")[2].split("/")[0]), link.partition("#token=")[2]
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            sent = {"Content-Type": "application/json"}
            connection.request("POST", "/api/enter", json.dumps({"token": token}), sent)
            answer = connection.getresponse()
            cookie = answer.getheader("set-cookie").partition(";")[0]
            answer.read()
            if busy:
                asked = {"kind": "patchscope", "text": TEXT * 8, "at": "all", "new_tokens": 64}
                connection.request("POST", "/api/ask", json.dumps(asked), {**sent, "Cookie": cookie})
                answer = connection.getresponse()
                assert any(b'"texts"' in answer.readline() for _ in range(10))
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) in (0, -signal.SIGTERM)
            assert time.monotonic() - began < 2
        finally:
            process.kill()
        answer.close()
        connection.close()
        assert "Traceback" not in process.stderr.read()
    with socket.create_server(("127.0.0.1", port)):
        pass  # free again
