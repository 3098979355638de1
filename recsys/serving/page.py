"""The page at ``/``, and what it asks for beside recommendations: users, how the run gets on, and where clicks go.

Its HTML, CSS and JavaScript are files of this package and load nothing from elsewhere.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from recsys.errors import ConfigError
from recsys.serving.bodies import (
    REFUSALS,
    ActionAnswer,
    ActionRequest,
    ImpressionsAnswer,
    ImpressionsRequest,
    ProgressAnswer,
    UsersAnswer,
)
from recsys.serving.published import Id, Published

_FOLDER = Path(__file__).parent / "web"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HEADERS = {
    "cache-control": "no-cache",
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
_MOST_USERS = 50


class ClickTaker(Protocol):
    """Takes what is shown and done: see recsys.serving.clicks.Clicks."""

    def show(self, user_id: Id, item_ids: Sequence[Id]) -> list[str]:
        """A list is shown; the request id of each item."""

    def act(self, request_id: str, kind: str) -> int:
        """Something is done; the time that it is stamped with, in ms."""


def add_page(app: FastAPI, published: Published, clicks: ClickTaker | None) -> None:
    """The page and its questions."""
    for path, (name, kind) in _FILES.items():
        _add_file(app, path, (_FOLDER / name).read_bytes(), kind)
    _add_state(app, published, clicks)
    if clicks is not None:
        _add_clicks(app, clicks)


async def shown(clicks: ClickTaker | None, user: Id, items: Sequence[Id]) -> list[str]:
    """Request ids of a list that is shown; ConfigError where clicks go nowhere."""
    if clicks is None:
        raise without_clicks()
    return await run_in_threadpool(clicks.show, user, items) if items else []


def without_clicks() -> ConfigError:
    """The error for what needs a stream where there is none."""
    return ConfigError("this service writes to no Kafka; start it with kafka.bootstrap_servers=, or leave out log")


def _add_file(app: FastAPI, path: str, content: bytes, kind: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=kind, headers=_HEADERS)


def _add_state(app: FastAPI, published: Published, clicks: ClickTaker | None) -> None:
    @app.get("/v1/users", responses=REFUSALS, response_model=UsersAnswer)
    async def users() -> Any:
        def latest() -> list[Id]:
            return published.current()[0].recent_users(_MOST_USERS)

        return JSONResponse({"users": await run_in_threadpool(latest), "can_click": clicks is not None})

    @app.get("/v1/progress", responses=REFUSALS, response_model=ProgressAnswer)
    async def progress() -> Any:
        look = await run_in_threadpool(lambda: published.current()[0].progress())
        return JSONResponse({"progress": look})


def _add_clicks(app: FastAPI, clicks: ClickTaker) -> None:
    @app.post("/v1/impressions", responses=REFUSALS, response_model=ImpressionsAnswer)
    async def show(request: ImpressionsRequest) -> Any:
        return JSONResponse({"requests": await shown(clicks, request.user, request.items)})

    @app.post("/v1/actions", responses=REFUSALS, response_model=ActionAnswer)
    async def act(request: ActionRequest) -> Any:
        return JSONResponse({"time_ms": await run_in_threadpool(clicks.act, request.request_id, request.kind)})
