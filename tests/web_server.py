"""What tests of the web server share: one in a thread on tiny models, and clients that speak plain HTTP to it."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bathyscope.store import Store
from bathyscope.web.assets import Asset
from bathyscope.web.models import Models
from bathyscope.web.server import WebServer
from conftest import tiny_model

PAGE = {"/": Asset(b"<!doctype html><title>Bathyscope</title>", "text/html; charset=utf-8", '"page"')}
TEXT = "Diana, Princess of Wales"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.body.splitlines()]

    def message(self, event: str) -> dict[str, Any]:
        found = [line for line in self.lines() if line["event"] == event]
        assert found, self.lines()
        return found[-1]


@dataclass
class Client:
    """Somebody who talks to a server, with its cookie or without."""

    server: WebServer
    cookie: str = ""

    @property
    def host(self) -> str:
        return self.server.access.origin.removeprefix("http://")

    @property
    def port(self) -> int:
        return int(self.host.partition(":")[2])

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        sent = {"Cookie": self.cookie} if self.cookie else {}
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any) -> Answer:
        return self.ask("POST", path, body)

    def question(self, **asked: Any) -> Answer:
        return self.post("/api/ask", {"kind": "patchscope", "text": TEXT, "new_tokens": 4, **asked})

    def enter(self) -> "Client":
        answer = self.post("/api/enter", {"token": self.server.access.link().partition("#token=")[2]})
        assert answer.status == 200, answer
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[WebServer]:
    """A server of a tiny model, which ends with the block."""
    models = options.pop("models", None) or Models({"tiny": tiny_model("llama")}, {"tiny": "./tiny"})
    with Store(folder / "store") as store:
        server = WebServer(models, store, files=options.pop("files", PAGE), **options)
        ready = threading.Event()
        thread = threading.Thread(target=server.run, args=(ready.set,))
        thread.start()
        try:
            assert ready.wait(10)
            yield server
        finally:
            server.stop()
            thread.join(10)
            assert not thread.is_alive()
