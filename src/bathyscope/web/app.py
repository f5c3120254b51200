"""The server's routes: thin ones, whose work is done by the library's public functions.

No route takes a path, a URL or the name of what is not served; a run is named by its hash.
"""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import bathyscope
from bathyscope import prompts
from bathyscope.controls import CONTROLS
from bathyscope.errors import BathyscopeError, UsageError
from bathyscope.patchscope_result import PatchscopeResult
from bathyscope.results import Result
from bathyscope.store import RunInfo, Store
from bathyscope.web.access import Access
from bathyscope.web.again import KINDS, asked_again, lens_of
from bathyscope.web.answers import record
from bathyscope.web.asked import Question, Running
from bathyscope.web.asked.base import BUDGET, MOST_CELLS
from bathyscope.web.asked.lens import PLAIN
from bathyscope.web.assets import Asset
from bathyscope.web.guards import Guard
from bathyscope.web.limits import BODY_BYTES, BODY_SECONDS, Limits
from bathyscope.web.models import Models
from bathyscope.web.opened import NAME
from bathyscope.web.page import drawn
from bathyscope.web.streams import Stream
from bathyscope.web.worker import BusyError, Job, Worker

MOST_RUNS = 200
"""Runs that are listed, the newest."""

api = APIRouter(prefix="/api")
RunId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]
FileName = Annotated[str, Path(pattern=NAME)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Link(_Strict):
    """The token of a link."""

    token: Annotated[str, Field(max_length=100)]


class Reading(_Strict):
    """A text that is to be cut into tokens."""

    text: Annotated[str, Field(min_length=1, max_length=20_000)]
    model: Annotated[str, Field(max_length=400)] | None = None


class Typed(_Strict):
    """A question, or one cell of it, that somebody wants to type instead."""

    question: Question
    layer: Annotated[int, Field(ge=-1, le=10_000)] | None = None
    position: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class Served:
    """What the routes use.

    Args:
        models: those that are served.
        store: where runs are kept.
        worker: what runs models.
        access: the server's secrets.
    """

    def __init__(self, models: Models, store: Store, worker: Worker, access: Access) -> None:
        self.models, self.store, self.worker, self.access = models, store, worker, access


async def _served(request: Request) -> Served:  # not in a thread, which a plain function would be given
    return request.app.state.served


Here = Annotated[Served, Depends(_served)]


@api.get("/health")
async def health(here: Here) -> dict[str, Any]:
    """Whether the server lives, also while a model runs."""
    return {"status": "ok", "idle": here.worker.idle}


@api.post("/enter")
async def enter(link: Link, here: Here) -> Response:
    """Swap a link's token for a cookie."""
    if not here.access.enter(link.token):
        given = "the link was used already, or is of another server"
        error = UsageError(given, "a link opens once", "the address that bathyscope serve prints when started again")
        return JSONResponse({"error": record(error)}, 401)
    return JSONResponse({"status": "ok"}, headers={"set-cookie": here.access.cookie()})


@api.get("/capabilities")
async def capabilities(here: Here) -> dict[str, Any]:
    """What can be asked here: models, prompts, controls, lenses, limits."""
    return {
        "version": bathyscope.__version__,
        "models": [{"name": name, **model.provenance()} for name, model in here.models],
        "prompts": {name: {"text": make().text, "placeholder": make().placeholder} for name, make in _prompts()},
        "controls": list(CONTROLS),
        "lenses": list(PLAIN),
        "questions": ["patchscope", "lens", "trace", "patch", "knockout", "ablate", "steer"],
        "circuits": [{"name": name, **one.told()} for name, one in here.models.circuits.items()],
        "coders": [{"name": name, **one.told()} for name, one in here.models.coders.items()],
        "mappings": [{"name": name, **one.told()} for name, one in here.models.mappings.items()],
        "limits": {"cells": MOST_CELLS, "body_bytes": BODY_BYTES},
    }


@api.post("/tokens")
async def tokens(reading: Reading, here: Here) -> dict[str, Any]:
    """The tokens of a text; quick, also while a model runs."""
    found = here.models.named(reading.model).tokenize(reading.text)
    return {"ids": list(found.ids), "tokens": list(found.texts)}


@api.post("/command")
async def command(typed: Typed, here: Here) -> dict[str, str]:
    """The command and the Python that ask the same, of everything or of one cell."""
    question = typed.question
    if typed.layer is not None and typed.position is not None:
        question = question.of_cell(typed.layer, typed.position)
    return {"shell": question.shell(here.models), "python": question.python(here.models)}


@api.post("/ask")
async def ask(question: Annotated[Question, Body()], here: Here) -> Response:
    """Answer a question, as lines of JSON while it is answered; to leave is to cancel."""

    def work(job: Job) -> None:
        tell_result(job, question.run(Running(here.models, here.store, job)))

    return Stream(here.worker.submit(work))


@api.get("/runs")
async def runs(here: Here) -> dict[str, Any]:
    """The stored runs, the newest first."""
    found = await asyncio.to_thread(here.store.runs)
    newest = sorted(found, key=lambda one: one.created, reverse=True)
    return {"runs": [_listed(one) for one in newest[:MOST_RUNS]], "count": len(found)}


@api.get("/circuits/{name}")
async def circuit(name: FileName, here: Here) -> Response:
    """A graph as it is drawn: one that was named at the start."""
    found = here.models.circuit(name)
    return Response(await asyncio.to_thread(lambda: found.drawn), media_type="application/json")


@api.get("/coders/{name}")
async def coder(name: FileName, here: Here) -> Response:
    """What a text says of a coder's latents, as columns that the page unpacks."""
    found = here.models.coder(name)
    return Response(await asyncio.to_thread(lambda: found.drawn), media_type="application/json")


@api.post("/runs/{run}/again")
async def again(run: RunId, here: Here) -> Response:
    """Show a stored patchscope, lens or causal map, and compute what it lacks."""

    def work(job: Job) -> None:
        options = {"store": here.store, "stop": job.stop, "budget": BUDGET}
        tell_result(job, asked_again(here.store.show(run), here.models, **options))

    return Stream(here.worker.submit(work))


@api.delete("/runs/{run}")
async def delete(run: RunId, here: Here) -> dict[str, int]:
    """Delete a run, and those of its cells that no other run has."""
    return {"deleted": await asyncio.to_thread(here.store.delete, run)}


def tell_result(job: Job, result: Result) -> None:
    """Tell a whole result, and how long it took, which is no part of it."""
    job.tell("result", result=drawn(result))
    job.tell("done", timing=result.to_dict().get("timing", {}))


def make_app(served: Served, files: Mapping[str, Asset], *, body_seconds: float = BODY_SECONDS) -> ASGIApp:
    """The whole server as an ASGI application, behind its guards.

    Args:
        served: what it serves.
        files: the app's own files, by path.
        body_seconds: how long a body may take to come.
    """
    app = FastAPI(
        title="Bathyscope",
        version=bathyscope.__version__,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.served = served
    app.include_router(api)

    @app.get("/{path:path}", include_in_schema=False)
    async def asset(request: Request) -> Response:
        return _file(files, request)

    app.add_exception_handler(BathyscopeError, _told)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _not_there)
    return Guard(Limits(app, body_seconds=body_seconds), served.access)


def _file(files: Mapping[str, Asset], request: Request) -> Response:
    found = files.get(request.scope["path"])
    if found is None:
        raise HTTPException(404)
    kept = "no-cache" if found.media_type.startswith("text/html") else "max-age=31536000, immutable"
    headers = {"etag": found.tag, "cache-control": kept}
    if request.headers.get("if-none-match") == found.tag:
        return Response(status_code=304, headers=headers)
    return Response(found.body, media_type=found.media_type, headers=headers)


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BathyscopeError)
    if isinstance(error, BusyError):
        return JSONResponse({"error": record(error)}, 429, {"retry-after": "1"})
    return JSONResponse({"error": record(error)}, 422 if error.exit_code == 2 else 500)


async def _misread(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    given = f"{place or 'the body'} was not understood"
    return JSONResponse({"error": record(UsageError(given, str(first["msg"])[:200], "/api/openapi.json"))}, 422)


async def _not_there(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    given = {404: "nothing is there", 405: "that method is not for this address"}.get(error.status_code)
    given = given or "the body was not understood"
    return JSONResponse({"error": record(UsageError(given))}, error.status_code)


def _prompts() -> Any:
    return prompts.PROMPTS.items()


def _listed(info: RunInfo) -> dict[str, Any]:
    read = info.spec.get("source") or next(iter((info.spec.get("prompts") or {}).values()), None)
    return {
        "id": info.id,
        "kind": info.kind,
        "method": lens_of(info.spec) if info.kind == PatchscopeResult.kind else info.spec.get("method"),
        "again": info.kind in KINDS,
        "created": info.created,
        "status": info.status,
        "cells": info.n_cells,
        "done": info.n_done,
        "text": read.get("prompt") if isinstance(read, Mapping) else None,
        "models": [one.get("name") for one in info.spec.get("models", ()) if isinstance(one, Mapping)],
    }
