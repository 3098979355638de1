"""Lookup and rank under asyncio: each gets its own answer, whatever goes with it."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest
from served_films import Films, films

from recsys.errors import ConfigError, DataError
from recsys.serving import AsyncLookup, AsyncRanker, Lookup, Ranker


@pytest.fixture(scope="module")
def trained(redis_url: str) -> Films:
    made = films("full")
    made.serve(redis_url, "concurrent")
    return made


@pytest.fixture
def lookup(redis_url: str, trained: Films) -> Iterator[AsyncLookup]:
    connected = AsyncLookup.connect(redis_url, "concurrent")
    yield connected
    connected.close()


def test_each_of_many_gets_its_own(redis_url: str, lookup: AsyncLookup) -> None:
    draw = np.random.default_rng(0)
    asked = [("item" if n % 3 else "user", draw.integers(0, 100, draw.integers(0, 9)).tolist()) for n in range(80)]

    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(*(lookup.embeddings(feature, ids) for feature, ids in asked))

    own = Lookup.connect(redis_url, "concurrent")
    for (feature, ids), found in zip(asked, asyncio.run(ask()), strict=True):
        np.testing.assert_array_equal(found, own.embeddings(feature, ids))


def test_a_wrong_request_fails_alone(redis_url: str, lookup: AsyncLookup) -> None:
    async def ask() -> list[object]:
        asked = [("item", [1, 2]), ("item", [3, 100]), ("itme", [1]), ("item", [1.5]), ("genres", ["War", "x"])]
        calls = (lookup.embeddings(feature, ids) for feature, ids in [*asked, ("genres", ["War"]), ("item", [4])])
        return await asyncio.gather(*calls, return_exceptions=True)

    first, outside, feature, no_id, word, war, last = asyncio.run(ask())
    own = Lookup.connect(redis_url, "concurrent")
    for found, asked in ((first, ("item", [1, 2])), (war, ("genres", ["War"])), (last, ("item", [4]))):
        np.testing.assert_array_equal(found, own.embeddings(*asked))  # type: ignore[arg-type]
    assert isinstance(outside, DataError) and "id 100 is outside" in str(outside)
    assert isinstance(feature, ConfigError) and "unknown feature 'itme'" in str(feature)
    assert isinstance(no_id, ConfigError) and "1.5 is no id" in str(no_id)
    assert isinstance(word, DataError) and "'x' is not in the vocabulary" in str(word)


def test_who_goes_away_keeps_nobody_waiting(lookup: AsyncLookup) -> None:
    async def ask() -> tuple[int, ...]:
        gone = [asyncio.create_task(lookup.embeddings("item", [1])) for _ in range(5)]
        stays = asyncio.create_task(lookup.embeddings("item", [1, 2]))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        shape: tuple[int, ...] = (await asyncio.wait_for(stays, 20)).shape
        return shape

    assert asyncio.run(ask()) == (2, 4)


def test_rankings_beside_each_other(redis_url: str, trained: Films) -> None:
    ranker = AsyncRanker.connect(redis_url, "concurrent")

    async def ask() -> list[object]:
        return await asyncio.gather(*(ranker.rank(user, trained.items, k=3) for user in trained.users))

    own = Ranker.connect(redis_url, "concurrent")
    assert asyncio.run(ask()) == [own.rank(user, trained.items, k=3) for user in trained.users]
    ranker.close()
