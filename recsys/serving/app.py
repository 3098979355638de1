"""The HTTP face of lookup and rank: ``POST /v1/lookup``, ``POST /v1/rank``, ``GET /healthz``, and ``GET /docs``."""

from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from recsys.errors import ConfigError, DataError, RecsysError, ServiceError
from recsys.serving.docs import docs_page
from recsys.serving.lookup import Lookup
from recsys.serving.published import NotPublished
from recsys.serving.ranker import Ranker

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1, strict=True)]
Id = Int64 | Annotated[str, Field(min_length=1, max_length=256)]


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


def build_app(lookup: Lookup, ranker: Ranker) -> FastAPI:
    """The application over a lookup and a ranker."""
    # FastAPI's own pages of documentation load their scripts from elsewhere
    app = FastAPI(
        title="recsys", description="Embeddings and rankings from the serving cache.", docs_url=None, redoc_url=None
    )

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs(request: Request) -> str:
        return docs_page(str(request.base_url))

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/lookup")
    def look_up(request: LookupRequest) -> dict[str, object]:
        found = lookup.embed(request.feature, request.ids)
        return {"embeddings": found.vectors_ND.tolist(), "versions": asdict(found.versions)}

    @app.post("/v1/rank")
    def rank(request: RankRequest) -> dict[str, object]:
        context = {} if request.time_ms is None else {"time_ms": request.time_ms}
        ranking = ranker.rank(request.user, request.candidates, context, request.k)
        return asdict(ranking)

    @app.exception_handler(RecsysError)
    def refuse(request: Request, error: RecsysError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, _status(error))

    @app.exception_handler(RequestValidationError)
    def refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
        # without the values themselves: NaN, which Python reads in JSON, could not be written back
        reasons = [f"{'.'.join(str(part) for part in at['loc'])}: {at['msg']}" for at in error.errors()]
        return JSONResponse({"error": "; ".join(dict.fromkeys(reasons))}, 422)

    return app


def _status(error: RecsysError) -> int:
    """What the client asked wrongly is its mistake (400); what is not published or reachable may come (503)."""
    if isinstance(error, NotPublished | ServiceError):
        return 503
    return 400 if isinstance(error, ConfigError | DataError) else 500
