"""Whoever should not be answered is not: what pages elsewhere, other names, odd paths and slow clients try.

The first three are what a public tool for attribution graphs let through when its local server was tried: a file
outside its folder was read, a page elsewhere overwrote a graph, and half a request line kept everybody waiting.
"""

import itertools
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from bathyscope.web.access import Access
from bathyscope.web.connections import PromptProtocol
from bathyscope.web.guards import Guard
from bathyscope.web.models import Models
from bathyscope.web.opened import OpenedCircuit, OpenedCoder
from circuits_by_hand import circuit_by_hand
from conftest import tiny_model
from web_server import TEXT, Client, running

EVIL = "http://evil.example"
HIDDEN = "a secret that no request may read"


def with_files(folder: Path) -> Models:
    """A model, a graph, and a coder of which nothing was read; their paths lead to what no request may read."""
    secret = str(folder / "secret.txt")
    graph = circuit_by_hand()
    circuits = {"graph": OpenedCircuit(graph.view(), secret, graph)}
    coders = {"latents": OpenedCoder(secret, "resid_post.1", 8)}
    return Models({"tiny": tiny_model("llama")}, {"tiny": "./tiny"}, circuits=circuits, coders=coders)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "secret.txt").write_text(HIDDEN)
    with running(folder, body_seconds=0.5, models=with_files(folder)) as server:
        yield Client(server).enter()


@pytest.fixture
def stranger(client: Client) -> Client:
    return Client(client.server)


def raw(client: Client, sent: bytes, seconds: float = 10) -> bytes:
    """What is answered to exactly these bytes, until the server closes or a while passes."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=seconds) as connection:
        found = b""
        try:
            connection.sendall(sent)
            while part := connection.recv(65536):
                found += part
        except (TimeoutError, ConnectionError):  # closed while we were still sending
            pass
    return found


def asking(client: Client, *lines: str) -> bytes:
    """The head of a question with the cookie, and with further lines."""
    said = (f"Host: {client.host}", f"Cookie: {client.cookie}", *lines)
    return "\r\n".join(["POST /api/ask HTTP/1.1", *said, "", ""]).encode()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


# The three weaknesses


PATHS = [
    "/../secret.txt",
    "/data/../secret.txt",
    "/assets/../../secret.txt",
    "/..%2fsecret.txt",
    "/%2e%2e/secret.txt",
    "/%252e%252e/secret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "//etc/passwd",
    "/etc/passwd",
    "/C:/Windows/win.ini",
    "/%00",
    "/index.html%00.txt",
    "/.git/config",
    "/api/../secret.txt",
    "/api/runs/..%2f..%2fsecret.txt",
    "/?file=../secret.txt",
    "/file:///etc/passwd",
    "/assets/....//....//secret.txt",
]


@pytest.mark.parametrize("path", PATHS)
def test_1_no_path_leads_out_of_the_app(path: str, client: Client):
    head = f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\nConnection: close\r\n\r\n"
    answer = raw(client, head.encode())
    assert HIDDEN.encode() not in answer and b"root:" not in answer
    assert status(answer) in (400, 404, 405) or path.startswith("/?"), answer


def test_1_no_file_is_opened_for_any_path(client: Client):
    opened: list[str] = []
    watching = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    sys.addaudithook(hear)
    for path in PATHS:
        raw(client, f"GET {path} HTTP/1.1\r\nHost: {client.host}\r\nConnection: close\r\n\r\n".encode())
    watching = False
    assert opened == []


def test_2_a_page_elsewhere_changes_nothing(client: Client):
    run = client.question(text="Must stay").message("result")["result"]["run"]
    asked = json.dumps({"kind": "patchscope", "text": "by a page elsewhere"})
    for origin, kind in itertools.product((EVIL, "null", f"{client.server.access.origin}.evil.example"), (1, 2)):
        body, media = (asked, "text/plain") if kind == 1 else (asked, "application/json")
        head = f"POST /api/ask HTTP/1.1\r\nHost: {client.host}\r\nOrigin: {origin}\r\nCookie: {client.cookie}\r\n"
        head += f"Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        assert status(raw(client, head.encode())) == 403
        refused = client.ask("DELETE", f"/api/runs/{run}", headers={"Origin": origin})
        assert refused.status == 403
    texts = [one["text"] for one in client.get("/api/runs").json()["runs"]]
    assert "Must stay" in texts and "by a page elsewhere" not in texts


def test_2_text_that_is_not_declared_json_is_refused_from_anywhere(client: Client):
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        answer = client.ask("POST", "/api/ask", b'{"kind":"patchscope","text":"x"}', {"Content-Type": media})
        assert answer.status == 415, media


def test_3_half_a_request_keeps_nobody_waiting_and_is_closed(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PromptProtocol, "head_seconds", 1.0)
    halves = [b"GET /api/he", b"GET / HTTP/1.1\r\nHost: ", b"", b"POST /api/ask HTTP/1.1\r\nX: 1\r\n"]
    waiting = [socket.create_connection(("127.0.0.1", client.port), timeout=10) for _ in range(50)]
    for half, connection in zip(itertools.cycle(halves), waiting, strict=False):
        connection.sendall(half)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        assert client.get("/api/health").status == 200
        times.append(time.perf_counter() - began)
    assert sorted(times)[-2] < 0.5
    for connection in waiting:
        assert connection.recv(100) == b""  # closed
        connection.close()


def test_3_a_drop_at_a_time_is_no_request_either(client: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PromptProtocol, "head_seconds", 0.6)
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        began = time.perf_counter()
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(b"X")
                time.sleep(0.1)
        assert time.perf_counter() - began < 3


# Who asks


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"]
ROUTES = [
    "/",
    "/api/health",
    "/api/enter",
    "/api/ask",
    "/api/runs",
    "/api/runs/0123456789abcdef",
    "/api/openapi.json",
    "/api/circuits/graph",
    "/api/coders/latents",
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_every_route_looks_at_host_and_origin(method: str, client: Client):
    bad = {
        "Host": ["evil.example", "evil.example:" + str(client.port), "localhost." + client.host, "", "127.0.0.1"],
        "Origin": [EVIL, "null", "http://127.0.0.1:1", client.server.access.origin + "/", "https://" + client.host],
        "Sec-Fetch-Site": ["cross-site", "same-site", "CROSS-SITE", "unheard-of"],
    }
    for route in ROUTES:
        for name, values in bad.items():
            for value in values:
                host = value if name == "Host" else client.host
                extra = "" if name == "Host" else f"{name}: {value}\r\n"
                head = f"{method} {route} HTTP/1.1\r\nHost: {host}\r\n{extra}Cookie: {client.cookie}\r\n\r\n"
                answer = raw(client, head.encode())
                assert status(answer) in (400, 403, 421), (method, route, name, value, answer[:80])


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_a_method_that_is_not_ours_is_refused_with_everything_else_right(method: str, client: Client):
    for route in ROUTES:
        assert client.ask(method, route).status == 405


@pytest.mark.parametrize(
    "twice", ["Host: {host}", "Origin: {origin}", "Host: evil.example", "Origin: http://evil.example"]
)
def test_a_header_given_twice_is_refused(twice: str, client: Client):
    line = twice.format(host=client.host, origin=client.server.access.origin)
    head = f"GET /api/health HTTP/1.1\r\nHost: {client.host}\r\nOrigin: {client.server.access.origin}\r\n{line}\r\n\r\n"
    assert status(raw(client, head.encode())) in (400, 403, 421)


def test_an_old_request_without_a_host_is_refused(client: Client):
    assert status(raw(client, b"GET / HTTP/1.0\r\n\r\n")) == 421


def test_a_name_that_was_pointed_here_reaches_nothing(stranger: Client):
    for path in ("/", "/api/health", "/api/capabilities"):
        answer = stranger.ask("GET", path, headers={"Host": f"rebound.example:{stranger.port}"})
        assert answer.status == 421


def test_these_tests_can_fail(stranger: Client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Guard, "_refusal", lambda *_: None)
    answer = stranger.ask("GET", "/api/capabilities", headers={"Host": "rebound.example", "Origin": EVIL})
    assert answer.status == 200


def test_without_the_cookie_only_health_answers(stranger: Client):
    assert stranger.get("/api/health").json()["status"] == "ok"
    for route in (
        "/api/capabilities",
        "/api/runs",
        "/api/openapi.json",
        "/api/circuits/graph",
        "/api/coders/latents",
        "/api/anything",
    ):
        assert stranger.get(route).status == 401
    for cookie in ("bathyscope=1", f"bathyscope-{stranger.port}=guess", "\x01=;;", f"bathyscope-{stranger.port}="):
        assert stranger.get("/api/runs", Cookie=cookie).status == 401
    assert stranger.question().status == 401


def test_a_link_opens_once(stranger: Client):
    token = stranger.server.access.link().partition("#token=")[2]
    assert stranger.post("/api/enter", {"token": token[:-1]}).status == 401
    answer = stranger.post("/api/enter", {"token": token})
    given = answer.headers["set-cookie"]
    assert answer.status == 200 and token not in given
    assert all(part in given for part in ("HttpOnly", "SameSite=Strict", "Path=/"))
    assert stranger.post("/api/enter", {"token": token}).status == 401
    assert stranger.post("/api/enter", {"token": ""}).status == 401


def test_secrets_are_of_one_server():
    one, other = Access(1), Access(1)
    assert not other.knows(one.cookie()) and one.knows(one.cookie().partition(";")[0])
    assert not other.enter(one.link().partition("#token=")[2])


def test_every_answer_says_what_a_page_may_load(client: Client, stranger: Client):
    for answer in (client.get("/"), client.get("/nothing"), stranger.get("/api/runs"), client.question()):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';") and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert not {name for name in answer.headers if name.startswith("access-control")}


# What is named


PARTS = [
    "graph",
    "latents",
    "secret.txt",
    "..",
    ".",
    "",
    "\x00",
    "\u202e",
    "\ud7ff",
    "CON",
    "a" * 90,
    "graph.json",
    "%",
    "'",
    "\n",
]
SLASHES = ["/", "\\", "%2f", "%5c", "%252f", "\u2215", "\uff0f", ";", "//"]


def encodings(n: int) -> list[str]:
    """Odd names, and paths out of everywhere, in odd encodings; each is another."""
    draw = random.Random(8)
    found: dict[str, None] = {}
    while len(found) < n:
        parts = [draw.choice(PARTS) for _ in range(draw.randrange(1, 6))]
        text = draw.choice(SLASHES).join(parts) if draw.random() < 0.8 else "".join(parts)
        how = draw.randrange(4)
        if how == 0:
            text = quote(text, safe="/%")
        elif how == 1:
            text = "".join(f"%{byte:02x}" for byte in text.encode())
        elif how == 2:
            text = quote(quote(text, safe=""), safe="")
        else:
            text = "".join(quote(one, safe="") if draw.random() < 0.5 or not "!" <= one <= "~" else one for one in text)
        found.setdefault(text)
    return [one for one in found if unquote(one) not in ("graph", "latents")]


def test_no_encoding_of_a_name_is_more_than_a_name(client: Client, caplog: pytest.LogCaptureFixture):
    opened: list[object] = []
    watching = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str):
            opened.append(arguments[0])

    names = encodings(520)
    assert len(names) >= 500
    sys.addaudithook(hear)
    try:
        for number, name in enumerate(names):
            folder = ("circuits", "coders", "runs")[number % 3]
            method, rest = ("POST", "/again") if folder == "runs" else ("GET", "")
            head = f"{method} /api/{folder}/{name}{rest} HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\n"
            answer = raw(client, f"{head}Connection: close\r\n\r\n".encode())
            assert 400 <= status(answer) < 500, (name, answer[:200])
            assert b"Traceback" not in answer and HIDDEN.encode() not in answer, name
    finally:
        watching = False
    assert opened == [] and caplog.records == []
    assert client.get("/api/circuits/graph").status == 200


@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5"]},
        {"kind": "ablate", "circuit": "../graph", "features": ["resid_post.9/7@5"]},
        {"kind": "ablate", "circuit": "graph", "features": []},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5"] * 65},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5\n"]},
        {"kind": "ablate", "circuit": "graph", "features": ["/etc/passwd@1"]},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/error@5"]},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5"], "value": 1e300},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5"], "pairs": 0},
        {"kind": "ablate", "circuit": "graph", "features": ["resid_post.9/7@5"], "path": "secret.txt"},
        {"kind": "steer", "coder": "latents", "latent": 1, "text": "x", "factors": [1]},
        {"kind": "steer", "coder": "secret.txt", "latent": 1, "text": "x", "factors": [1]},
        {"kind": "steer", "coder": "latents", "latent": -1, "text": "x", "factors": [1]},
        {"kind": "steer", "coder": "latents", "latent": 1, "text": "x", "factors": []},
        {"kind": "steer", "coder": "latents", "latent": 1, "text": "x" * 20_001, "factors": [1]},
        {"kind": "steer", "coder": "latents", "latent": 1, "text": "x", "factors": [1], "new_tokens": 65},
        {"kind": "features", "coder": "latents"},
    ],
)
def test_a_question_of_what_is_not_there_is_refused(asked: dict[str, object], client: Client):
    answer = client.post("/api/ask", asked)
    told = answer.json() if answer.status == 422 else answer.message("error")
    assert answer.status in (200, 422) and HIDDEN not in json.dumps(told) and "internal" not in json.dumps(told)
    assert client.post("/api/command", {"question": asked}).status == 422


def test_a_body_for_what_takes_none_is_bounded_like_any_other(client: Client):
    for route in ("/api/circuits/graph", "/api/coders/latents"):
        said = f"Host: {client.host}\r\nCookie: {client.cookie}\r\nContent-Length: 99999999\r\n\r\n"
        assert status(raw(client, f"GET {route} HTTP/1.1\r\n{said}".encode())) == 413
        assert client.ask("GET", route, b"{}", {"Content-Type": "text/plain"}).status == 415
        for method in ("POST", "DELETE"):
            assert client.ask(method, route).status in (404, 405)


# How much


def test_a_large_body_is_refused_before_it_is_sent(client: Client):
    head = (
        f"POST /api/ask HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert status(raw(client, head.encode())) == 413


def test_a_large_body_without_a_length_is_refused_on_the_way(client: Client):
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert status(raw(client, asking(client, "Transfer-Encoding: chunked") + chunk * 17)) == 413


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Content-Length: -1", (400, 413)),
        ("Content-Length: 1\r\nContent-Length: 2", (400,)),
        ("Content-Length: 1\r\nTransfer-Encoding: chunked", (400, 408, 413)),
        ("Content-Encoding: gzip\r\nContent-Length: 0", (415,)),
        ("X-Large: " + "x" * 70_000, (400, 431)),
        ("Transfer-Encoding: gzip", (400, 501)),
        ("Upgrade: websocket\r\nConnection: upgrade", (401, 405, 422, 404)),
    ],
)
def test_a_head_that_says_two_things_or_too_much_is_refused(line: str, expected: tuple[int, ...], client: Client):
    assert status(raw(client, asking(client, line))) in expected


def test_a_long_address_and_many_ranges_cost_nothing(client: Client):
    assert client.get("/" + "a" * 3000).status == 414
    began = time.perf_counter()
    answer = client.get("/", Range="bytes=" + ",".join(f"{n}-" for n in range(1500)))
    assert answer.status == 200 and time.perf_counter() - began < 0.5  # ranges are not a thing here


def test_a_body_that_does_not_come_is_not_waited_for(client: Client):
    began = time.perf_counter()
    assert status(raw(client, asking(client, "Content-Length: 50") + b"{")) == 408
    assert time.perf_counter() - began < 5


def test_deep_json_and_odd_numbers_are_refused(client: Client):
    for body in (
        b"[" * 100_000,
        b'{"kind":' * 5000,
        b'{"kind":"patchscope","text":"x","scale":NaN}',
        b"\xff\xfe",
        b"{",
    ):
        answer = client.ask("POST", "/api/ask", body, {"Content-Type": "application/json"})
        assert answer.status in (400, 422), (body[:20], answer)


def test_nothing_is_fetched(client: Client):
    reached: list[object] = []
    watching = True

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        elsewhere = event == "socket.connect" and arguments[1] != ("127.0.0.1", client.port)
        if watching and (elsewhere or event in ("socket.getaddrinfo", "urllib.Request")):
            reached.append(arguments)

    sys.addaudithook(hear)
    try:
        client.question(model="http://evil.example/model")
        client.question(text="http://evil.example/x")
    finally:
        watching = False
    assert [one for one in reached if one[0] not in ("127.0.0.1", client.host)] == []


def test_it_listens_on_loopback_only(client: Client):
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = {one.split()[1] for one in lines if one.split()[3] == "0A"}
    assert f"0100007F:{client.port:04X}" in listening and f"00000000:{client.port:04X}" not in listening


def test_one_that_reads_slowly_keeps_nobody_waiting(client: Client):
    asked = json.dumps({"kind": "patchscope", "text": TEXT, "at": "all", "new_tokens": 20, "layers": "all"})
    head = f"POST /api/ask HTTP/1.1\r\nHost: {client.host}\r\nCookie: {client.cookie}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(asked)}\r\n\r\n{asked}"
    with socket.create_connection(("127.0.0.1", client.port)) as slow:
        slow.sendall(head.encode())
        done = threading.Event()
        thread = threading.Thread(target=lambda: (client.question(text="Somebody else"), done.set()))
        thread.start()
        assert done.wait(20)
        thread.join()
