"""Item vectors are made beside: nobody waits for them, and who asks too early is told to come again."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from redis import Redis
from served_films import films

from recsys.serving import Lookup, Ranker, RetrievalConfig, Retriever
from recsys.serving import item_index as index_module
from recsys.serving.app import build_app
from recsys.serving.guard import Limits
from recsys.serving.published import NotReady
from recsys.sync.versions import remove_version


class Gate:
    """Item vectors are made while it is open."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self._real = index_module.item_vectors

    def item_vectors(self, *given: Any) -> Any:
        assert self.opened.wait(30)
        return self._real(*given)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    monkeypatch.setattr(index_module, "item_vectors", made.item_vectors)
    yield made
    made.opened.set()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "this took longer than 30 s"
        time.sleep(0.01)


def test_vectors_are_made_before_anybody_asks(redis_url: str, gate: Gate) -> None:
    films("collisionless", "fm").serve(redis_url, "before")
    retriever = Retriever.connect(redis_url, "before")
    gate.opened.clear()
    with retriever.kept_ready():
        for ask in (retriever.check_ready, lambda: retriever.recommend(3)):
            with pytest.raises(NotReady, match=r"vectors of run 'r1' are being made; try again in a few seconds"):
                ask()
        gate.opened.set()
        until(lambda: retriever.num_made == 1)
        assert retriever.check_ready().run == "r1"
        assert retriever.recommend(3) == Retriever.connect(redis_url, "before").recommend(3)
    assert retriever.num_made == 1


def test_the_next_run_is_made_beside_and_swapped(redis_url: str, gate: Gate) -> None:
    first = films("collisionless", "fm")
    first.serve(redis_url, "swap")
    retriever = Retriever.connect(redis_url, "swap")

    def by_vectors() -> Any:
        return retriever.recommend(3, exclude="none", rerank=False)

    with retriever.kept_ready():
        until(lambda: retriever.num_made == 1)
        before = by_vectors()
        gate.opened.clear()
        second = films("collisionless", "fm")  # of the same users, by other rows
        keys = second.trainer.store.snapshot().groups["item"].keys_U
        gradients = np.random.default_rng(0).normal(size=(len(keys), 4)).astype(np.float32)
        second.trainer.store.push({"item": (keys, gradients)}, 0)
        second.serve(redis_url, "swap", run="r2")
        during = by_vectors()
        assert (during.items, during.scores, during.versions) == (before.items, before.scores, before.versions)
        assert retriever.recommend(3, exclude="none").versions.run == "r2"  # scored anew by what is served
        gate.opened.set()
        until(lambda: retriever.num_made == 2)
        after = by_vectors()
        assert after == Retriever.connect(redis_url, "swap").recommend(3, exclude="none", rerank=False)
        assert after.versions.run == "r2" and after.scores != before.scores

        gate.opened.clear()
        films("collisionless", "fm").serve(redis_url, "swap", run="r3")
        remove_version(Redis.from_url(redis_url), "swap", "r2")  # there is nothing left to go on with
        with pytest.raises(NotReady, match="of run 'r3'"):
            by_vectors()


def test_a_newer_version_is_made_where_somebody_asks(redis_url: str) -> None:
    made = films("collisionless", "fm")
    publisher = made.serve(redis_url, "newer")
    retriever = Retriever.connect(redis_url, "newer", config=RetrievalConfig(max_age_seconds=0))
    with retriever.kept_ready():
        until(lambda: retriever.num_made == 1)
        made.learn(80, seed=5)
        publisher.publish()
        retriever.recommend(3)
        until(lambda: retriever.num_made == 2)
        newest = retriever.recommend(3, rerank=False)
    assert newest == Retriever.connect(redis_url, "newer").recommend(3, rerank=False)


def test_what_is_published_later_is_found(redis_url: str) -> None:
    retriever = Retriever.connect(redis_url, "later")
    with retriever.kept_ready():
        films("collisionless", "fm").serve(redis_url, "later")
        until(lambda: retriever.num_made == 1)
        assert len(retriever.recommend(3, k=5).items) == 5


def test_the_service_says_not_ready_and_when_to_come_again(redis_url: str, gate: Gate) -> None:
    films("collisionless", "fm").serve(redis_url, "unready")
    app = build_app(Lookup.connect(redis_url, "unready"), Ranker.connect(redis_url, "unready"), Limits())
    gate.opened.clear()

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://s") as http,
        ):
            early = [await http.get(path) for path in ("/v1/recommend?user=3", "/readyz", "/healthz")]
            rank = await http.post("/v1/rank", json={"user": 3, "candidates": [1, 2]})
            waits = asyncio.create_task(http.get("/v1/recommend?user=3"))
            await asyncio.sleep(0.1)
            gate.opened.set()
            return [*early, rank, await waits, await http.get("/readyz")]

    recommend, readyz, healthz, rank, waited, ready = asyncio.run(ask())
    for answer in (recommend, readyz):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["code"] == "not_ready" and "try again in a few seconds" in answer.json()["error"]
    assert [answer.status_code for answer in (healthz, rank, waited, ready)] == [200] * 4
    assert waited.json()["items"] == Retriever.connect(redis_url, "unready").recommend(3).items
