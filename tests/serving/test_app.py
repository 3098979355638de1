"""The HTTP service: answers equal the Python client's, and each refusal has a status and a reason."""

import html
import re
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from served_films import Films, films

from recsys.embedded.process import LOOPBACK, free_ports
from recsys.serving import Lookup, Ranker, Retriever
from recsys.serving.app import build_app


@contextmanager
def app_client(redis_url: str, model: str) -> Iterator[httpx.Client]:
    """A client of the application behind a real server, in a thread."""
    app = build_app(Lookup.connect(redis_url, model), Ranker.connect(redis_url, model))
    (port,) = free_ports(1)
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        with httpx.Client(base_url=f"http://{LOOPBACK}:{port}", trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def trained(redis_url: str) -> Films:
    made = films(strings=True)
    made.serve(redis_url, "app")
    return made


@pytest.fixture(scope="module")
def client(redis_url: str, trained: Films) -> Iterator[httpx.Client]:
    with app_client(redis_url, "app") as opened:
        yield opened


def test_healthz(client: httpx.Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("feature", "ids"),
    [
        ("item", [2, "tt1", "nobody", -(2**63), 2**63 - 1, "2"]),
        ("user", ["user-1", 2]),
        ("genres", ["War", "Drama"]),
    ],
)
def test_lookup(client: httpx.Client, redis_url: str, feature: str, ids: list[Any]) -> None:
    answer = client.post("/v1/lookup", json={"feature": feature, "ids": ids})
    assert answer.status_code == 200
    expected = Lookup.connect(redis_url, "app").embeddings(feature, ids)
    np.testing.assert_array_equal(np.array(answer.json()["embeddings"], np.float32), expected)
    assert answer.json()["versions"]["run"] == "r1"


def test_rank(client: httpx.Client, trained: Films, redis_url: str) -> None:
    ranker = Ranker.connect(redis_url, "app")
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"user": 2}, {"user": 2}),
        ({"user": "user-1", "k": 3}, {"user": "user-1", "k": 3}),
        ({"user": "2", "candidates": [4, "tt5"]}, {"user": "2", "candidates": [4, "tt5"]}),
        ({"user": 2, "time_ms": 5_000_000}, {"user": 2, "context": {"time_ms": 5_000_000}}),
        (
            {"user": "nobody", "candidates": ["x", 10**12], "k": 1},
            {"user": "nobody", "candidates": ["x", 10**12], "k": 1},
        ),
    ]
    for body, arguments in asked:
        answer = client.post("/v1/rank", json=body)
        assert answer.status_code == 200
        expected = ranker.rank(**arguments)
        found = answer.json()
        assert found["items"] == expected.items and found["titles"] == expected.titles
        np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-7)
        assert found["versions"]["version"] == expected.versions.version
    best = client.post("/v1/rank", json={"user": 2}).json()
    assert len(best["items"]) == 10
    assert not set(best["items"]) & set(trained.state.history(2).liked())


def test_recommend(client: httpx.Client, redis_url: str) -> None:
    """What the Python client recommends, asked for by a body or by a URL."""
    retriever = Retriever.connect(redis_url, "app")
    asked: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"user": 2}, {"user": 2}),
        ({"user": "user-1", "k": 3, "why": True}, {"user": "user-1", "k": 3, "why": True}),
        ({"user": "2", "exclude": "none"}, {"user": "2", "exclude": "none"}),
        ({"user": 2, "exclude": "seen", "k": 1000}, {"user": 2, "exclude": "seen", "k": 1000}),
        ({"user": 2, "time_ms": 5_000_000}, {"user": 2, "context": {"time_ms": 5_000_000}}),
    ]
    for body, arguments in asked:
        expected = {**asdict(retriever.recommend(**arguments)), "requests": []}
        assert client.post("/v1/recommend", json=body).json() == expected
        if "time_ms" not in body and body["user"] != "2":
            assert client.get("/v1/recommend", params=body).json() == expected
    assert client.get("/v1/recommend?user=2").json()["items"] == retriever.recommend(2).items  # the number
    reason = refusal(client.post("/v1/recommend", json={"user": 2, "log": True}), 400)
    assert reason == "this service writes to no Kafka; start it with kafka.bootstrap_servers=, or leave out log"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "query.user: Field required"),
        ("user=", "query.user: String should have at least 1 character"),
        ("user=1&k=0", "query.k: Input should be greater than or equal to 1"),
        ("user=1&k=1001", "query.k: Input should be less than or equal to 1000"),
        ("user=1&exclude=all", "query.exclude: Input should be 'liked', 'seen' or 'none'"),
    ],
)
def test_bad_recommendations(client: httpx.Client, query: str, named: str) -> None:
    assert named in refusal(client.get(f"/v1/recommend?{query}"), 422)
    body = {"user": 1, "k": 1001, "extra": 1}
    said = refusal(client.post("/v1/recommend", json=body), 422)
    assert "body.k: Input should be less than or equal to 1000" in said and "body.extra: Extra inputs" in said


def refusal(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert set(said) == {"error", "code"}
    assert isinstance(said["error"], str) and "\n" not in said["error"]
    reason: str = said["error"]
    return reason


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "body.feature: Field required; body.ids: Field required"),
        ({"feature": "item"}, "body.ids: Field required"),
        ({"feature": "item", "ids": []}, "body.ids: List should have at least 1 item"),
        ({"feature": "item", "ids": "tt1"}, "body.ids: Input should be a valid list"),
        ({"feature": "item", "ids": [1.5]}, "body.ids.0"),
        ({"feature": "item", "ids": [1, None]}, "body.ids.1"),
        ({"feature": "item", "ids": [True]}, "body.ids.0"),
        ({"feature": "item", "ids": [2**63]}, "body.ids.0"),
        ({"feature": "item", "ids": [""]}, "body.ids.0"),
        ({"feature": "item", "ids": ["x" * 257]}, "body.ids.0"),
        ({"feature": 7, "ids": [1]}, "body.feature: Input should be a valid string"),
        ({"feature": "item", "ids": [1], "id": 2}, "body.id: Extra inputs are not permitted"),
        ([], "body: "),
    ],
)
def test_bad_lookups(client: httpx.Client, body: Any, named: str) -> None:
    assert named in refusal(client.post("/v1/lookup", json=body), 422)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "body.user"),
        ({"user": None}, "body.user"),
        ({"user": 1, "k": 0}, "body.k: Input should be greater than or equal to 1"),
        ({"user": 1, "k": 10_001}, "body.k"),
        ({"user": 1, "candidates": [1] * 10_001}, "body.candidates"),
        ({"user": 1, "candidate": [1]}, "body.candidate: Extra inputs are not permitted"),
        ({"user": 1, "context": {"time_ms": 5}}, "body.context: Extra inputs are not permitted"),
        ({"user": 1, "candidates": [1, [2]]}, "body.candidates.1"),
        ({"user": 1, "time_ms": -1}, "body.time_ms"),
    ],
)
def test_bad_rankings(client: httpx.Client, body: Any, named: str) -> None:
    assert named in refusal(client.post("/v1/rank", json=body), 422)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b'{"feature": "item", "ids": [NaN]}', b'{"feature": "item", "ids": [1e999]}', b"null"],
)
def test_bodies_that_are_no_json_or_no_numbers(client: httpx.Client, content: bytes) -> None:
    for path in ("/v1/lookup", "/v1/rank"):
        answer = client.post(path, content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422)
        assert answer.json()


def test_half_a_character_is_refused(client: httpx.Client) -> None:
    content = b'{"feature": "item", "ids": ["\\ud800"]}'
    answer = client.post("/v1/lookup", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)


def test_what_can_not_be_asked_of_this_model(client: httpx.Client) -> None:
    reason = refusal(client.post("/v1/lookup", json={"feature": "itme", "ids": [1]}), 400)
    assert reason == "unknown feature 'itme'; known: user, item, liked, shown, genres, work, hour"
    reason = refusal(client.post("/v1/lookup", json={"feature": "genres", "ids": ["Western"]}), 400)
    assert reason.startswith("'Western' is not in the vocabulary of feature 'genres': Drama")
    reason = refusal(client.post("/v1/rank", json={"user": 1, "time_ms": 2**53}), 400)
    assert "must be milliseconds since 1970" in reason
    reason = refusal(client.post("/v1/rank", json={"user": 1, "candidates": []}), 400)
    assert reason == "candidates are an empty list; name at least one, or leave them out to rank all items"


def test_an_id_outside_a_full_table(redis_url: str) -> None:
    films("full", learned=False).serve(redis_url, "app-full")
    with app_client(redis_url, "app-full") as full:
        reason = refusal(full.post("/v1/lookup", json={"feature": "item", "ids": [100]}), 400)
        assert "id 100 is outside [0, 100)" in reason
        assert full.post("/v1/lookup", json={"feature": "item", "ids": [99]}).status_code == 200


def test_nothing_published_then_published(redis_url: str) -> None:
    with app_client(redis_url, "app-late") as late:
        for path, body in (("/v1/lookup", {"feature": "item", "ids": [1]}), ("/v1/rank", {"user": 1})):
            assert "no model 'app-late' is published here" in refusal(late.post(path, json=body), 503)
        assert late.get("/healthz").status_code == 200
        films(learned=False).serve(redis_url, "app-late")
        assert late.post("/v1/rank", json={"user": 1}).status_code == 200


def test_unreachable() -> None:
    with app_client("redis://ranker:sesame@127.0.0.1:1/0", "app") as nowhere:
        reason = refusal(nowhere.post("/v1/rank", json={"user": 1}), 503)
        assert reason.startswith("Redis does not answer") and "sesame" not in reason


def test_docs_need_no_network_and_their_commands_work(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert not re.findall(r"<(?:script|link|img|iframe)|@import|url\(", answer.text)
    assert set(re.findall(r"https?://[^/\s]*/", answer.text)) == {f"{client.base_url}/"}
    commands = [shlex.split(html.unescape(found)) for found in re.findall(r"<pre>(.*?)</pre>", answer.text)]
    tried = {}
    for curl, url, *options in commands:
        assert curl == "curl"
        given = dict(zip(options[::2], options[1::2], strict=True))
        name, _, value = given.get("-H", "accept: */*").partition(": ")
        method = "POST" if "-d" in given else "GET"
        found = client.request(method, url, content=given.get("-d"), headers={name: value})
        assert found.status_code == 200
        tried[found.request.url.path] = found.json()
    assert set(tried) == set(client.get("/openapi.json").json()["paths"])
    assert len(tried["/v1/rank"]["items"]) == 2 and len(tried["/v1/lookup"]["embeddings"]) == 3
    assert re.findall(r'href="([^"]*)"', answer.text) == ["openapi.json", "./"]


def test_other_paths(client: httpx.Client) -> None:
    assert client.get("/v1/lookup").status_code == 405
    assert client.get("/v2/lookup").status_code == 404
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/lookup", "/v1/rank", "/healthz"} <= set(paths)
