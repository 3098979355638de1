"""The HTTP face of lookup, rank and recommend.

``POST /v1/lookup``, ``POST /v1/rank``, ``GET`` and ``POST /v1/recommend``; ``GET /healthz`` (it runs), ``/readyz`` (it
can answer), ``/metrics`` and ``/docs``. Each error is ``{"error": "one line", "code": "for programs"}``.
"""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from recsys.errors import ConfigError, DataError, RecsysError, ServiceError
from recsys.serving.concurrent import AsyncLookup, AsyncRanker, AsyncRetriever
from recsys.serving.docs import docs_page
from recsys.serving.guard import Guard, Limits, error_body
from recsys.serving.lookup import Lookup
from recsys.serving.metrics import CONTENT_TYPE, ServiceMetrics
from recsys.serving.published import NotPublished
from recsys.serving.ranker import Ranker
from recsys.serving.retriever import Exclude, RetrievalConfig, Retriever

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]
Id = Int64 | Annotated[str, Field(min_length=1, max_length=256)]
IdInUrl = Annotated[str, Query(min_length=1, max_length=256, description="digits are a number, other text is a string")]
NumItems = Annotated[int, Field(ge=1, le=1_000)]


class LookupRequest(BaseModel, extra="forbid"):
    """Which embeddings."""

    feature: str
    ids: Annotated[list[Id], Field(min_length=1, max_length=10_000)]


class RankRequest(BaseModel, extra="forbid"):
    """Whom to rank what for; without candidates, all items but those the user liked lately."""

    user: Id
    candidates: Annotated[list[Id], Field(max_length=10_000)] | None = None
    k: Annotated[int, Field(ge=1, le=10_000)] = 10
    time_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None


class RecommendRequest(BaseModel, extra="forbid"):
    """Whom to recommend to, out of all items but those that are to be left out; ``why`` asks for reasons."""

    user: Id
    k: NumItems = 10
    exclude: Exclude = "liked"
    time_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None
    rerank: bool = True
    why: bool = False


class AnswerVersions(BaseModel):
    """What an answer was made from: see recsys.serving.published.Versions."""

    run: str
    version: int
    rows: int
    time_ms: int
    published_at_ms: int
    dense: int


class LookupAnswer(BaseModel):
    """Embeddings in the order of the ids."""

    embeddings: list[list[float]]
    versions: AnswerVersions


class RankAnswer(BaseModel):
    """Candidates by falling probability."""

    items: list[int | str]
    scores: list[float]
    titles: list[str]
    versions: AnswerVersions


class RecommendAnswer(RankAnswer):
    """The best of all items, the reasons for each, and what the user liked and was shown lately."""

    because: list[list[str]]
    liked: list[int | str]
    shown: list[int | str]
    by: str


class Refusal(BaseModel):
    """Every error."""

    error: str
    code: str


REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 401, 413, 422, 503, 504)}
UNREADY: dict[int | str, dict[str, Any]] = {503: {"model": Refusal}}


def build_app(
    lookup: Lookup, ranker: Ranker, limits: Limits | None = None, retrieval: RetrievalConfig | None = None
) -> FastAPI:
    """The application over a lookup and a ranker, within limits."""
    # FastAPI's own pages of documentation load their scripts from elsewhere
    app = FastAPI(
        title="recsys", description="Embeddings and rankings from the serving cache.", docs_url=None, redoc_url=None
    )
    metrics = ServiceMetrics()
    app.add_middleware(Guard, limits=limits or Limits(), metrics=metrics)
    _add_questions(app, AsyncLookup(lookup), AsyncRanker(ranker))
    _add_recommend(app, AsyncRetriever(Retriever(ranker, retrieval)))
    _add_state(app, lookup, metrics)
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


def _add_recommend(app: FastAPI, retriever: AsyncRetriever) -> None:
    @app.post("/v1/recommend", responses=REFUSALS, response_model=RecommendAnswer)
    async def recommend(request: RecommendRequest) -> Any:
        context = {} if request.time_ms is None else {"time_ms": request.time_ms}
        found = await retriever.recommend(
            request.user, request.k, request.exclude, context, rerank=request.rerank, why=request.why
        )
        return JSONResponse(asdict(found))

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


def _add_state(app: FastAPI, lookup: Lookup, metrics: ServiceMetrics) -> None:
    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs(request: Request) -> str:
        return docs_page(str(request.base_url))

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", responses=UNREADY)
    async def readyz() -> dict[str, Any]:
        _, versions = await run_in_threadpool(lookup.published.current)
        return {"status": "ready", "versions": asdict(versions)}

    @app.get("/metrics", include_in_schema=False)
    async def exposed() -> Response:
        return Response(metrics.exposed(), media_type=CONTENT_TYPE)


def _add_refusals(app: FastAPI) -> None:
    @app.exception_handler(RecsysError)
    async def refuse(request: Request, error: RecsysError) -> JSONResponse:
        status, code = _status(error)
        return JSONResponse(error_body(status, str(error), code), status)

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
    if isinstance(error, NotPublished):
        return 503, "not_published"
    if isinstance(error, ServiceError):
        return 503, "unavailable"
    return (400, "bad_request") if isinstance(error, ConfigError | DataError) else (500, "internal")
