"""What every row store promises, checked against a dict, on every implementation.

A new implementation is one line in STORES.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from recsys.errors import ConfigError, DataError
from recsys.hashing import Floats, Keys
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.ps.steps import Steps
from recsys.ps.worker import WorkerRows
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adagrad, Adam, RowWiseAdagrad
from recsys.rows.store import GroupSnapshot, RowGroup, RowStore, Snapshot, fresh_rows

Build = Callable[[Sequence[RowGroup]], RowStore]


def sharded(num_shards: int) -> Build:
    """A client over shards in this process."""

    def build(groups: Sequence[RowGroup]) -> RowStore:
        shards = [
            LocalShard(LocalRows(groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS))
            for shard in range(num_shards)
        ]
        return ShardedRows(groups, shards)

    return build


def worker_of(num_shards: int) -> Build:
    """A worker's client, alone with its shards."""

    def build(groups: Sequence[RowGroup]) -> RowStore:
        shards = []
        for shard in range(num_shards):
            store = LocalRows(groups, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
            shards.append(LocalShard(store, Steps(store, members={0: 1})))
        return WorkerRows(groups, shards)

    return build


STORES: dict[str, Build] = {
    "local": LocalRows,
    "a worker's 1 shard": worker_of(1),
    "a worker's 2 shards": worker_of(2),
    "1 shard": sharded(1),
    "2 shards": sharded(2),
    "3 shards": sharded(3),
}

ARRAY_ROWS = 3000
KEYS = {  # small, spread over shards, negative and extreme where the kind of group allows
    "array": np.array([0, 1, 7, 500, 1023, 1024, 2047, ARRAY_ROWS - 1]),
    "collisionless": np.array([0, 1, -1, 7, 2**63 - 1, -(2**63), 1024, -(2**40)]),
}
KINDS = list(KEYS)


def group(kind: str, name: str = "item", **fields: Any) -> RowGroup:
    num_rows = ARRAY_ROWS if kind == "array" else None
    described = {"width": 3, "optimizer": SGD(learning_rate=1.0), "seed": 5, **fields}
    return RowGroup(name=name, num_rows=num_rows, **described)


@pytest.fixture(params=list(STORES))
def build(request: pytest.FixtureRequest) -> Build:
    return STORES[request.param]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


def ones(keys_N: Keys, width: int = 3) -> Floats:
    return np.ones((len(keys_N), width), np.float32)


def keys_of(*keys: int) -> Keys:
    return np.array(keys, np.int64)


def assert_same_snapshot(one: Snapshot, other: Snapshot) -> None:
    """Equal in everything but the order of rows and the cursor's shards."""
    assert one.groups.keys() == other.groups.keys()
    for name in one.groups:
        a, b = ordered(one.groups[name]), ordered(other.groups[name])
        np.testing.assert_array_equal(a.keys_U, b.keys_U)
        np.testing.assert_array_equal(a.rows_UW, b.rows_UW)
        np.testing.assert_array_equal(a.event_times_U, b.event_times_U)
        np.testing.assert_array_equal(a.sequences_U, b.sequences_U)
        assert a.state.keys() == b.state.keys()
        for column in a.state:
            np.testing.assert_array_equal(a.state[column], b.state[column])


def ordered(part: GroupSnapshot) -> GroupSnapshot:
    order = np.argsort(part.keys_U)
    state = {name: values[order] for name, values in part.state.items()}
    return GroupSnapshot(
        part.keys_U[order], part.rows_UW[order], state, part.event_times_U[order], part.sequences_U[order]
    )


# --- reading


def test_absent_rows_read_the_initial_value_and_reading_creates_nothing(build: Build, kind: str) -> None:
    described = group(kind, initial=Initial(scale=0.5))
    store = build([described])
    rows = store.pull({"item": KEYS[kind]})["item"]
    np.testing.assert_array_equal(rows, described.initial.rows(KEYS[kind], 3, described.seed))
    assert rows.dtype == np.float32 and rows.flags.writeable
    assert abs(rows).max() <= 0.5 and len(np.unique(rows)) == rows.size
    assert store.num_rows() == {"item": 0}
    assert len(store.snapshot().groups["item"].keys_U) == 0
    assert len(store.changes("c").upserts["item"].keys_U) == 0


def test_absent_rows_read_zeros_where_the_group_says_so(build: Build, kind: str) -> None:
    described = group(kind, absent="zeros", initial=Initial(scale=0.5))
    store = build([described])
    key = KEYS[kind][:1]
    assert store.pull({"item": key})["item"].tolist() == [[0, 0, 0]]
    store.push({"item": (key, ones(key))}, 0)
    expected = described.initial.rows(key, 3, described.seed) - 1  # once trained, from its initial value
    np.testing.assert_array_equal(store.pull({"item": key})["item"], expected)


def test_pull_keeps_order_and_repeats_and_gives_a_copy(build: Build, kind: str) -> None:
    store = build([group(kind, initial=Initial(scale=0))])
    keys = KEYS[kind]
    store.push({"item": (keys, np.arange(len(keys), dtype=np.float32)[:, None] + ones(keys))}, 0)
    positions = np.array([3, 0, 3, 5, 1, 1])
    rows = store.pull({"item": keys[positions]})["item"]
    assert rows[:, 0].tolist() == (-1.0 - positions).tolist()
    rows[:] = 99
    assert store.pull({"item": keys[:1]})["item"].tolist() == [[-1, -1, -1]]


def test_no_keys_at_all(build: Build, kind: str) -> None:
    store = build([group(kind)])
    assert store.pull({}) == {}
    assert store.pull({"item": keys_of()})["item"].shape == (0, 3)
    store.push({"item": (keys_of(), ones(keys_of()))}, 0)
    store.delete({"item": keys_of()})
    assert store.num_rows() == {"item": 0}


def test_initial_rows_do_not_depend_on_the_number_of_shards(kind: str) -> None:
    rows = [STORES[name]([group(kind)]).pull({"item": KEYS[kind]})["item"] for name in STORES]
    for other in rows[1:]:
        np.testing.assert_array_equal(rows[0], other)


# --- writing


def test_repeated_keys_are_summed_into_one_step(build: Build, kind: str) -> None:
    optimizer = Adagrad(learning_rate=1.0)
    keys = KEYS[kind]
    repeated, once = build([group(kind, optimizer=optimizer)]), build([group(kind, optimizer=optimizer)])
    weights = np.array([1, 2, 3, 4, 5], np.float32)[:, None]
    repeated.push({"item": (keys[[2, 0, 2, 2, 0]], weights * ones(keys[:5]))}, 0)
    once.push({"item": (keys[[0, 2]], np.array([[7], [8]], np.float32) * ones(keys[:2]))}, 0)
    assert_same_snapshot(repeated.snapshot(), once.snapshot())
    assert repeated.num_rows() == {"item": 2}


def test_int64_extremes_are_keys_like_others(build: Build) -> None:
    store = build([group("collisionless", initial=Initial(scale=0))])
    keys = keys_of(2**63 - 1, -(2**63), 0, -1, 1)
    store.push({"item": (keys, np.arange(1, 6, dtype=np.float32)[:, None] * ones(keys))}, 0)
    assert store.pull({"item": keys})["item"][:, 0].tolist() == [-1, -2, -3, -4, -5]
    store.delete({"item": keys[[0, 1]]})
    assert store.pull({"item": keys})["item"][:, 0].tolist() == [0, 0, -3, -4, -5]
    assert sorted(store.snapshot().groups["item"].keys_U.tolist()) == [-1, 0, 1]


def test_user_7_and_item_7_are_different_rows(build: Build, kind: str) -> None:
    store = build([group(kind, "user", seed=1), group(kind, "item", seed=2, width=2)])
    seven = keys_of(7)
    before = store.pull({"user": seven, "item": seven})
    assert before["user"][0, :2].tolist() != before["item"][0].tolist()
    store.push({"user": (seven, ones(seven))}, 0)
    after = store.pull({"user": seven, "item": seven})
    np.testing.assert_array_equal(after["user"], before["user"] - 1)
    np.testing.assert_array_equal(after["item"], before["item"])
    assert store.num_rows() == {"user": 1, "item": 0}


def test_event_time_is_the_latest_of_the_group_when_the_row_was_pushed(build: Build, kind: str) -> None:
    store = build([group(kind)])
    keys = KEYS[kind][:2]
    for event_time_ms, pushed in ((50, keys), (90, keys[:1]), (70, keys)):
        store.push({"item": (pushed, ones(pushed))}, event_time_ms)
    part = store.snapshot().groups["item"]
    times = dict(zip(part.keys_U.tolist(), part.event_times_U.tolist(), strict=True))
    assert times == {int(keys[0]): 90, int(keys[1]): 90}


@pytest.mark.parametrize("optimizer", [Adagrad(learning_rate=0.5), Adam(learning_rate=0.5)])
def test_a_reused_slot_starts_with_a_fresh_row_and_fresh_state(
    build: Build, kind: str, optimizer: Adagrad | Adam
) -> None:
    described = group(kind, optimizer=optimizer)
    used, fresh = build([described]), build([described])
    old, new = KEYS[kind][:4], KEYS[kind][4:]
    for _ in range(3):
        used.push({"item": (old, 5 * ones(old))}, 5)
    used.delete({"item": old})
    np.testing.assert_array_equal(used.pull({"item": old})["item"], fresh.pull({"item": old})["item"])
    for keys in (new, old):  # other keys in the freed slots, then the deleted keys themselves
        used.push({"item": (keys, ones(keys))}, 7)
        fresh.push({"item": (keys, ones(keys))}, 7)
    a, b = ordered(used.snapshot().groups["item"]), ordered(fresh.snapshot().groups["item"])
    np.testing.assert_array_equal(a.rows_UW, b.rows_UW)
    np.testing.assert_array_equal(a.event_times_U, b.event_times_U)
    for column in a.state:
        np.testing.assert_array_equal(a.state[column], b.state[column])


def test_nbytes_counts_rows_and_state(build: Build, kind: str) -> None:
    sizes = []
    for optimizer in (SGD(learning_rate=1.0), Adam(learning_rate=1.0)):
        store = build([group(kind, optimizer=optimizer, width=8)])
        empty = store.nbytes
        keys = np.arange(ARRAY_ROWS)
        store.push({"item": (keys, ones(keys, 8))}, 0)
        assert store.nbytes >= ARRAY_ROWS * (8 * 4 + 4)  # row, last step
        assert kind == "array" or store.nbytes > empty
        assert store.total_bytes() == store.nbytes
        sizes.append(store.nbytes)
    assert sizes[1] - sizes[0] >= ARRAY_ROWS * (2 * 8 + 1) * 4  # Adam's two moments and step


# --- changes


def changed(store: RowStore, consumer: str) -> tuple[set[int], set[int]]:
    changes = store.changes(consumer)
    upserts, deletes = changes.upserts["item"].keys_U.tolist(), changes.deletes["item"].keys_U.tolist()
    assert len(set(upserts)) == len(upserts) and len(set(deletes)) == len(deletes)
    assert not set(upserts) & set(deletes)
    return set(upserts), set(deletes)


def test_changes_stay_until_acknowledged_each_consumer_by_itself(build: Build, kind: str) -> None:
    store = build([group(kind)])
    a, b, c = (KEYS[kind][i : i + 1] for i in range(3))
    store.push({"item": (a, ones(a))}, 0)
    assert changed(store, "first") == changed(store, "first") == ({int(a[0])}, set())
    cursor = store.changes("first").cursor
    store.push({"item": (b, ones(b))}, 0)
    store.acknowledge("first", cursor)  # b came after the cursor
    assert changed(store, "first") == ({int(b[0])}, set())
    assert changed(store, "second") == ({int(a[0]), int(b[0])}, set())
    store.acknowledge("first", store.changes("first").cursor)
    assert changed(store, "first") == (set(), set())
    store.push({"item": (c, ones(c))}, 0)
    assert changed(store, "first") == ({int(c[0])}, set())
    store.acknowledge("first", cursor)  # an old cursor takes nothing back
    assert changed(store, "first") == ({int(c[0])}, set())


def test_upserts_carry_the_rows_and_rising_sequence_numbers(build: Build, kind: str) -> None:
    store = build([group(kind)])
    keys = KEYS[kind]
    store.push({"item": (keys, ones(keys))}, 0)
    first = store.changes("c").upserts["item"]
    np.testing.assert_array_equal(first.rows_UW, store.pull({"item": first.keys_U})["item"])
    store.push({"item": (keys, ones(keys))}, 0)
    second = store.changes("c").upserts["item"]
    np.testing.assert_array_equal(second.rows_UW, first.rows_UW - 1)
    assert second.keys_U.tolist() == first.keys_U.tolist()
    assert (second.sequences_U > first.sequences_U).all()


def test_deletes_are_reported_until_every_consumer_acknowledged(build: Build, kind: str) -> None:
    store = build([group(kind)])
    keys = KEYS[kind][:2]
    gone = int(keys[0])
    store.push({"item": (keys, ones(keys))}, 0)
    for consumer in ("first", "second"):
        store.acknowledge(consumer, store.changes(consumer).cursor)
    store.delete({"item": keys[[0, 0]]})
    store.delete({"item": KEYS[kind][5:6]})  # was never there: nothing to tell
    assert changed(store, "first") == changed(store, "first") == (set(), {gone})
    store.acknowledge("first", store.changes("first").cursor)
    assert changed(store, "first") == (set(), set())
    assert changed(store, "second") == (set(), {gone})
    sequences = store.changes("second").deletes["item"].sequences_U
    assert (sequences > store.snapshot().groups["item"].sequences_U.max()).all()


def test_a_key_deleted_and_added_again_is_an_upsert(build: Build, kind: str) -> None:
    store = build([group(kind)])
    key = KEYS[kind][:1]
    store.push({"item": (key, ones(key))}, 0)
    store.acknowledge("c", store.changes("c").cursor)
    store.delete({"item": key})
    store.push({"item": (key, ones(key))}, 0)
    assert changed(store, "c") == ({int(key[0])}, set())
    store.delete({"item": key})
    assert changed(store, "c") == (set(), {int(key[0])})


# --- snapshots


@pytest.mark.parametrize(("source", "target"), list(itertools.product(STORES, STORES)))
def test_a_snapshot_goes_on_the_same_on_any_other_store(source: str, target: str) -> None:
    groups = [
        group("array", "a", optimizer=Adam(learning_rate=0.1)),
        group("collisionless", "c", optimizer=RowWiseAdagrad(learning_rate=0.1)),
    ]
    first, second = STORES[source](groups), STORES[target](groups)
    for store in (first, second):  # what second held before is gone after the restore
        for step in range(3):
            gradients = {
                name: (KEYS[of][step:], (step + 1) * ones(KEYS[of][step:]))
                for name, of in (("a", "array"), ("c", "collisionless"))
            }
            store.push(gradients, 100 + step)
        if store is first:
            store.delete({"a": KEYS["array"][:3], "c": KEYS["collisionless"][2:4]})
    snapshot = first.snapshot()
    second.restore(snapshot)
    assert_same_snapshot(snapshot, second.snapshot())
    for store in (first, second):
        store.push({name: (np.arange(9), ones(np.arange(9))) for name in ("a", "c")}, 500)
        store.delete({"a": np.arange(2)})
    assert_same_snapshot(first.snapshot(), second.snapshot())


def test_a_snapshot_is_a_copy(build: Build, kind: str) -> None:
    store = build([group(kind, optimizer=Adagrad(learning_rate=1.0))])
    keys = KEYS[kind]
    store.push({"item": (keys, ones(keys))}, 0)
    snapshot = store.snapshot()
    rows, sums = snapshot.groups["item"].rows_UW.copy(), snapshot.groups["item"].state["sum"].copy()
    store.push({"item": (keys, ones(keys))}, 0)
    np.testing.assert_array_equal(snapshot.groups["item"].rows_UW, rows)
    store.restore(snapshot)
    store.push({"item": (keys, ones(keys))}, 0)
    np.testing.assert_array_equal(snapshot.groups["item"].rows_UW, rows)
    np.testing.assert_array_equal(snapshot.groups["item"].state["sum"], sums)


def test_restore_leaves_other_groups_alone(build: Build, kind: str) -> None:
    user, item = group(kind, "user"), group(kind, "item")
    store = build([user, item])
    keys = KEYS[kind]
    store.push({"user": (keys, ones(keys)), "item": (keys, ones(keys))}, 0)
    before = store.pull({"item": keys})["item"]
    given = np.full((1, 3), 0.25, np.float32)
    store.restore(Snapshot((0,), {"user": fresh_rows(user, keys[:1], given)}))
    assert store.num_rows() == {"user": 1, "item": len(keys)}
    np.testing.assert_array_equal(store.pull({"user": keys[:1]})["user"], given)
    np.testing.assert_array_equal(store.pull({"item": keys})["item"], before)


def test_rows_given_to_a_new_store_reach_its_consumers(build: Build, kind: str) -> None:
    described = group(kind)
    store = build([described])
    keys = KEYS[kind]
    store.restore(Snapshot((0,), {"item": fresh_rows(described, keys, ones(keys))}))
    assert changed(store, "c") == (set(keys.tolist()), set())
    store.acknowledge("c", store.changes("c").cursor)
    assert changed(store, "c") == (set(), set())


def test_a_restore_under_a_consumers_eyes_is_a_change(build: Build, kind: str) -> None:
    store = build([group(kind)])
    a, b, c = (KEYS[kind][i : i + 1] for i in range(3))
    store.push({"item": (a, ones(a))}, 0)
    snapshot = store.snapshot()
    store.push({"item": (np.concatenate([a, b, c]), ones(KEYS[kind][:3]))}, 0)
    store.acknowledge("c", store.changes("c").cursor)
    store.delete({"item": c})  # not acknowledged when the restore comes
    cursor = store.changes("c").cursor
    store.restore(snapshot)
    for _ in range(2):
        changes = store.changes("c")
        assert changes.complete == {"item"} and changes.upserts["item"].keys_U.tolist() == a.tolist()
        assert (changes.upserts["item"].sequences_U > max(cursor)).all()  # newer than what was sent before
        store.acknowledge("c", cursor)  # what was taken before the restore does not cover it
    store.acknowledge("c", store.changes("c").cursor)
    assert changed(store, "c") == (set(), set()) and store.changes("c").complete == frozenset()


# --- errors


def with_cell(value: float) -> Floats:
    gradients = np.ones((2, 3), np.float32)
    gradients[1, 2] = value
    return gradients


TWO = keys_of(1, 1025)  # on different shards
GOOD = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.pull({"itme": TWO}), ConfigError, "unknown row group 'itme'; known: item, other"),
        (
            lambda s: s.push({"other": (TWO, GOOD), "itme": (TWO, GOOD)}, 0),
            ConfigError,
            "unknown row group 'itme'",
        ),
        (lambda s: s.delete({"other": TWO, "itme": TWO}), ConfigError, "unknown row group 'itme'"),
        (lambda s: s.pull({"item": TWO.astype(np.int32)}), DataError, "keys are int32"),
        (lambda s: s.pull({"item": TWO.astype(np.float64)}), DataError, "keys are float64"),
        (lambda s: s.pull({"item": TWO[:, None]}), DataError, "must be one int64 array"),
        (
            lambda s: s.push({"other": (TWO, GOOD), "item": (TWO.astype(np.float64), GOOD)}, 0),
            DataError,
            "float64",
        ),
        (lambda s: s.delete({"other": TWO, "item": TWO.astype(np.int32)}), DataError, "keys are int32"),
        (
            lambda s: s.push({"other": (TWO, GOOD), "item": (TWO, GOOD[:, :2])}, 0),
            DataError,
            r"\(2, 2\), must be",
        ),
        (
            lambda s: s.push({"other": (TWO, GOOD), "item": (TWO, GOOD[:1])}, 0),
            DataError,
            r"must be float32 \(2, 3\)",
        ),
        (lambda s: s.push({"item": (TWO, GOOD.astype(np.float64))}, 0), DataError, "gradients are float64"),
        (
            lambda s: s.push({"other": (TWO, GOOD), "item": (TWO, with_cell(np.nan))}, 0),
            DataError,
            "NaN or infinite",
        ),
        (lambda s: s.push({"item": (TWO, with_cell(np.inf))}, 0), DataError, "NaN or infinite"),
        (lambda s: s.push({"item": (TWO, with_cell(-np.inf))}, 0), DataError, "NaN or infinite"),
    ],
)
def test_a_refused_call_says_why_and_changes_nothing(
    build: Build, kind: str, call: Callable[[RowStore], object], error: type[Exception], message: str
) -> None:
    store = build([group(kind), group(kind, "other")])
    store.push({"item": (TWO, GOOD), "other": (TWO[:1], GOOD[:1])}, 5)
    before = store.snapshot()
    with pytest.raises(error, match=message):
        call(store)
    after = store.snapshot()
    assert_same_snapshot(before, after)
    assert before.cursor == after.cursor


@pytest.mark.parametrize("key", [-1, ARRAY_ROWS, 2**63 - 1, -(2**63)])
def test_keys_outside_an_array_group_are_refused(build: Build, key: int) -> None:
    store = build([group("array")])
    keys = keys_of(1, 1025, key)
    store.push({"item": (TWO, GOOD)}, 5)
    before = store.snapshot()
    expected = rf"row group 'item': row key {key} is outside \[0, {ARRAY_ROWS}\)"
    for call in (
        lambda: store.pull({"item": keys}),
        lambda: store.push({"item": (keys, ones(keys))}, 0),
        lambda: store.delete({"item": keys}),
    ):
        with pytest.raises(DataError, match=expected):
            call()
    assert_same_snapshot(before, store.snapshot())


def test_a_snapshot_that_does_not_fit_is_refused_whole(build: Build, kind: str) -> None:
    adagrad = Adagrad(learning_rate=1.0)
    item, other = group(kind, optimizer=adagrad), group(kind, "other")
    store = build([item, other])
    store.push({"item": (TWO, GOOD), "other": (TWO, GOOD)}, 5)
    before = store.snapshot()
    fits = fresh_rows(other, TWO, GOOD)
    wide, plain = replace(item, width=4), replace(item, optimizer=SGD(learning_rate=1.0))
    refused: list[tuple[str, GroupSnapshot, str]] = [
        ("itme", fits, "unknown row group 'itme'"),
        ("item", fresh_rows(wide, TWO, ones(TWO, 4)), "the snapshot's rows are 4 wide, not 3"),
        ("item", fresh_rows(plain, TWO, GOOD), r"state is \[\], this optimizer's is \['sum'\]"),
    ]
    if kind == "array":
        refused.append(("item", fresh_rows(item, keys_of(1, ARRAY_ROWS), GOOD), "outside"))
    for name, part, message in refused:
        with pytest.raises((ConfigError, DataError), match=message):
            store.restore(Snapshot((9,), {"other": fits, name: part}))
        assert_same_snapshot(before, store.snapshot())


# --- any sequence of calls, against a dict


@dataclass
class OracleRow:
    """One row as the store should have it: Adagrad in plain numpy, a row at a time."""

    row_W: npt.NDArray[np.floating[Any]]
    sum_W: npt.NDArray[np.floating[Any]]
    event_time_ms: int


class StoreAgainstDict(RuleBasedStateMachine):
    """Pushes, deletes, consumers that may crash before they acknowledge, snapshots onto other stores."""

    groups: ClassVar[list[RowGroup]] = [
        group("array", "a", width=2, optimizer=Adagrad(learning_rate=0.5), seed=1),
        group("collisionless", "c", width=1, optimizer=Adagrad(learning_rate=0.5), seed=2),
    ]

    start: ClassVar[str]  # the name of the store to begin with

    @initialize()
    def begin(self) -> None:
        self.store = STORES[self.start](self.groups)
        self.rows: dict[str, dict[int, OracleRow]] = {"a": {}, "c": {}}
        self.clocks = {"a": -1, "c": -1}
        self.snapshots: list[tuple[Snapshot, dict[str, dict[int, OracleRow]], dict[str, int]]] = []
        self.mirrors: dict[str, dict[tuple[str, int], list[float]]] = {"first": {}, "second": {}}

    keys = st.fixed_dictionaries(
        {
            "a": st.lists(st.sampled_from(KEYS["array"].tolist()), max_size=6),
            "c": st.lists(st.sampled_from(KEYS["collisionless"].tolist()), max_size=6),
        }
    )

    @rule(keys=keys, seed=st.integers(0, 9), event_time_ms=st.integers(0, 100))
    def push(self, keys: dict[str, list[int]], seed: int, event_time_ms: int) -> None:
        generator = np.random.default_rng(seed)
        gradients = {}
        for described in self.groups:
            keys_N = np.array(keys[described.name], np.int64)
            gradients_NW = generator.standard_normal((len(keys_N), described.width)).astype(np.float32)
            gradients[described.name] = (keys_N, gradients_NW)
            self.expect_push(described, keys_N, gradients_NW, event_time_ms)
        self.store.push(gradients, event_time_ms)

    def expect_push(self, described: RowGroup, keys_N: Keys, gradients_NW: Floats, event_time_ms: int) -> None:
        rows = self.rows[described.name]
        self.clocks[described.name] = max(self.clocks[described.name], event_time_ms)
        sums: dict[int, Floats] = {}
        for key, gradient_W in zip(keys_N.tolist(), gradients_NW, strict=True):
            sums[key] = sums.get(key, np.zeros_like(gradient_W)) + gradient_W
        for key, gradient_W in sums.items():
            if key not in rows:
                initial_W = described.initial.rows(keys_of(key), described.width, described.seed)[0]
                rows[key] = OracleRow(initial_W, np.zeros_like(initial_W), 0)
            row = rows[key]
            row.sum_W = row.sum_W + gradient_W * gradient_W
            row.row_W = row.row_W - np.float32(0.5) * (gradient_W / (np.sqrt(row.sum_W) + np.float32(1e-10)))
            row.event_time_ms = self.clocks[described.name]

    @rule(keys=keys)
    def delete(self, keys: dict[str, list[int]]) -> None:
        self.store.delete({name: np.array(part, np.int64) for name, part in keys.items()})
        for name, part in keys.items():
            for key in part:
                self.rows[name].pop(key, None)

    @rule(consumer=st.sampled_from(["first", "second"]), crash=st.booleans())
    def consume(self, consumer: str, crash: bool) -> None:
        """A mirror that applies all changes ends as the store is, though it may see some of them twice."""
        changes = self.store.changes(consumer)
        mirror = self.mirrors[consumer]
        for name, key in list(mirror):
            if name in changes.complete:
                del mirror[name, key]
        for name, upserts in changes.upserts.items():
            for key, row_W in zip(upserts.keys_U.tolist(), upserts.rows_UW.tolist(), strict=True):
                mirror[name, key] = row_W
        for name, deletes in changes.deletes.items():
            for key in deletes.keys_U.tolist():
                mirror.pop((name, key), None)
        assert mirror == self.expected_mirror()
        if not crash:
            self.store.acknowledge(consumer, changes.cursor)

    @rule()
    def snapshot(self) -> None:
        self.snapshots.append((self.store.snapshot(), self.copied(), dict(self.clocks)))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 99))
    def restore_in_place(self, which: int) -> None:
        snapshot, self.rows, clocks = self.snapshots[which % len(self.snapshots)]
        self.rows, self.clocks = self.copied(), dict(clocks)
        self.store.restore(snapshot)

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 99), name=st.sampled_from(list(STORES)))
    def restore_elsewhere(self, which: int, name: str) -> None:
        snapshot, self.rows, clocks = self.snapshots[which % len(self.snapshots)]
        self.rows, self.clocks = self.copied(), dict(clocks)
        self.store = STORES[name](self.groups)
        self.store.restore(snapshot)
        self.mirrors = {"first": {}, "second": {}}  # a new store's consumers start anew

    @invariant()
    def rows_and_state_are_the_dicts(self) -> None:
        snapshot = self.store.snapshot()
        for described in self.groups:
            part, rows = snapshot.groups[described.name], self.rows[described.name]
            assert sorted(part.keys_U.tolist()) == sorted(rows)
            assert self.store.num_rows()[described.name] == len(rows)
            for i, key in enumerate(part.keys_U.tolist()):
                np.testing.assert_array_equal(part.rows_UW[i], rows[key].row_W)
                np.testing.assert_array_equal(part.state["sum"][i], rows[key].sum_W)
                assert part.event_times_U[i] == rows[key].event_time_ms

    @rule()
    def pull(self) -> None:
        asked = {"a": KEYS["array"], "c": KEYS["collisionless"]}
        pulled = self.store.pull(asked)
        for described in self.groups:
            keys_N = asked[described.name]
            initial_NW = described.initial.rows(keys_N, described.width, described.seed)
            for key, row_W, initial_W in zip(keys_N.tolist(), pulled[described.name], initial_NW, strict=True):
                row = self.rows[described.name].get(key)
                np.testing.assert_array_equal(row_W, initial_W if row is None else row.row_W)

    def copied(self) -> dict[str, dict[int, OracleRow]]:
        return {name: {key: replace(row) for key, row in part.items()} for name, part in self.rows.items()}

    def expected_mirror(self) -> Mapping[tuple[str, int], list[float]]:
        return {(name, key): row.row_W.tolist() for name, part in self.rows.items() for key, row in part.items()}


@pytest.mark.parametrize("name", list(STORES))
def test_any_sequence_of_calls_leaves_what_a_dict_would_hold(name: str) -> None:
    run_state_machine_as_test(
        type("StartedStore", (StoreAgainstDict,), {"start": name}),
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
