"""The publisher against a real Redis: newest wins whatever the order, and nothing is lost in an outage."""

import itertools
import json
import os
import signal
import struct
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.embedded.redis import EmbeddedRedis
from recsys.errors import ConfigError, ServiceError
from recsys.features.state import FeatureChanges, FeatureState, History, history_to_json, user_from_json
from recsys.hashing import Floats, Keys
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.initial import Initial
from recsys.rows.layout import Layout, payload_of, pointer_key
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import Changes, Deletes, RowGroup, Snapshot, Upserts
from recsys.serving.rows import PublishedRows
from recsys.sync.publisher import Published, Publisher

GROUPS = [
    RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.0)),
    RowGroup(name="dense", width=3, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.0), num_rows=5),
]
_numbers = itertools.count()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """One real Redis for all tests here."""
    with (
        EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server,
        Redis.from_url(server.url) as connected,
    ):
        yield connected


@pytest.fixture
def layout() -> Layout:
    """A model of its own for every test."""
    return new_layout()


def new_layout(**fields: Any) -> Layout:
    return Layout(model=f"m{next(_numbers)}", run="r1", **fields)


def publisher_of(
    client: Redis, store: Any, layout: Layout, feeds: Sequence[Any] = (), time_ms: int = 5, consumer: str = "redis"
) -> Publisher:
    return Publisher(client, store, feeds, layout, time_ms=lambda: time_ms, clock=lambda: 1.5, consumer=consumer)


def keys_of(*keys: int) -> Keys:
    return np.array(keys, np.int64)


def push(store: LocalRows, group: str, *keys: int, gradient: float = 1.0) -> None:
    width = store.groups[group].width
    store.push({group: (keys_of(*keys), np.full((len(keys), width), gradient, np.float32))}, 0)


def rows_in_redis(client: Redis, layout: Layout, group: str, *keys: int) -> list[float | None]:
    """First number of each row; None where it is absent or deleted."""
    width = next(g.width for g in GROUPS if g.name == group)
    values: Any = client.mget(layout.row_keys(group, keys_of(*keys)))
    rows_NW, present_N = layout.decode_rows(values, width)
    return [float(row[0]) if there else None for row, there in zip(rows_NW, present_N, strict=True)]


def held(client: Redis, key: str | bytes) -> bytes:
    value = client.get(key)
    assert isinstance(value, bytes)
    return value


def version_of(value: bytes) -> int:
    return int(struct.unpack(">d", value[:8])[0])


def versioned_json(client: Redis, key: str) -> tuple[int, Any]:
    value = held(client, key)
    return version_of(value), json.loads(payload_of(value))


def user_aged(age: int) -> dict[str, Any]:
    return {"history": history_to_json(History()), "profile": {"age": age}}


class Deltas:
    """A store that hands out the changes it is given, in the order it is given them."""

    def __init__(self, *changes: Changes) -> None:
        self.groups = {group.name: group for group in GROUPS}
        self._changes = list(changes)
        self.acknowledged: list[tuple[int, ...]] = []

    def changes(self, consumer: str, complete: Collection[str] = ()) -> Changes:
        return self._changes.pop(0)

    def acknowledge(self, consumer: str, cursor: tuple[int, ...]) -> None:
        self.acknowledged.append(cursor)


def delta(writes: Mapping[int, tuple[int, float | None]]) -> Changes:
    """Changes of group ``item``: key → (version, value, or None for a deletion)."""
    put = {key: write for key, write in writes.items() if write[1] is not None}
    gone = {key: version for key, (version, value) in writes.items() if value is None}
    rows = np.array([[value] * 2 for _, value in put.values()], np.float32).reshape(-1, 2)
    versions = np.array([version for version, _ in put.values()], np.int64)
    return Changes(
        cursor=(max(version for version, _ in writes.values()),),
        upserts={"item": Upserts(keys_of(*put), rows, versions)},
        deletes={"item": Deletes(keys_of(*gone), np.array(list(gone.values()), np.int64))},
    )


# --- newest wins


@pytest.mark.parametrize("newer", [2, 10, 2**32 - 1, 2**32, 2**32 + 1, 2**40 + 1, 2**53])
@pytest.mark.parametrize("deleted", ["neither", "older", "newer"])
def test_a_late_delta_changes_nothing(client: Redis, layout: Layout, newer: int, deleted: str) -> None:
    """9 < 10 and 2³² + 1 > 2³²: versions are compared as numbers, not as text, and not in 32 bits."""
    new = delta({7: (newer, None if deleted == "newer" else 2.0)})
    old = delta({7: (newer - 1, None if deleted == "older" else 1.0)})
    publisher = publisher_of(client, Deltas(old, new, old, new), layout)
    expected = [None if deleted == "newer" else 2.0]
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 7) == [None if deleted == "older" else 1.0]
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 7) == expected
    publisher.publish()  # late
    assert rows_in_redis(client, layout, "item", 7) == expected
    publisher.publish()  # twice
    assert rows_in_redis(client, layout, "item", 7) == expected
    assert version_of(held(client, layout.row_keys("item", keys_of(7))[0])) == newer
    assert versioned_json(client, layout.versions_key)[1]["version"] == newer


def test_the_same_version_again_is_not_written(client: Redis, layout: Layout) -> None:
    publisher_of(client, Deltas(delta({7: (4, 1.0)})), layout).publish()
    publisher_of(client, Deltas(delta({7: (4, 99.0)})), layout).publish()
    assert rows_in_redis(client, layout, "item", 7) == [1.0]


WRITES = st.lists(
    st.tuples(st.integers(-2, 2), st.integers(1, 6) | st.integers(2**32 - 2, 2**32 + 3)),
    min_size=1,
    max_size=8,
    unique=True,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(WRITES, st.data())
def test_any_order_with_any_repeats_ends_with_the_newest(
    client: Redis, writes: list[tuple[int, int]], data: st.DataObject
) -> None:
    layout = new_layout()
    values = {write: None if data.draw(st.booleans()) else float(at) for at, write in enumerate(writes)}
    order = data.draw(st.permutations(writes)) + data.draw(st.lists(st.sampled_from(writes), max_size=4))
    store = Deltas(*(delta({key: (version, values[key, version])}) for key, version in order))
    publisher = publisher_of(client, store, layout)
    for _ in order:
        publisher.publish()
    newest = {key: max(version for of, version in writes if of == key) for key, _ in writes}
    assert rows_in_redis(client, layout, "item", *newest) == [values[write] for write in newest.items()]
    assert versioned_json(client, layout.versions_key)[0] == max(newest.values())


def test_users_items_and_versions_do_not_go_back_either(client: Redis, layout: Layout) -> None:
    new, old = (
        FeatureChanges(sequence, {7: user_aged(sequence)}, {"tt1": {"title": sequence}}) for sequence in (10, 9)
    )
    for part, clock in ((new, 20), (old, 30)):

        class Feed:
            def changes(self, consumer: str, since: int, part: FeatureChanges = part) -> FeatureChanges:
                return part

            def acknowledge(self, consumer: str, up_to: int) -> None:
                pass

        publisher_of(client, LocalRows(GROUPS), layout, [Feed()], time_ms=clock).publish()
    assert versioned_json(client, layout.user_key(7)) == (10, user_aged(10))
    assert versioned_json(client, layout.item_key("tt1")) == (10, {"title": 10})
    about = {"version": 10, "rows": 0, "time_ms": 20, "published_at_ms": 1500}
    assert versioned_json(client, layout.versions_key) == (10, about)


# --- what is sent


@pytest.mark.parametrize("names", [("redis", "other"), ("redis", "redis")])
def test_publishers_that_share_a_feed_both_send_all_of_it(client: Redis, names: tuple[str, str]) -> None:
    """Into two places, by names of their own, or (a mistake) by one: what one acknowledges is not lost to the other."""
    state, layouts = FeatureState(), (new_layout(), new_layout())
    first, second = (
        publisher_of(client, LocalRows(GROUPS), layout, [state], consumer=name)
        for layout, name in zip(layouts, names, strict=True)
    )
    draw = np.random.default_rng(5)
    for step in range(12):
        for user in draw.integers(0, 6, 3).tolist():
            state.count_like(user, f"tt{step}", 10 * step)
            state.put_facts("item", f"tt{step}", 0, {"title": step})
        for publisher in (first, second) if step % 3 else (first, first):
            publisher.publish()
    second.publish()
    for layout in layouts:
        for user in state.users():
            saved = versioned_json(client, layout.user_key(user))[1]
            assert user_from_json(saved)[0] == state.history(user)
        assert client.scard(layout.items_key) == len(state.items) == 12


def test_of_names_of_their_own_each_is_sent_what_is_new(client: Redis) -> None:
    state = FeatureState()
    first, second = (
        publisher_of(client, LocalRows(GROUPS), new_layout(), [state], consumer=name) for name in ("redis", "other")
    )
    state.count_like(1, "tt1", 10)
    assert [one.publish().users for one in (first, second)] == [1, 1]
    state.count_like(2, "tt1", 20)
    assert first.publish().users == 1
    state.count_like(3, "tt1", 30)
    assert [one.publish().users for one in (first, second)] == [1, 2]


def test_only_what_changed_is_sent_again(client: Redis, layout: Layout) -> None:
    store, state = LocalRows(GROUPS), FeatureState()
    publisher = publisher_of(client, store, layout, [state])
    push(store, "item", *range(1200))  # three calls of Redis
    push(store, "dense", 0, 1)
    for user in range(3):
        state.count_impression(user, "tt1", 10)
    state.put_facts("item", "tt1", 0, {"title": "One"})
    assert publisher.publish() == Published(version=2 + 4, rows=1202, deletes=0, users=3, items=1, seconds=0.0)
    assert publisher.publish() == Published(version=6, rows=0, deletes=0, users=0, items=0, seconds=0.0)

    client.set(layout.row_keys("item", keys_of(8))[0], b"untouched")
    push(store, "item", 7)
    store.delete({"item": keys_of(9, 10)})
    state.count_like(2, "tt1", 20)
    assert publisher.publish() == Published(version=4 + 5, rows=1, deletes=2, users=1, items=0, seconds=0.0)
    assert rows_in_redis(client, layout, "item", 6, 7, 9, 10, 11) == [-1, -2, None, None, -1]
    assert client.get(layout.row_keys("item", keys_of(8))[0]) == b"untouched"
    assert rows_in_redis(client, layout, "dense", 0, 1, 2) == [-1, -1, None]


def test_what_is_in_redis_is_what_the_store_pulls(client: Redis, layout: Layout) -> None:
    store = LocalRows(GROUPS)
    publisher = publisher_of(client, store, layout)
    reader = PublishedRows(client, layout, {group.name: group for group in GROUPS})
    asked = {"item": keys_of(2**63 - 1, -(2**63), 0, 5, 5, 77), "dense": keys_of(0, 4)}
    for step in range(4):
        push(store, "item", -(2**63), 5, 2**63 - 1, gradient=step + 0.25)
        push(store, "dense", step, gradient=0.1)
        if step == 2:
            store.delete({"item": keys_of(5, -(2**63))})
        publisher.publish()
        found, expected = reader.pull(asked), store.pull(asked)
        for name in asked:
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_deleted_row_reads_as_absent_and_may_come_back(client: Redis, layout: Layout) -> None:
    store = LocalRows(GROUPS)
    publisher = publisher_of(client, store, layout)
    push(store, "item", 7)
    publisher.publish()
    store.delete({"item": keys_of(7)})
    assert publisher.publish().deletes == 1
    value = held(client, layout.row_keys("item", keys_of(7))[0])
    assert len(value) == 8 and version_of(value) == 2  # a tombstone stays
    assert rows_in_redis(client, layout, "item", 7) == [None]
    push(store, "item", 7, gradient=3.0)
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 7) == [-3.0]


def test_when_all_rows_are_sent_others_that_redis_holds_are_gone(client: Redis, layout: Layout) -> None:
    """After a restore, say, single deletions can not be told. What is written later is newer than the tombstones."""
    store = LocalRows([*GROUPS, replace(GROUPS[0], name=f"{GROUPS[0].name}s")])
    publisher = publisher_of(client, store, layout)
    push(store, "item", 1)
    snapshot = store.snapshot()
    push(store, "item", 1, 2, 3)
    push(store, "items", 2)  # a group whose name begins the same
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-2, -1, -1]
    store.restore(Snapshot(snapshot.cursor, {"item": snapshot.groups["item"]}))
    published = publisher.publish()
    assert (published.rows, published.deletes) == (1, 2)
    assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-1, None, None]
    assert len(held(client, layout.row_keys("items", keys_of(2))[0])) > 8  # a row, no tombstone
    assert publisher.publish().deletes == 0
    push(store, "item", 3)
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-1, None, -1]


def test_users_and_items_of_both_kinds_of_id(client: Redis, layout: Layout) -> None:
    state = FeatureState()
    publisher = publisher_of(client, LocalRows(GROUPS), layout, [state])
    state.put_facts("user", 7, 0, {"age": 30})
    state.count_impression("7", "tt9", 100)
    state.count_like("7", "tt9", 150)
    for item in ("tt9", 9, "9", "ü:1"):
        state.put_facts("item", item, 0, {"title": f"{item!r}"})
    published = publisher.publish()
    assert (published.users, published.items) == (2, 4)
    history, profile = user_from_json(versioned_json(client, layout.user_key("7"))[1])
    assert (history.liked(), history.shown(), profile) == (["tt9"], ["tt9"], {})
    history, profile = user_from_json(versioned_json(client, layout.user_key(7))[1])
    assert (history.liked(), history.num_impressions, profile) == ([], 0, {"age": 30})
    assert client.smembers(layout.items_key) == {b"9", b'"9', b'"tt9', '"ü:1'.encode()}
    for item in ("tt9", 9, "9", "ü:1"):
        assert versioned_json(client, layout.item_key(item))[1] == {"title": f"{item!r}"}


def test_the_list_of_items_grows(client: Redis, layout: Layout) -> None:
    state = FeatureState()
    publisher = publisher_of(client, LocalRows(GROUPS), layout, [state])
    state.put_facts("item", 2, 0, {})
    publisher.publish()
    client.delete(layout.items_key)
    state.put_facts("item", 1, 0, {})
    publisher.publish()
    assert client.smembers(layout.items_key) == {b"1"}  # what was listed is not sent again
    state.put_facts("item", 2, 5, {"title": "Two"})
    publisher.publish()
    publisher_of(client, LocalRows(GROUPS), layout, [FeatureState.from_json(state.to_json())]).publish()
    assert client.smembers(layout.items_key) == {b"1", b"2"}
    assert versioned_json(client, layout.item_key(2))[1] == {"title": "Two"}


@pytest.mark.parametrize("busier", [0, 1])
def test_facts_that_every_joiner_reads_do_not_hide_the_history_of_one(
    client: Redis, layout: Layout, busier: int
) -> None:
    """Facts go to all joiners, a user's impressions to one: what the others say of the user is less."""
    owner, other = FeatureState(), FeatureState()
    publisher = publisher_of(client, LocalRows(GROUPS), layout, [owner, other])

    def read() -> tuple[list[Any], Any]:
        history, profile = user_from_json(versioned_json(client, layout.user_key(7))[1])
        return history.liked(), profile

    for state in (owner, other):
        state.put_facts("user", 7, 0, {"age": 30})
    assert publisher.publish().users == 1
    assert read() == ([], {"age": 30})
    for _ in range(50):  # its numbers are far ahead of the other's, or far behind
        (owner, other)[busier].count_impression(8, 1, 10)
    publisher.publish()
    owner.count_impression(7, 1, 10)
    owner.count_like(7, 1, 12)
    publisher.publish()
    assert read() == ([1], {"age": 30})
    owner.put_facts("user", 7, 20, {"age": 31})
    publisher.publish()
    assert read() == ([1], {"age": 31})
    other.put_facts("user", 7, 20, {"age": 31})  # the other comes later to the same fact
    publisher.publish()
    assert read() == ([1], {"age": 31})


def test_all_at_once_the_history_wins_too(client: Redis, layout: Layout) -> None:
    first, second = FeatureState(), FeatureState()
    for state in (first, second):
        state.put_facts("user", 7, 0, {"age": 30})
        state.put_facts("user", 8, 0, {"age": 40})
    first.count_like(7, "a", 5)
    second.count_like(8, "b", 5)
    second.count_like(8, "c", 6)
    published = publisher_of(client, LocalRows(GROUPS), layout, [first, second]).publish()
    assert published.users == 2
    liked = {user: versioned_json(client, layout.user_key(user))[1]["history"]["likes"] for user in (7, 8)}
    assert liked == {7: [[5, "a"]], 8: [[5, "b"], [6, "c"]]}


# --- which run is served


def test_describe_and_switch(client: Redis, layout: Layout) -> None:
    publisher = publisher_of(client, LocalRows(GROUPS), layout)
    publisher.describe({"seed": 3}, {"data": "films"})
    assert json.loads(held(client, layout.meta_key)) == {
        "blueprint": {"seed": 3},
        "layout": {"row_format": "float32", "layout": "fast", "num_buckets": 16384, "cluster": False},
        "data": "films",
    }
    assert client.get(pointer_key(layout.model)) is None  # beside what is served
    publisher.switch()
    assert client.get(pointer_key(layout.model)) == b"r1"


def test_a_run_is_described_once(client: Redis, layout: Layout) -> None:
    """Readers may have opened it: what it is does not change under them; the same again is a restart."""
    publisher = publisher_of(client, LocalRows(GROUPS), layout)
    publisher.describe({"seed": 3, "sizes": (1, 2)}, {"data": "films"})
    meta = held(client, layout.meta_key)
    publisher.describe({"seed": 3, "sizes": (1, 2)}, {"data": "films", "time_ms": 7})
    half = Layout(model=layout.model, run=layout.run, row_format="float16")
    for described, blueprint, names in (
        (layout, {"seed": 4, "sizes": [1, 2]}, "seed"),
        (layout, {"seed": 3, "table": {}}, "sizes, table"),
        (half, {"seed": 3, "sizes": [1, 2]}, "row_format"),
    ):
        with pytest.raises(ConfigError) as raised:
            publisher_of(client, LocalRows(GROUPS), described).describe(blueprint, {})
        assert str(raised.value) == (
            f"run 'r1' of model {layout.model!r} is published with another {names}; publish from a folder of another "
            "name, or under another serving.model"
        )
    assert held(client, layout.meta_key) == meta
    for other in (Layout(model=layout.model, run="r2"), Layout(model=f"{layout.model}-half", run="r1")):
        publisher_of(client, LocalRows(GROUPS), other).describe({"seed": 4}, {})


def test_a_run_that_begins_takes_no_name_that_is_published(client: Redis, layout: Layout) -> None:
    """Two runs of one second have one name; even with the same blueprint, their rows would be mixed."""
    publisher_of(client, LocalRows(GROUPS), layout).describe({"seed": 3}, {}, fresh=True)
    for seed in (3, 4):
        with pytest.raises(ConfigError) as raised:
            publisher_of(client, LocalRows(GROUPS), layout).describe({"seed": seed}, {}, fresh=True)
        assert str(raised.value) == (
            f"run 'r1' of model {layout.model!r} is published in this Redis already; choose another hydra.run.dir="
        )
    assert json.loads(held(client, layout.meta_key))["blueprint"] == {"seed": 3}
    publisher_of(client, LocalRows(GROUPS), layout).describe({"seed": 3}, {})  # once finished, from its checkpoint
    publisher_of(client, LocalRows(GROUPS), Layout(model=layout.model, run="r2")).describe({"seed": 3}, {}, fresh=True)


@pytest.mark.parametrize("fresh", [False, True])
def test_of_those_that_describe_a_run_at_once_one_is_taken(client: Redis, layout: Layout, fresh: bool) -> None:
    refused = []

    def describe(number: int) -> None:
        blueprint, about = ({"seed": 3}, {"seed": number}) if fresh else ({"seed": number}, {})
        with Redis(port=client.connection_pool.connection_kwargs["port"]) as own:
            try:
                publisher_of(own, LocalRows(GROUPS), layout).describe(blueprint, about, fresh=fresh)
            except ConfigError:
                refused.append(number)

    threads = [threading.Thread(target=describe, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meta = json.loads(held(client, layout.meta_key))
    assert sorted([*refused, meta["seed"] if fresh else meta["blueprint"]["seed"]]) == list(range(8))


def test_a_finished_run_published_again_from_its_checkpoint_changes_nothing(client: Redis, layout: Layout) -> None:
    """Online it lay on two shards, whose numbers add up; from its checkpoint it is one store with fewer."""
    parts = [LocalRows(GROUPS, buckets=shard_buckets(shard, 2), num_buckets=NUM_BUCKETS) for shard in range(2)]
    online, state = ShardedRows(GROUPS, [LocalShard(part) for part in parts]), FeatureState()
    for _ in range(3):
        online.push({"item": (np.arange(10), np.ones((10, 2), np.float32))}, 0)
    online.delete({"item": keys_of(3)})
    state.count_like(7, "tt1", 20)
    state.put_facts("item", "tt1", 0, {"title": "One"})
    before = publisher_of(client, online, layout, [state]).publish()
    assert (before.rows, before.users, before.items) == (9, 1, 1)
    keys = [*client.scan_iter(f"{layout.prefix}*")]
    sets = {name.encode() for name in (layout.items_key, layout.recent_items_key, layout.recent_users_key)}
    others = {*sets, layout.publisher_key.encode()}
    values = {key: client.get(key) for key in keys if key not in others}

    restored = LocalRows(GROUPS)
    restored.restore(online.snapshot())
    again = publisher_of(client, restored, layout, [FeatureState.from_json(state.to_json())], time_ms=9).publish()
    assert (again.rows, again.deletes, again.users, again.items) == (0, 0, 0, 0)
    assert {key: client.get(key) for key in values} == values
    assert rows_in_redis(client, layout, "item", 2, 3) == [-3, None]


def test_runs_lie_beside_each_other(client: Redis, layout: Layout) -> None:
    other = Layout(model=layout.model, run="r2", row_format="float16")
    for at, named in enumerate((layout, other)):
        store = LocalRows(GROUPS)
        push(store, "item", 7, gradient=at + 1.0)
        publisher_of(client, store, named).publish()
    assert rows_in_redis(client, layout, "item", 7) == [-1]
    assert rows_in_redis(client, other, "item", 7) == [-2]


def test_versions_come_last(client: Redis, layout: Layout) -> None:
    """A reader that sees a version finds its rows: at no time is the version ahead of a row."""
    store = LocalRows(GROUPS)
    push(store, "item", *range(10))
    seen = []

    class Watched(Layout):
        @property
        def versions_key(self) -> str:
            seen.append(rows_in_redis(client, layout, "item", *range(10)))
            return layout.versions_key

    publisher_of(client, store, Watched(model=layout.model, run=layout.run)).publish()
    assert seen == [[-1.0] * 10]


def test_dense_parameters_are_of_one_version_at_any_time(client: Redis, layout: Layout) -> None:
    """A model of some layers from before a step and some from after it was never trained."""
    dense = RowGroup(name="dense", width=4, optimizer=SGD(learning_rate=1.0), num_rows=2000)
    keys = np.arange(2000)
    store = LocalRows([dense])
    publisher = publisher_of(client, store, layout)
    store.push({"dense": (keys, store.pull({"dense": keys})["dense"])}, 0)  # all zeros
    publisher.publish()
    seen: list[float] = []
    stop, errors = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            with Redis(port=client.connection_pool.connection_kwargs["port"]) as own:
                reader = PublishedRows(own, layout, {"dense": dense})
                while not stop.is_set():
                    rows = reader.pull({"dense": keys})["dense"]
                    assert (rows == rows[0, 0]).all(), "a mix of versions"
                    seen.append(float(rows[0, 0]))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(40):
        store.push({"dense": (keys, np.full((2000, 4), -1, np.float32))}, 0)
        assert publisher.publish().rows == 2000
    stop.set()
    thread.join()
    assert not errors
    assert seen == sorted(seen) and len(set(seen)) > 3


# --- outages


def quick_client(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0))


def kill(server: EmbeddedRedis) -> None:
    """SIGKILL: no farewell, as in a crash. Returns once it is gone."""
    os.kill(json.loads((server.folder / "redis.json").read_text())["pid"], signal.SIGKILL)
    server.process.stop()


class KillsAt(Layout):
    """A layout whose ``at`` kills the server, once: the publication breaks off just there."""

    at: str = ""
    server: EmbeddedRedis | None = None
    looks: int = 0

    def _reached(self, step: str) -> None:
        if step == self.at and self.server is not None:
            server = self.server
            object.__setattr__(self, "server", None)
            kill(server)

    @property
    def items_key(self) -> str:
        self._reached("features")
        return super().items_key

    def value_bytes(self, rows_NW: Floats, versions_N: Any, row_format: str | None = None) -> Any:
        self._reached("rows")
        return super().value_bytes(rows_NW, versions_N, row_format)

    @property
    def versions_key(self) -> str:
        if self.at == "versions":
            object.__setattr__(self, "looks", self.looks + 1)
        if self.looks > 1:  # the first look is whether Redis still has what it had
            self._reached("versions")
        return super().versions_key


@pytest.mark.parametrize("at", ["features", "rows", "versions"])
def test_an_outage_delays_and_loses_nothing(tmp_path: Path, at: str) -> None:
    server = EmbeddedRedis(tmp_path).ready()
    try:
        store, state = LocalRows(GROUPS), FeatureState()
        layout = KillsAt(model="m", run="r1")
        client = quick_client(server.url)
        publisher = publisher_of(client, store, layout, [state])
        push(store, "item", 1, 2, 3)
        publisher.publish()
        push(store, "item", 2, gradient=5.0)
        store.delete({"item": keys_of(3)})
        state.count_like(7, "tt1", 20)
        state.put_facts("item", "tt1", 0, {"title": "One"})
        object.__setattr__(layout, "at", at)
        object.__setattr__(layout, "server", server)
        for _ in range(2):  # the second finds no server at all
            with pytest.raises(ServiceError) as raised:
                publisher.publish()
            assert "Redis did not take a publication (" in str(raised.value)
            assert "it is sent again with the next one" in str(raised.value)
            assert "\n" not in str(raised.value)
        assert store.changes("redis").upserts["item"].keys_U.tolist() == [2]
        assert store.changes("redis").deletes["item"].keys_U.tolist() == [3]
        assert list(state.changes("redis", 0).users) == [7] and list(state.changes("redis", 0).items) == ["tt1"]

        server.stop()
        server = EmbeddedRedis(tmp_path, port=server.port).ready()
        assert rows_in_redis(client, layout, "item", 1, 2, 3) == ([-1, -6, None] if at == "versions" else [-1, -1, -1])
        published = publisher.publish()
        written = (published.users, published.items, published.rows, published.deletes)
        already = {"features": 2, "rows": 2, "versions": 4}[at]
        assert written == (0, 0, 0, 0)[:already] + (1, 1, 1, 1)[already:]
        assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-1, -6, None]
        assert client.smembers(layout.items_key) == {b'"tt1'}
        assert versioned_json(client, layout.item_key("tt1"))[1] == {"title": "One"}
        assert versioned_json(client, layout.user_key(7))[1]["history"]["likes"] == [[20, "tt1"]]
        assert versioned_json(client, layout.versions_key)[1]["version"] == published.version
        assert publisher.publish().rows == 0
        client.close()
    finally:
        server.stop()


def test_a_server_that_refuses_to_write_is_an_outage_too(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path) as server, quick_client(server.url) as client:
        store = LocalRows(GROUPS)
        publisher = publisher_of(client, store, new_layout())
        push(store, "item", 1)
        client.config_set("maxmemory", 1)  # as when the machine's memory is full
        with pytest.raises(ServiceError, match="used memory > 'maxmemory'"):
            publisher.publish()
        assert len(store.changes("redis").upserts["item"].keys_U) == 1
        client.config_set("maxmemory", 0)
        assert publisher.publish().rows == 1
        assert publisher.publish().rows == 0


def test_a_server_that_forgot_its_scripts_is_taught_again(client: Redis, layout: Layout) -> None:
    store = LocalRows(GROUPS)
    publisher = publisher_of(client, store, layout)
    push(store, "item", 1)
    publisher.publish()
    client.script_flush()
    push(store, "item", 1)
    publisher.publish()
    assert rows_in_redis(client, layout, "item", 1) == [-2]


def test_nowhere_to_publish_is_one_line_without_the_password() -> None:
    publisher = Publisher.connect(
        "redis://ranker:sesame@127.0.0.1:1/0", LocalRows(GROUPS), [], new_layout(), time_ms=lambda: 0
    )
    for action in (publisher.publish, publisher.switch, lambda: publisher.describe({}, {})):
        with pytest.raises(ServiceError) as raised:
            action()
        assert "sesame" not in str(raised.value) and "\n" not in str(raised.value)


def test_publishers_of_one_run_in_two_processes_do_not_undo_each_other(client: Redis, layout: Layout) -> None:
    """A driver that was thought dead goes on for a while beside its successor."""
    store = LocalRows(GROUPS)
    push(store, "item", 1, 2)
    late = LocalRows(GROUPS)
    late.restore(store.snapshot())
    push(store, "item", 1)
    publisher_of(client, store, layout).publish()
    publisher_of(client, late, layout).publish()
    assert rows_in_redis(client, layout, "item", 1, 2) == [-2, -1]


def test_what_a_second_publisher_brought_back_or_buried_is_put_right(
    client: Redis, layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was thought dead sends all it holds into a Redis that has lost some: no version tells it is late."""
    store = LocalRows(GROUPS)
    push(store, "item", 1, 2)
    late = LocalRows(GROUPS)
    late.restore(store.snapshot())
    first, second = publisher_of(client, store, layout), publisher_of(client, late, layout)
    push(store, "item", 3)
    store.delete({"item": keys_of(2)})
    first.publish()
    client.delete(layout.row_keys("item", keys_of(2))[0])  # the tombstone
    second.publish(everything=True)
    assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-1, -1, None]
    assert not caplog.records
    first.publish()
    assert rows_in_redis(client, layout, "item", 1, 2, 3) == [-1, None, -1]
    assert "has another publisher too: all is sent again; end one of them" in caplog.text
    assert first.publish().rows == 0


def test_a_second_publisher_in_the_midst_of_a_publication_is_noticed(client: Redis, layout: Layout) -> None:
    store = LocalRows(GROUPS)
    push(store, "item", 1)
    late = LocalRows(GROUPS)
    late.restore(store.snapshot())
    push(store, "item", 3)

    class Meddling:
        """A feed that is asked while the first publication is under way."""

        def changes(self, consumer: str, since: int) -> FeatureChanges:
            publisher_of(client, late, layout).publish()
            self.changes = lambda consumer, since: FeatureChanges(0, {}, {})  # type: ignore[method-assign]
            return FeatureChanges(0, {}, {})

        def acknowledge(self, consumer: str, up_to: int) -> None:
            pass

        def everything_changed(self) -> None:
            pass

    publisher = publisher_of(client, store, layout, [Meddling()])
    assert publisher.publish().rows == 1  # row 1 was there
    assert publisher.publish().rows == 2
    assert publisher.publish().rows == 0
