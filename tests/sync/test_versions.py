"""Versions of a model beside each other: listed, switched back to, removed in steps while others are read."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redis import Redis

from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import ConfigError, DataError, ServiceError
from recsys.rows.layout import Layout, pointer_key, runs_key
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup
from recsys.sync.publisher import Publisher
from recsys.sync.versions import list_versions, or_service_error, remove_version, roll_back

GROUP = RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0))
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server, Redis.from_url(server.url) as connected:
        yield connected


@pytest.fixture
def model() -> str:
    return f"versions-{next(_numbers)}"


def publish(
    client: Redis, model: str, run: str, at_seconds: float, *, num_rows: int = 3, switch: bool = True, **fields: Any
) -> Publisher:
    """A run of so many rows, published and switched to at a time."""
    store = LocalRows([GROUP])
    store.push({"item": (np.arange(num_rows), np.ones((num_rows, 2), np.float32))}, 0)
    layout = Layout(model=model, run=run, **fields)
    publisher = Publisher(client, store, [], layout, time_ms=lambda: 5, clock=lambda: at_seconds)
    publisher.describe({"seed": 1}, {})
    publisher.publish()
    if switch:
        publisher.switch()
    return publisher


def names(client: Redis, model: str) -> list[tuple[str, bool]]:
    return [(version.run, version.served) for version in list_versions(client, model)]


def test_all_versions_are_listed_the_latest_first(client: Redis, model: str) -> None:
    assert list_versions(client, model) == []
    publish(client, model, "a", 10)
    publish(client, model, "b", 20)
    publish(client, model, "beside", 30, switch=False)
    begun = Publisher(client, LocalRows([GROUP]), [], Layout(model=model, run="begun"), time_ms=lambda: 5)
    begun.describe({}, {})
    assert names(client, model) == [("b", True), ("a", False), ("beside", False), ("begun", False)]
    first, *_, last = list_versions(client, model)
    assert (first.switched_at_ms, first.version, first.published_at_ms) == (20_000, 1, 20_000)
    assert (last.switched_at_ms, last.version, last.published_at_ms) == (0, None, None)
    assert "not whole" in last.line()


def test_rolled_back_to_what_was_served_before_and_forth_again(client: Redis, model: str) -> None:
    publish(client, model, "a", 10)
    publish(client, model, "b", 20)
    publish(client, model, "never", 30, switch=False)
    assert roll_back(client, model, clock=lambda: 40) == "a"
    assert client.get(pointer_key(model)) == b"a"
    assert roll_back(client, model, clock=lambda: 50) == "b"
    assert roll_back(client, model, "never", clock=lambda: 60) == "never"
    assert names(client, model) == [("never", True), ("b", False), ("a", False)]


def test_what_is_not_whole_or_not_there_is_not_switched_to(client: Redis, model: str) -> None:
    with pytest.raises(DataError, match="has no version that was served before; name one with version="):
        roll_back(client, model)
    publish(client, model, "a", 10)
    with pytest.raises(DataError, match="has no version that was served before"):
        roll_back(client, model)
    Publisher(client, LocalRows([GROUP]), [], Layout(model=model, run="b"), time_ms=lambda: 5).describe({}, {})
    for run in ("b", "c"):
        with pytest.raises(DataError, match=f"has no whole version '{run}'; it has a"):
            roll_back(client, model, run)
    assert client.get(pointer_key(model)) == b"a"


@pytest.mark.parametrize("fields", [{}, {"layout": "compact", "num_buckets": 50}])
def test_removed_is_all_of_it_and_nothing_else(client: Redis, model: str, fields: dict[str, Any]) -> None:
    publish(client, model, "r1", 10, num_rows=1200, **fields)
    publish(client, model, "r10", 20, **fields)  # a name that begins the same
    publish(client, model, "r?", 30, **fields)
    own = f"recsys:{model}:r1:".encode()
    kept = {key for key in client.scan_iter(f"recsys:{model}:r*:*") if not key.startswith(own)}
    assert kept
    num = remove_version(client, model, "r1")
    assert num == (1200 if not fields else 50) + 4  # and meta, numbers, versions, publisher
    assert not [*client.scan_iter(f"recsys:{model}:r1:*")]
    assert names(client, model) == [("r?", True), ("r10", False)]
    assert {*client.scan_iter(f"recsys:{model}:r*:*")} == kept
    assert remove_version(client, model, "r1") == 0


def test_what_is_served_is_not_removed(client: Redis, model: str) -> None:
    publish(client, model, "a", 10)
    with pytest.raises(
        ConfigError, match=r"version 'a' of model .* is the one that is served; switch to another first"
    ):
        remove_version(client, model, "a")
    assert list_versions(client, model)[0].version == 1


def test_a_removal_that_broke_off_goes_on(client: Redis, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys go in steps; while some are left it is listed, and nobody can open it."""
    publish(client, model, "a", 10, num_rows=2000)
    publish(client, model, "b", 20)
    from recsys.sync import versions

    write_all, steps = versions.write_all, itertools.count()

    def breaks_off(*arguments: Any) -> Any:
        if next(steps) == 2:
            raise KeyboardInterrupt
        return write_all(*arguments)

    monkeypatch.setattr(versions, "write_all", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        remove_version(client, model, "a")
    assert 0 < len([*client.scan_iter(f"recsys:{model}:a:*")]) < 2000
    assert not client.exists(Layout(model=model, run="a").meta_key)
    assert [(v.run, v.version) for v in list_versions(client, model)] == [("b", 1), ("a", None)]
    remove_version(client, model, "a")
    assert client.zrange(runs_key(model), 0, -1) == [b"b"]


def test_an_outage_is_one_line() -> None:
    with pytest.raises(ServiceError, match="Redis does not answer"):
        or_service_error(lambda: list_versions(Redis(port=1), "m"))
