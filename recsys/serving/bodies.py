"""What requests to the HTTP service and its answers hold, field by field: what OpenAPI says of them."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, Field

from recsys.serving.retriever import Exclude

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
    """Whom to recommend to, out of all items but those that are to be left out.

    ``why`` asks for reasons. ``log`` says that the list is shown: each item gets a request id to act on.
    """

    user: Id
    k: NumItems = 10
    exclude: Exclude = "liked"
    time_ms: Annotated[int, Field(ge=0, le=2**53)] | None = None
    rerank: bool = True
    why: bool = False
    log: bool = False


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
    """The best of all items, the reasons for each, what the user liked and was shown lately, and request ids."""

    because: list[list[str]]
    liked: list[int | str]
    liked_titles: list[str]
    shown: list[int | str]
    by: str
    requests: list[str]


class ImpressionsRequest(BaseModel, extra="forbid"):
    """Items that a user is shown now."""

    user: Id
    items: Annotated[list[Id], Field(min_length=1, max_length=1_000)]


class ImpressionsAnswer(BaseModel):
    """The request id of each item, to act on."""

    requests: list[str]


class ActionRequest(BaseModel, extra="forbid"):
    """What was done about an item that was shown under a request id."""

    request_id: Annotated[str, Field(min_length=1, max_length=256)]
    kind: Annotated[str, Field(min_length=1, max_length=256)]


class ActionAnswer(BaseModel):
    """When it happened, by the clock of the stream."""

    time_ms: int


class UsersAnswer(BaseModel):
    """Users who were shown something lately, the latest first, and whether this service takes clicks."""

    users: list[int | str]
    can_click: bool


class ProgressAnswer(BaseModel):
    """How the run that learns is getting on; null where none does."""

    progress: dict[str, Any] | None


class Refusal(BaseModel):
    """Every error."""

    error: str
    code: str


REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": Refusal} for status in (400, 401, 413, 422, 503, 504)}
UNREADY: dict[int | str, dict[str, Any]] = {503: {"model": Refusal}}
