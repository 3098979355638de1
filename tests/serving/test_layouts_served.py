"""Every layout and format of published rows serves what the trainer holds, and reads through missing rows."""

import itertools
import time
from typing import Any

import numpy as np
import pytest
from redis import Redis
from served_films import Films, films

from recsys.embedded.redis_wire import bulk, packed
from recsys.errors import ConfigError, DataError, ServiceError
from recsys.rows.initial import Initial
from recsys.rows.layout import Layout
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup
from recsys.serving import CacheConfig, Lookup, Ranker
from recsys.serving.rows import PublishedRows
from recsys.sync.publisher import Publisher

# layout, format of published rows, that of the table's, and whether keys are for a cluster
SERVED = [
    *(("fast", row_format, "float32", False) for row_format in ("float32", "float16", "int8")),
    *(("compact", row_format, "float32", False) for row_format in ("float32", "int8")),
    *((layout, "float16", "int8", False) for layout in ("fast", "compact")),
    ("fast", "float32", "int8", True),
]
WITHIN = {"float32": 1e-5, "float16": 2e-3, "int8": 2e-2}
_numbers = itertools.count()


def trained_in(kept_as: str) -> Films:
    return films("collisionless", "dcnv2", strings=True, table_fields={"row_format": kept_as})


@pytest.fixture
def trained() -> Films:
    """Of a table whose rows are kept, and so published, in int8."""
    return trained_in("int8")


def worst(trained: Films, ranker: Ranker, user: Any) -> float:
    ranking = ranker.rank(user, trained.items, k=100)
    expected = dict(zip(trained.items, trained.expected_scores(user, trained.items, trained.time_ms), strict=True))
    return max(abs(expected[item] - score) for item, score in zip(ranking.items, ranking.scores, strict=True))


@pytest.mark.parametrize(("layout", "row_format", "kept_as", "cluster"), SERVED)
def test_scores_equal_the_trainers(redis_url: str, layout: str, row_format: str, kept_as: str, cluster: bool) -> None:
    """Keys for a cluster can be read from one server too; rows of few bits are published to the bit."""
    trained, within = trained_in(kept_as), WITHIN[row_format if kept_as == "float32" else "float32"]
    model = f"layouts-{next(_numbers)}"
    publisher = trained.serve(redis_url, model, layout=layout, row_format=row_format, cluster=cluster, num_buckets=7)
    ranker = Ranker.connect(redis_url, model)
    assert worst(trained, ranker, 2) <= within
    assert ranker.rank("user-1", k=3).versions.dense > 0
    trained.trainer.store.delete({"item": np.array([3, 4])})  # a delta, with deletes
    publisher.publish()
    for user in (2, "user-1"):
        assert worst(trained, ranker, user) <= within


# --- rows of any widths, present, missing and deleted


def published(redis_url: str, **fields: Any) -> tuple[LocalRows, Publisher, PublishedRows, list[RowGroup]]:
    groups = [
        RowGroup(name="wide", width=9, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.5)),
        RowGroup(name="narrow", width=1, optimizer=SGD(learning_rate=1.0), absent="zeros"),
    ]
    store = LocalRows(groups)
    client, layout = Redis.from_url(redis_url), Layout(model=f"rows-{next(_numbers)}", run="r1", **fields)
    publisher = Publisher(client, store, [], layout, time_ms=lambda: 5)
    return store, publisher, PublishedRows(client, layout, {group.name: group for group in groups}), groups


@pytest.mark.parametrize("fields", [{}, {"layout": "compact", "num_buckets": 50}, {"cluster": True, "num_buckets": 50}])
@pytest.mark.parametrize("protocol", [2, 3])
def test_what_is_read_is_what_the_store_pulls(redis_url: str, fields: dict[str, Any], protocol: int) -> None:
    store, publisher, reader, groups = published(f"{redis_url}?protocol={protocol}", **fields)
    draw = np.random.default_rng(0)
    for round_ in range(3):
        keys = {group.name: draw.integers(-900, 900, 700) for group in groups}
        store.push({g.name: (keys[g.name], draw.normal(size=(700, g.width)).astype(np.float32)) for g in groups}, 0)
        store.delete({"wide": draw.integers(-900, 900, 100)})
        publisher.publish(everything=round_ == 2)
        for size in (1, 3, 5000):
            asked = {"wide": draw.integers(-1000, 1000, size), "narrow": keys["narrow"][:size]}
            found, expected = reader.pull(asked), store.pull(asked)
            for name in asked:
                np.testing.assert_array_equal(found[name], expected[name])
    assert reader.pull({"wide": np.zeros(0, np.int64)})["wide"].shape == (0, 9)


def test_a_request_of_many_rows_goes_in_parts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.serving.wire._KEYS_PER_REQUEST", 64)
    store, publisher, reader, _ = published(redis_url)
    keys = np.arange(500)
    store.push({"wide": (keys, np.ones((500, 9), np.float32))}, 0)
    publisher.publish()
    asked = {"wide": np.arange(-20, 480), "narrow": np.arange(3)}
    for name, rows in reader.pull(asked).items():
        np.testing.assert_array_equal(rows, store.pull(asked)[name])


def test_values_that_look_like_answers_are_values(redis_url: str) -> None:
    """Bytes of a row may spell anything, the end of a line and an absent value too."""
    store, publisher, reader, _ = published(redis_url)
    spelled = np.frombuffer(b"\r\n$-1\r\n$44\r\n\r\n*1\r\n:1\r\n_\r\n".ljust(36, b"\r"), "<f4")
    store.push({"wide": (np.array([1, 2]), -np.stack([spelled, spelled]))}, 0)
    publisher.publish()
    rows = reader.pull({"wide": np.array([1, 99, 2, 99])})["wide"]
    np.testing.assert_array_equal(rows, store.pull({"wide": np.array([1, 99, 2, 99])})["wide"])


def test_what_redis_refuses_and_rows_of_another_width_are_told(redis_url: str) -> None:
    store, publisher, reader, groups = published(redis_url)
    store.push({"wide": (np.array([1, 2]), np.ones((2, 9), np.float32))}, 0)
    publisher.publish()
    client, layout = Redis.from_url(redis_url), reader._layout
    client.delete(*layout.row_keys("wide", np.array([2])))
    client.hset(layout.row_keys("wide", np.array([2]))[0].decode("latin1"), "field", "value")
    other = RowGroup(name="wide", width=4, optimizer=groups[0].optimizer)
    with pytest.raises(DataError, match="a published row is 44, not 24 bytes long"):
        PublishedRows(client, layout, {"wide": other}).pull({"wide": np.array([1])})
    client.set(layout.versions_key, b"")
    compact = Layout(model=layout.model, run=layout.run, layout="compact")
    (bucket,) = compact.row_keys("wide", np.array([1]))
    client.set(bucket, b"no hash")
    with pytest.raises(ServiceError, match="WRONGTYPE"):
        PublishedRows(client, compact, {"wide": groups[0]}).pull({"wide": np.array([1])})
    assert reader.pull({"wide": np.array([1])})["wide"].shape == (1, 9)  # the connection is whole again


# --- the cache, and memory


def test_the_cache_is_as_old_as_it_says_and_no_older(redis_url: str) -> None:
    trained = films("collisionless", strings=True)
    publisher = trained.serve(redis_url, "cached")
    lookup = Lookup.connect(redis_url, "cached", CacheConfig(max_age_seconds=1.0, num_rows=64))
    before = lookup.embeddings("item", [2, "tt1", 10**9])
    read_at = time.monotonic()
    trained.trainer.store.delete({"item": np.array([2])})
    publisher.publish()
    fresh = Lookup.connect(redis_url, "cached").embeddings("item", [2, "tt1", 10**9])
    assert not np.array_equal(before, fresh)
    found = lookup.embeddings("item", [2, "tt1", 10**9])
    if time.monotonic() < read_at + 0.9:
        np.testing.assert_array_equal(found, before)
    time.sleep(max(0.0, read_at + 1.05 - time.monotonic()))
    np.testing.assert_array_equal(lookup.embeddings("item", [2, "tt1", 10**9]), fresh)


@pytest.mark.parametrize(("row_format", "most"), [("float16", 0.38), ("float32", 0.6)])
def test_compact_rows_take_a_fraction_of_redis_memory(redis_url: str, row_format: str, most: float) -> None:
    """Bytes a row of 16 numbers, 64 to a bucket, beside a string a row."""
    used = {}
    for layout in ("fast", "compact"):
        group = RowGroup(name="item", width=16, optimizer=SGD(learning_rate=1.0))
        store, client = LocalRows([group]), Redis.from_url(redis_url)
        keys = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 20_000)
        store.push({"item": (keys, np.random.default_rng(2).normal(size=(20_000, 16)).astype(np.float32))}, 0)
        run = Layout(
            model="memory-of-rows", run=f"2026-01-31-{layout}", row_format=row_format, layout=layout, num_buckets=312
        )  # type: ignore[arg-type]
        Publisher(client, store, [], run, time_ms=lambda: 5).publish()
        asked = client.pipeline(transaction=False)  # key by key: what the server uses in all has buffers in it, too
        for key in client.scan_iter(match=f"*{run.run}*", count=10_000):
            asked.memory_usage(key, samples=0)
        used[layout] = sum(asked.execute()) / 20_000
    assert used["compact"] <= most * used["fast"], used


def test_a_redis_that_keeps_no_small_hashes_of_such_rows_is_told(redis_url: str) -> None:
    client = Redis.from_url(redis_url)
    held = client.config_get("hash-max-ziplist-value")["hash-max-ziplist-value"]
    client.config_set("hash-max-ziplist-value", 32)
    try:
        with pytest.raises(ConfigError, match=r"values of 44 bytes .* set hash-max-listpack-value 44"):
            published(redis_url, layout="compact")[1].describe({}, {})
    finally:
        client.config_set("hash-max-ziplist-value", held)


def test_lines_side_by_side() -> None:
    lines = np.frombuffer(b"aabb", np.uint8).reshape(2, 2)
    assert packed(bulk(lines)) == b"$2\r\naa\r\n$2\r\nbb\r\n"
