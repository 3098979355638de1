"""What the HTTP service refuses, what it counts, and that no made-up request brings it to a 500."""

import asyncio
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from redis import Redis
from served_films import films

from recsys.errors import ConfigError
from recsys.serving import Lookup, Ranker
from recsys.serving.app import build_app
from recsys.serving.guard import Limits, token_of

TOKEN = "open-sesame-7"
LOOKUP = {"feature": "item", "ids": [1, 2]}


@pytest.fixture(scope="module")
def model(redis_url: str) -> str:
    films("collisionless", strings=True).serve(redis_url, "guarded")
    return "guarded"


def app_of(redis_url: str, model: str = "guarded", **limits: Any) -> FastAPI:
    return build_app(Lookup.connect(redis_url, model), Ranker.connect(redis_url, model), Limits(**limits))


def asked(app: FastAPI, ask: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What ``ask`` returns, of the application in this process."""

    async def within() -> Any:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://serving") as client:
            return await ask(client)

    return asyncio.run(within())


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    said = answer.json()
    assert set(said) == {"error", "code"} and "\n" not in said["error"]
    return answer.status_code, said["code"], said["error"]


def test_a_token_is_asked_for_where_there_is_one(redis_url: str, model: str) -> None:
    app = app_of(redis_url, token=TOKEN)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"}]
        bad = [await client.post("/v1/lookup", json=LOOKUP, headers=given) for given in headers]
        good = {"authorization": f"bearer {TOKEN}"}
        open_ = [await client.get(path) for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs")]
        rank, last = {"user": 1}, await client.post("/v1/lookup", json=LOOKUP, headers=good)
        return [*bad, await client.post("/v1/rank", json=rank), *open_, last]

    *bad, rank, a, b, c, d, e, good = asked(app, ask)
    for answer in (*bad, rank):
        assert refusal(answer)[:2] == (401, "unauthorized") and answer.headers["www-authenticate"] == "Bearer"
        assert TOKEN not in answer.text
    assert [answer.status_code for answer in (a, b, c, d, e, good)] == [200] * 6


def test_bodies_beyond_the_limit_are_refused_unread(redis_url: str, model: str) -> None:
    app = app_of(redis_url, max_body_bytes=200)
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b" " * 100

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        content = b'{"feature": "item", "ids": [1]}'
        headers = {"content-type": "application/json"}
        return [
            await client.post("/v1/lookup", content=content.ljust(size), headers=headers) for size in (200, 201)
        ] + [await client.post("/v1/lookup", content=chunks(), headers=headers)]

    fits, large, streamed = asked(app, ask)
    assert fits.status_code == 200
    for answer in (large, streamed):
        assert refusal(answer) == (413, "too_large", "the body has more than 200 bytes; ask in parts")
    assert sent <= 400


def test_a_request_that_takes_too_long_and_too_many_of_them(redis_url: str, model: str) -> None:
    """Redis is paused: requests time out, more than are allowed are sent away at once, and then it is over."""
    client, app = Redis.from_url(redis_url), app_of(redis_url, timeout_seconds=0.4, max_in_flight=3)

    async def ask(http: httpx.AsyncClient) -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        first = await http.post("/v1/lookup", json=LOOKUP)
        client.client_pause(1200)
        answers = await asyncio.gather(*(http.post("/v1/lookup", json=LOOKUP) for _ in range(6)))
        client.ping()
        return answers, first, await http.post("/v1/lookup", json=LOOKUP)

    answers, first, last = asked(app, ask)
    assert (first.status_code, last.status_code) == (200, 200)
    said = sorted(refusal(answer) for answer in answers)
    assert [status for status, *_ in said] == [503] * 3 + [504] * 3
    assert said[0][1:] == ("unavailable", "3 requests are being answered; try again shortly")
    assert said[-1][1:] == ("timeout", "this took more than 0.4 s; ask for less, or later")


def test_ready_is_when_there_is_something_to_answer_from(redis_url: str) -> None:
    app = app_of(redis_url, "not-yet")

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        before = [await client.get("/healthz"), await client.get("/readyz")]
        await asyncio.to_thread(lambda: films(learned=False).serve(redis_url, "not-yet"))
        return [*before, await client.get("/readyz")]

    alive, before, after = asked(app, ask)
    assert alive.json() == {"status": "ok"}
    assert refusal(before)[:2] == (503, "not_published")
    assert after.json()["status"] == "ready" and after.json()["versions"]["run"] == "r1"
    down = asked(app_of("redis://ranker:sesame@127.0.0.1:1/0"), lambda client: client.get("/readyz"))
    status, code, why = refusal(down)
    assert (status, code) == (503, "unavailable") and "sesame" not in why


def test_metrics_count_what_was_answered(redis_url: str, model: str) -> None:
    async def ask(client: httpx.AsyncClient) -> str:
        for body in (LOOKUP, LOOKUP, {"feature": "x", "ids": [1]}):
            await client.post("/v1/lookup", json=body)
        await client.get("/nothing-here")
        return (await client.get("/metrics")).text

    said = asked(app_of(redis_url), ask)
    counted = dict(re.findall(r"^(recsys_requests_total\{.*\}) (\d+)$", said, re.MULTILINE))
    assert counted == {
        'recsys_requests_total{endpoint="/v1/lookup",status="200"}': "2",
        'recsys_requests_total{endpoint="/v1/lookup",status="400"}': "1",
        'recsys_requests_total{endpoint="other",status="404"}': "1",
    }
    assert 'recsys_request_seconds_count{endpoint="/v1/lookup"} 3' in said
    assert 'recsys_request_seconds_bucket{endpoint="/v1/lookup",le="+Inf"} 3' in said
    assert "recsys_requests_in_flight 1\n" in said


def test_what_is_no_endpoint_has_the_form_of_all_errors(redis_url: str, model: str) -> None:
    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get("/v1/lookup"), await client.get("/v2"), await client.delete("/healthz")]

    codes = [refusal(answer)[:2] for answer in asked(app_of(redis_url), ask)]
    assert codes == [(405, "method_not_allowed"), (404, "not_found"), (405, "method_not_allowed")]


def test_a_token_comes_from_the_environment_and_is_shown_nowhere() -> None:
    assert token_of("SERVING_TOKEN", {"SERVING_TOKEN": TOKEN}) == TOKEN
    assert token_of(None) is None
    for env in ({}, {"SERVING_TOKEN": ""}):
        with pytest.raises(ConfigError, match="token_env=SERVING_TOKEN: this environment variable is not set"):
            token_of("SERVING_TOKEN", env)
    assert TOKEN not in repr(Limits(token=TOKEN))


def test_no_secret_is_logged(redis_url: str, model: str) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        app = app_of("redis://ranker:sesame@127.0.0.1:1/0", token=TOKEN)
        headers = {"authorization": f"Bearer {TOKEN}"}
        answer = asked(app, lambda client: client.post("/v1/lookup", json=LOOKUP, headers=headers))
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    assert answer.status_code == 503
    assert TOKEN not in written.getvalue() and "sesame" not in written.getvalue()


def test_ray_serve_takes_the_application_without_starting() -> None:
    """In a process of its own, for Ray Serve warns of its own pydantic."""
    code = (
        "from recsys.runtime.deployment import serving_application\n"
        "import ray\n"
        "said = type(serving_application(redis_url='redis://127.0.0.1:1/0', num_replicas=2)).__name__\n"
        "print(said, ray.is_initialized(), sep='; ')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "Application; False", done.stderr


# --- made-up requests


def test_no_made_up_request_is_a_500(redis_url: str, model: str) -> None:
    """Requests out of the OpenAPI description, right and wrong; RECSYS_FUZZ_REQUESTS says how many."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, seed, settings

    num = int(os.environ.get("RECSYS_FUZZ_REQUESTS", "300"))
    described = schemathesis.openapi.from_asgi("/openapi.json", app_of(redis_url))
    seen: dict[int, int] = {}
    for operation in (found.ok() for found in described.get_all_operations()):
        asks = operation.method.upper() == "POST"  # what is only got has nothing that could be made up
        for mode in schemathesis.GenerationMode if asks else [schemathesis.GenerationMode.POSITIVE]:

            @seed(7)
            @settings(max_examples=num // 4 if asks else 2, suppress_health_check=list(HealthCheck), database=None)
            @given(operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                answer = case.call()
                seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
                assert answer.status_code < 500, (case.as_curl_command(), answer.text)

            ask()
    assert seen.get(200, 0) > 0 and seen.get(422, 0) > 0, seen
