"""Deletions in bounded memory: what is forgotten makes a consumer be sent every row, and is never silently lost."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows import deletes
from recsys.rows.deletes import DeleteLog
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup, RowStore

GROUPS = [
    RowGroup(name=name, width=1, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.0)) for name in ("a", "b")
]


def test_the_latest_deletion_of_a_key_counts() -> None:
    log = DeleteLog()
    log.record(np.array([1, 2]), 3)
    log.record(np.array([2, 5]), 7)
    found = log.since(0)
    assert (found.keys_U.tolist(), found.sequences_U.tolist()) == ([1, 2, 5], [3, 7, 7])
    assert log.since(3).keys_U.tolist() == [2, 5]
    log.forget(3)
    assert log.since(0).keys_U.tolist() == [2, 5] and log.forgotten == 3
    assert log.nbytes == 32 and log.complete_from == 0


def test_beyond_the_most_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletes, "MAX_PENDING", 5)
    log = DeleteLog()
    for sequence in range(1, 5):
        log.record(np.array([2 * sequence, 2 * sequence + 1]), sequence)
    assert log.complete_from == 2 and log.since(2).keys_U.tolist() == [6, 7, 8, 9]
    assert log.nbytes <= 5 * 16


@pytest.mark.parametrize("num_shards", [None, 2])
def test_a_consumer_that_missed_deletions_is_sent_all_rows(
    num_shards: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the group where they were too many, on every shard; another consumer and another group are not disturbed."""
    monkeypatch.setattr(deletes, "MAX_PENDING", 6)
    store: RowStore = LocalRows(GROUPS)
    if num_shards is not None:
        shards = [
            LocalRows(GROUPS, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
            for shard in range(num_shards)
        ]
        store = ShardedRows(GROUPS, [LocalShard(shard) for shard in shards])
    keys = np.arange(100)
    ones = np.ones((100, 1), np.float32)
    store.push({"a": (keys, ones), "b": (keys, ones)}, 0)
    for consumer in ("slow", "quick"):
        store.acknowledge(consumer, store.changes(consumer).cursor)
    deleted = []
    for at in range(0, 30, 2):
        store.delete({"a": keys[at : at + 2], "b": keys[at : at + 1] if at < 4 else keys[:0]})
        changes = store.changes("quick")
        deleted += changes.deletes["a"].keys_U.tolist()
        assert not changes.complete
        store.acknowledge("quick", changes.cursor)
    assert sorted(deleted) == list(range(30))
    changes = store.changes("slow")
    assert changes.complete == {"a"}
    assert sorted(changes.upserts["a"].keys_U.tolist()) == list(range(30, 100))
    assert len(changes.deletes["a"].keys_U) == 0 and sorted(changes.deletes["b"].keys_U.tolist()) == [0, 2]
    assert len(changes.upserts["b"].keys_U) == 0
    assert store.changes("slow").complete == {"a"}  # until it is acknowledged
    store.acknowledge("slow", store.changes("slow").cursor)
    after = store.changes("slow")
    assert not after.complete and len(after.upserts["a"].keys_U) == 0


def test_memory_stays_bounded_when_nobody_acknowledges() -> None:
    store = LocalRows(GROUPS[:1])
    store.changes("gone")
    sizes = []
    for round_number in range(40):
        keys = np.arange(50_000) + 50_000 * round_number
        store.push({"a": (keys, np.ones((50_000, 1), np.float32))}, 0)
        store.delete({"a": keys})
        sizes.append(store.nbytes)
    assert max(sizes) < 16 * deletes.MAX_PENDING + 6_000_000
    assert store.changes("gone").complete == {"a"}


def test_a_store_that_lost_changes_tells_all_its_rows_as_newer_than_what_was_told() -> None:
    """It returned to a snapshot: what a consumer was told since must not win over what is there now."""
    group = RowGroup(name="item", width=1, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0))
    before = LocalRows([group])
    before.push({"item": (np.array([1, 2]), np.ones((2, 1), np.float32))}, 0)
    kept = before.snapshot()
    for _ in range(5):
        before.push({"item": (np.array([1, 3]), np.ones((2, 1), np.float32))}, 0)
    told = before.changes("redis")
    after = LocalRows([group])
    after.restore(replace(kept, cursor=(kept.cursor[0] + 1000,)))
    after.resend()
    after.acknowledge("redis", told.cursor)  # of what it was told before the loss
    again = after.changes("redis")
    assert again.complete == {"item"}
    assert dict(
        zip(again.upserts["item"].keys_U.tolist(), again.upserts["item"].rows_UW[:, 0].tolist(), strict=True)
    ) == {
        1: -1.0,
        2: -1.0,
    }
    assert again.upserts["item"].sequences_U.min() > told.upserts["item"].sequences_U.max()
