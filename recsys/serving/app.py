"""The HTTP face of lookup, rank and recommend.

``POST /v1/lookup``, ``POST /v1/rank``, ``GET`` and ``POST /v1/recommend``; ``GET /healthz`` (it runs), ``/readyz`` (it
can answer), ``/metrics`` and ``/docs``. Each error is ``{"error": "one line", "code": "for programs"}``.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from recsys.errors import ConfigError, DataError, RecsysError, ServiceError
from recsys.serving.bodies import (
    REFUSALS,
    UNREADY,
    IdInUrl,
    LookupAnswer,
    LookupRequest,
    NumItems,
    RankAnswer,
    RankRequest,
    RecommendAnswer,
    RecommendRequest,
)
from recsys.serving.concurrent import AsyncLookup, AsyncRanker, AsyncRetriever
from recsys.serving.docs import docs_page
from recsys.serving.guard import Guard, Limits, error_body
from recsys.serving.lookup import Lookup
from recsys.serving.metrics import CONTENT_TYPE, ServiceMetrics
from recsys.serving.page import ClickTaker, add_page, shown, without_clicks
from recsys.serving.published import NotPublished, NotReady
from recsys.serving.ranker import Ranker
from recsys.serving.retriever import Exclude, RetrievalConfig, Retriever

_MOST_PATIENCE_SECONDS = 1.0  # of a recommendation, for item vectors that are being made


def build_app(
    lookup: Lookup,
    ranker: Ranker,
    limits: Limits | None = None,
    retrieval: RetrievalConfig | None = None,
    clicks: ClickTaker | None = None,
) -> FastAPI:
    """The application over a lookup and a ranker, within limits; where there are ``clicks``, what is shown counts."""
    limits, metrics, retriever = limits or Limits(), ServiceMetrics(), Retriever(ranker, retrieval)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with retriever.kept_ready():
            yield

    # FastAPI's own pages of documentation load their scripts from elsewhere
    app = FastAPI(
        title="recsys",
        description="Embeddings and rankings from the serving cache.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, limits=limits, metrics=metrics)
    _add_questions(app, AsyncLookup(lookup), AsyncRanker(ranker))
    patience_seconds = min(_MOST_PATIENCE_SECONDS, limits.timeout_seconds / 2)
    _add_recommend(app, AsyncRetriever(retriever, patience_seconds=patience_seconds), clicks)
    add_page(app, lookup.published, clicks)
    _add_state(app, retriever, metrics)
    _add_refusals(app)
    return app


def _add_questions(app: FastAPI, lookup: AsyncLookup, ranker: AsyncRanker) -> None:
    @app.post("/v1/lookup", responses=REFUSALS, response_model=LookupAnswer)
    async def look_up(request: LookupRequest) -> Any:
        found = await lookup.embed(request.feature, request.ids)
        return JSONResponse({"embeddings": found.vectors_ND.tolist(), "versions": asdict(found.versions)})

    @app.post("/v1/rank", responses=REFUSALS, response_model=RankAnswer)
    async def rank(request: RankRequest) -> Any:
        context = {} if request.time_ms is None else {"time_ms": request.time_ms}
        return JSONResponse(asdict(await ranker.rank(request.user, request.candidates, context, request.k)))


def _add_recommend(app: FastAPI, retriever: AsyncRetriever, clicks: ClickTaker | None) -> None:
    @app.post("/v1/recommend", responses=REFUSALS, response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest) -> Any:
        if request.log and clicks is None:
            raise without_clicks()
        context = {} if request.time_ms is None else {"time_ms": request.time_ms}
        found = await retriever.recommend(
            request.user, request.k, request.exclude, context, rerank=request.rerank, why=request.why
        )
        requests = await shown(clicks, request.user, found.items) if request.log else []
        return JSONResponse({**asdict(found), "requests": requests})

    @app.get("/v1/recommend", responses=REFUSALS, response_model=RecommendAnswer)
    async def recommend_by_url(user: IdInUrl, k: NumItems = 10, exclude: Exclude = "liked", why: bool = False) -> Any:
        return await recommend(RecommendRequest(user=id_in_url(user), k=k, exclude=exclude, why=why))


def id_in_url(text: str) -> int | str:
    """An id of 64 bits where a text is one in decimal, else the text itself.

    >>> id_in_url("7"), id_in_url("tt7"), id_in_url("007"), id_in_url("-0")
    (7, 'tt7', '007', '-0')
    """
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 20 and str(int(text)) == text:
        return int(text) if -(2**63) <= int(text) < 2**63 else text
    return text


def _add_state(app: FastAPI, retriever: Retriever, metrics: ServiceMetrics) -> None:
    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs(request: Request) -> str:
        return docs_page(str(request.base_url))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses=UNREADY)
    async def readyz() -> dict[str, Any]:
        versions = await run_in_threadpool(retriever.check_ready)
        return {"status": "ready", "versions": asdict(versions)}

    @app.get("/metrics", include_in_schema=False)
    async def exposed() -> Response:
        return Response(metrics.exposed(), media_type=CONTENT_TYPE)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(RecsysError)
    async def refuse(request: Request, error: RecsysError) -> JSONResponse:
        status, code = _status(error)
        headers = {"retry-after": "1"} if code == "not_ready" else None
        return JSONResponse(error_body(status, str(error), code), status, headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        # without the values themselves: NaN, which Python reads in JSON, could not be written back
        reasons = [f"{'.'.join(str(part) for part in at['loc'])}: {at['msg']}" for at in error.errors()]
        return JSONResponse(error_body(422, "; ".join(dict.fromkeys(reasons)).replace("\n", " ")), 422)

    @app.exception_handler(HTTPException)
    async def refuse_request(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_body(500, "this is a defect of the service; its log has more"), 500)


def _status(error: RecsysError) -> tuple[int, str]:
    """What the client asked wrongly is its mistake (400); what is not published or reachable may come (503)."""
    if isinstance(error, NotReady):
        return 503, "not_ready"
    if isinstance(error, NotPublished):
        return 503, "not_published"
    if isinstance(error, ServiceError):
        return 503, "unavailable"
    return (400, "bad_request") if isinstance(error, ConfigError | DataError) else (500, "internal")
