"""The page and what it asks for: files of our own, users and progress out of Redis, clicks into a sink."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from served_films import Films, films
from test_guard import asked, refusal

from recsys.embedded.redis_url import open_client
from recsys.events import Action, Impression
from recsys.rows.layout import Layout
from recsys.serving import Lookup, Ranker
from recsys.serving.app import build_app, id_in_url
from recsys.serving.clicks import Clicks, LiveStream
from recsys.serving.guard import Limits
from recsys.streams.partitioner import partition_of
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition
from recsys.sync.progress import ProgressNote

MODEL = "page"


@pytest.fixture(scope="module")
def trained(redis_url: str) -> Films:
    made = films(strings=True)
    made.serve(redis_url, MODEL)
    return made


@pytest.fixture
def sink() -> MemorySink:
    return MemorySink()


def got(redis_url: str, sink: MemorySink | None, *questions: tuple[str, Any], token: str | None = None) -> list[Any]:
    """Answers to questions (path, body; without a body, GET), one after the other."""
    clicks = None if sink is None else Clicks(LiveStream(lambda: sink, 4, clock=lambda: 1_700_000_000.5), ["like"])
    app = build_app(
        Lookup.connect(redis_url, MODEL), Ranker.connect(redis_url, MODEL), Limits(token=token), clicks=clicks
    )

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await (client.get(path) if body is None else client.post(path, json=body)) for path, body in questions]

    found: list[Any] = asked(app, ask)
    return found


def test_the_page_is_three_files_that_load_nothing_from_elsewhere(redis_url: str) -> None:
    page, style, script = got(redis_url, None, ("/", None), ("/page.css", None), ("/page.js", None), token="secret")
    kinds = [answer.headers["content-type"] for answer in (page, style, script)]
    assert kinds == ["text/html; charset=utf-8", "text/css; charset=utf-8", "text/javascript; charset=utf-8"]
    for answer in (page, style, script):
        assert answer.status_code == 200 and answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert not re.findall(r"https?://|@import|url\(|innerHTML|eval\(", answer.text)
    assert re.findall(r'(?:src|href)="([^"]*)"', page.text) == ["data:,", "page.css", "page.js"]


def test_users_are_those_who_were_shown_something_last(redis_url: str, trained: Films) -> None:
    last = {user: trained.state.history(user).impressions.times_ms()[0] for user in trained.state.users()}
    last = {user: max([ms, *trained.state.history(user).likes.times_ms()[:1]]) for user, ms in last.items()}
    (answer,) = got(redis_url, None, ("/v1/users", None))
    assert answer.json() == {"users": sorted(last, key=lambda user: -last[user]), "can_click": False}


def test_progress_is_the_last_look_at_the_run(redis_url: str, trained: Films) -> None:
    layout = Layout(model=MODEL, run="r1")
    (before,) = got(redis_url, None, ("/v1/progress", None))
    assert before.json() == {"progress": None}
    note = ProgressNote(open_client(redis_url), layout)
    assert note.put({"auc": 0.75, "delay_ms": float("nan"), "rows": 12})
    (after,) = got(redis_url, None, ("/v1/progress", None))
    assert after.json() == {"progress": {"auc": 0.75, "delay_ms": None, "rows": 12}}
    assert 0 < Redis.from_url(redis_url).ttl(layout.progress_key) <= 30
    note.close()
    assert not ProgressNote.connect("redis://127.0.0.1:1/0", layout).put({"rows": 1})  # nobody is held up


def test_what_is_shown_and_done_goes_to_the_users_partition(redis_url: str, trained: Films, sink: MemorySink) -> None:
    logged, shown = got(
        redis_url,
        sink,
        ("/v1/recommend", {"user": "user-1", "k": 2, "log": True}),
        ("/v1/impressions", {"user": 2, "items": [5, "tt7"]}),
    )
    items, requests = logged.json()["items"], logged.json()["requests"] + shown.json()["requests"]
    assert len(set(requests)) == 4 and all(re.fullmatch(r"page-[0-9a-f]{16}-\d", request) for request in requests)
    at = 1_700_000_000_500
    wanted = {
        Partition("impressions", partition_of("user-1", 4)): [
            Impression(request, "user-1", item, at) for request, item in zip(requests[:2], items, strict=True)
        ],
        Partition("impressions", partition_of(2, 4)): [
            Impression(requests[2], 2, 5, at), Impression(requests[3], 2, "tt7", at)
        ],
    }  # fmt: skip
    assert sink.events() == wanted
    assert sink.keys[Partition("impressions", partition_of(2, 4))] == [b"2", b"2"]


def test_an_action_is_taken_once_and_of_known_kinds(redis_url: str, trained: Films, sink: MemorySink) -> None:
    clicks = Clicks(LiveStream(lambda: sink, 4, clock=lambda: 1_700_000_000.5), ["like", "skip"])
    app = build_app(Lookup.connect(redis_url, MODEL), Ranker.connect(redis_url, MODEL), clicks=clicks)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        shown = await client.post("/v1/impressions", json={"user": 2, "items": [5]})
        (request,) = shown.json()["requests"]
        bodies = [(request, "share"), (request, "skip"), (request, "skip"), ("page-0-0", "like")]
        said = [await client.post("/v1/actions", json={"request_id": id_, "kind": kind}) for id_, kind in bodies]
        return [shown, *said, await client.post("/v1/actions", json={"request_id": "", "kind": "like", "x": 1})]

    shown, share, skip, again, unknown, wrong = asked(app, ask)
    (request,) = shown.json()["requests"]
    assert refusal(share) == (400, "bad_request", "unknown kind of action 'share'; known: like, skip")
    assert skip.json() == {"time_ms": 1_700_000_000_500}
    for answer, named in ((again, request), (unknown, "page-0-0")):
        said = f"request_id '{named}' was not shown lately, or was acted on; ask for a new list"
        assert refusal(answer) == (400, "bad_request", said)
    assert refusal(wrong)[:2] == (422, "invalid_body")
    partition = Partition("actions", partition_of(2, 4))
    assert sink.events()[partition] == [Action(request, 2, "skip", 1_700_000_000_500)]


def test_an_action_that_could_not_be_sent_can_be_tried_again() -> None:
    class Once:
        fails = True

        def show(self, shown: Any) -> None: ...

        def act(self, shown: Any, kind: str) -> int:
            if self.fails:
                raise ConnectionError
            return 5

    clicks = Clicks(stream := Once(), ["like"])
    (request,) = clicks.show(7, [3])
    with pytest.raises(ConnectionError):
        clicks.act(request, "like")
    stream.fails = False
    assert clicks.act(request, "like") == 5


def test_without_a_stream_nothing_can_be_clicked_and_with_a_token_nobody_asks(redis_url: str, trained: Films) -> None:
    (action,) = got(redis_url, None, ("/v1/actions", {"request_id": "a", "kind": "like"}))
    assert action.status_code == 404
    paths = [("/v1/users", None), ("/v1/progress", None), ("/v1/recommend?user=2", None)]
    for answer in got(redis_url, MemorySink(), *paths, ("/v1/impressions", {"user": 1, "items": [2]}), token="t"):
        assert refusal(answer)[:2] == (401, "unauthorized")


@pytest.fixture(scope="module", autouse=True)
def _published(trained: Films) -> Iterator[None]:
    yield


def test_the_script_reads_ids_as_the_service_does() -> None:
    """``idOf`` in page.js and ``id_in_url`` say the same of texts that a person types."""
    script = (Path(build_app.__code__.co_filename).parent / "web" / "page.js").read_text()
    assert "Number.isSafeInteger(number) && String(number) === text ? number : text" in script
    assert [id_in_url(text) for text in ("7", "-7", "7.0", "1e3", "tt7", " 7", "٣")] == [
        7, -7, "7.0", "1e3", "tt7", " 7", "٣",
    ]  # fmt: skip
    assert json.dumps(id_in_url("9223372036854775808")) == '"9223372036854775808"'
