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

from conftest import tiny_model
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


def content(client: Client, question: dict[str, object]) -> bytes:
    """The answer to a question without its times; asked again while too much waits."""
    while (answer := client.post("/api/ask", question)).status == 429:
        assert answer.headers["retry-after"] == "1"
        time.sleep(random.uniform(0.01, 0.1))
    found = answer.message("result")["result"]
    found["provenance"].pop("created")
    found["plan"].pop("estimated_seconds")
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
    serial = [content(client, question) for question in QUESTIONS]
    gc.collect()
    before, memory, threads = handles(), psutil.Process().memory_info().rss, threading.active_count()
    wrong: list[object] = []

    def one(seed: int) -> None:
        order = list(range(REQUESTS))
        random.Random(seed).shuffle(order)
        for number in order:
            try:
                if content(client, QUESTIONS[number]) != serial[number]:
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
