"""The server as a process: its socket on the loopback interface, its address, and its end."""

import socket
from collections.abc import Callable, Mapping

import uvicorn

from bathyscope.errors import StorageError
from bathyscope.store import Store
from bathyscope.web.access import Access
from bathyscope.web.app import Served, make_app
from bathyscope.web.assets import Asset, assets
from bathyscope.web.connections import PromptProtocol
from bathyscope.web.limits import BODY_SECONDS
from bathyscope.web.models import Models
from bathyscope.web.worker import Worker

HOST = "127.0.0.1"
GRACE = 1
"""Seconds that answers under way have to end."""


class WebServer:
    """The web app's server, which listens from the moment it is made.

    Args:
        models: what is served.
        store: where runs are kept.
        port: where to listen; 0 for any that is free.
        files: the app's own files; those of the installation unless given.
        body_seconds: how long a request's body may take to come.

    Attributes:
        access: its links and its cookie.
        worker: what runs models.

    Raises:
        StorageError: the port is in use, or the app was not built.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        *,
        port: int = 0,
        files: Mapping[str, Asset] | None = None,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        found = assets() if files is None else files
        self._socket = _listen(port)
        self.access = Access(self._socket.getsockname()[1])
        self.worker = Worker()
        self._models = models
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                make_app(Served(models, store, self.worker, self.access), found, body_seconds=body_seconds),
                http=PromptProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_level="error",
                proxy_headers=False,
                server_header=False,
                timeout_graceful_shutdown=GRACE,
            ),
            self.worker,
        )

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serve until the process is told to stop, or `stop` is called.

        Args:
            started: called when requests are answered, to tell people the address.
        """
        self._uvicorn.told = started
        self.worker.start(self._models.identify)
        try:
            self._uvicorn.run([self._socket])
        finally:
            self.worker.close()
            self._socket.close()

    def stop(self) -> None:
        """End `run` soon, from another thread."""
        self._uvicorn.should_exit = True


class _Uvicorn(uvicorn.Server):
    """uvicorn, which tells when it listens, and ends the model's work before it waits for answers."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker
        self.told: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.told()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.close(0)
        await super().shutdown(sockets)


def _listen(port: int) -> socket.socket:
    """An open socket, which nobody but this machine can reach."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        reason = error.strerror or "it cannot be opened"
        raise StorageError(f"port {port} was asked for: {reason}", "a free one is needed", "--port 0") from error
    return listening
