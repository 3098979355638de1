"""Snapshots in files: whole and incremental, against the store they came from; files that are missing or altered."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError, ServiceError
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.files import apply, read_part, write_part
from recsys.rows.folders import Folder
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adam, RowWiseAdagrad
from recsys.rows.policies import Eviction, FrequencyAdmission
from recsys.rows.store import Cursor, GroupSnapshot, RowGroup, RowStore, Snapshot

GROUPS = [
    RowGroup(name="plain", width=3, optimizer=RowWiseAdagrad(learning_rate=0.1)),
    RowGroup(
        name="rich/../é",
        width=2,
        optimizer=Adam(learning_rate=0.1, weight_decay=0.01),
        admission=FrequencyAdmission(occurrences=2, max_bytes=2**16),
        ttl_seconds=40,
        eviction=Eviction(kind="lfu", max_bytes=2**20),
        row_format="int8",
    ),
    RowGroup(name="array", width=1, optimizer=RowWiseAdagrad(learning_rate=0.1), num_rows=100),
]
CHECKPOINT = "checkpoint"  # the consumer that takes increments


def sharded(num_shards: int) -> ShardedRows:
    shards = [
        LocalRows(GROUPS, buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]
    return ShardedRows(GROUPS, [LocalShard(shard) for shard in shards])


STORES: dict[str, Callable[[], RowStore]] = {"local": lambda: LocalRows(GROUPS), "3 shards": lambda: sharded(3)}


@pytest.fixture(params=list(STORES))
def build(request: pytest.FixtureRequest) -> Callable[[], RowStore]:
    return STORES[request.param]


def train(store: RowStore, steps: range) -> None:
    """Pushes and deletes, the same for the same steps."""
    for step in steps:
        generator = np.random.default_rng(step)
        gradients = {}
        for group in GROUPS:
            keys = generator.integers(0, 100, 30)
            gradients[group.name] = (keys, generator.standard_normal((30, group.width)).astype(np.float32))
        store.push(gradients, 1000 * step)
        store.delete({group.name: generator.integers(0, 100, 3) for group in GROUPS})


def saved(store: RowStore, folder: Folder, prefix: str, since: Cursor | None = None) -> dict[str, Any]:
    """A part of everything, or of what changed since; as it is after a manifest has carried it."""
    snapshot = store.snapshot(since)
    described = write_part(folder, prefix, snapshot)
    store.acknowledge(CHECKPOINT, snapshot.cursor)
    assert json.loads(json.dumps(described)) == described
    return described


def loaded(folder: Folder, chain: list[dict[str, Any]]) -> Snapshot:
    return reduce(apply, [read_part(folder, described) for described in chain])


def columns(group: GroupSnapshot) -> dict[str, Any]:
    """All of a group in the order of keys."""
    order, waiting = np.argsort(group.keys_U), np.argsort(group.candidate_keys_C)
    own = {} if group.own_steps_U is None else {"own_steps": group.own_steps_U[order].tolist()}
    return {
        "keys": group.keys_U[order].tolist(),
        "rows": group.rows_UW[order].tolist(),
        "times": group.event_times_U[order].tolist(),
        "sequences": group.sequences_U[order].tolist(),
        "time_ms": group.time_ms,
        "num_steps": group.num_steps,
        "candidates": (group.candidate_keys_C[waiting].tolist(), group.candidate_counts_C[waiting].tolist()),
        "deleted": group.deleted_keys_D.tolist(),
        **own,
        **{name: values[order].tolist() for name, values in group.state.items()},
    }


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert one.cursor == other.cursor and one.since == other.since and one.groups.keys() == other.groups.keys()
    for name in one.groups:
        assert columns(one.groups[name]) == columns(other.groups[name])


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.of(tmp_path)


def test_a_whole_snapshot_comes_back(folder: Folder, build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(20))
    described = saved(store, folder, "a")
    assert_same(read_part(folder, described), store.snapshot())
    assert len(store.snapshot().groups["rich/../é"].candidate_keys_C) > 0
    assert folder.sizes() == {name: sums["bytes"] for name, sums in described["files"].items()}
    assert folder.names() == ["a-candidates-1.parquet", "a-rows-0.parquet", "a-rows-1.parquet", "a-rows-2.parquet"]


@pytest.mark.parametrize("target", list(STORES))
def test_a_chain_of_increments_is_the_store(folder: Folder, build: Callable[[], RowStore], target: str) -> None:
    """And training goes on from it as from the store, on any split of the keys."""
    store = build()
    train(store, range(10))
    chain = [saved(store, folder, "0")]
    for link in range(1, 4):
        train(store, range(10 * link, 10 * link + 3))
        if link == 2:
            store.push({}, 0)
        chain.append(saved(store, folder, str(link), tuple(chain[-1]["cursor"])))
        assert chain[-1]["since"] == chain[-2]["cursor"]
    whole = store.snapshot()
    assert_same(loaded(folder, chain), whole)
    increment = pq.read_table(f"{folder}/3-rows-2.parquet")
    assert 0 < increment.num_rows < len(whole.groups["array"].keys_U)
    other = STORES[target]()
    other.restore(loaded(folder, chain))
    for each in (store, other):
        train(each, range(50, 56))
    one, two = store.snapshot(), other.snapshot()
    for name in one.groups:
        assert columns(one.groups[name]) == columns(two.groups[name])


def test_a_chain_saved_again_is_one_whole_snapshot(folder: Folder, build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(5))
    whole = saved(store, folder, "0")
    train(store, range(5, 8))
    chain = [whole, saved(store, folder, "1", tuple(whole["cursor"]))]
    compact = write_part(folder, "compact", loaded(folder, chain))
    for described in chain:
        for name in described["files"]:
            folder.remove_file(name)
    assert_same(read_part(folder, compact), store.snapshot())


def test_several_write_to_one_folder_at_once(folder: Folder) -> None:
    """As shards do, each from its own thread; 1 and 10 have names of their own."""
    stores = []
    for seed in range(12):
        stores.append(LocalRows(GROUPS))
        train(stores[-1], range(seed, seed + 2))
    snapshots = [store.snapshot() for store in stores]
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(partial(write_part, folder), [f"shard-{at}" for at in range(12)], snapshots))
    assert len({name for part in parts for name in part["files"]}) == len(folder.names())
    for part, snapshot in zip(parts, snapshots, strict=True):
        assert_same(read_part(folder, part), snapshot)


def test_deletions_that_are_not_remembered_make_the_snapshot_whole(build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(5))
    cursor = store.snapshot().cursor
    store.acknowledge("other", store.changes("other").cursor)
    train(store, range(5, 8))
    store.acknowledge("other", store.changes("other").cursor)  # the only consumer: its deletions are forgotten
    assert store.snapshot(cursor).since is None
    store.restore(store.snapshot())
    assert store.snapshot(store.snapshot().cursor).since is not None


def test_an_increment_is_applied_to_its_base() -> None:
    store = LocalRows(GROUPS)
    train(store, range(3))
    base = store.snapshot()
    store.acknowledge(CHECKPOINT, base.cursor)
    store.push({"plain": (np.array([1000]), np.ones((1, 3), np.float32))}, 5)
    store.delete({"plain": base.groups["plain"].keys_U[:2]})
    increment = store.snapshot(base.cursor)
    assert increment.groups["plain"].keys_U.tolist() == [1000]
    assert sorted(increment.groups["plain"].deleted_keys_D.tolist()) == sorted(base.groups["plain"].keys_U[:2].tolist())
    assert len(increment.groups["array"].keys_U) == 0
    assert_same(apply(base, increment), store.snapshot())


# --- what can go wrong


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "one bit", "longer", "another's"])
def test_a_damaged_file_is_named(folder: Folder, damage: str) -> None:
    store = LocalRows(GROUPS)
    train(store, range(3))
    whole = saved(store, folder, "0")
    train(store, range(3, 5))
    described = saved(store, folder, "1", tuple(whole["cursor"]))
    names = list(described["files"])
    assert {name.split("-")[1] for name in names} == {"rows", "candidates", "deleted"}
    for name in names:
        path, other = Path(f"{folder}/{name}"), Path(f"{folder}/{names[names.index(name) - 1]}")
        intact = path.read_bytes()
        damaged = {
            "truncated": intact[:-1],
            "empty": b"",
            "one bit": flipped(intact, len(intact) // 2),
            "longer": intact + b"\0",
            "another's": other.read_bytes(),
        }
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(damaged[damage])
        with pytest.raises(DataError) as raised:
            read_part(folder, described)
        assert str(raised.value).startswith(f"{path} is {'missing' if damage == 'missing' else 'altered (it'}")
        path.write_bytes(intact)
    read_part(folder, described)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_part_that_can_not_be_written_leaves_nothing(folder: Folder) -> None:
    """So that a full disk has room again. Other parts stay."""
    store = LocalRows(GROUPS)
    train(store, range(3))
    other = saved(store, folder, "other")
    names = folder.names()
    for refused in ("a-rows-0", "a-candidates-1", "a-rows-2"):
        full = Path(f"{folder}/{refused}.parquet")
        full.symlink_to("/dev/full")
        with pytest.raises(ServiceError, match=f"could not write {full}: No space left on device"):
            write_part(folder, "a", store.snapshot())
        assert folder.names() == names
    assert_same(read_part(folder, other), store.snapshot())


def test_an_increment_alone_is_not_restored(build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(3))
    cursor = store.snapshot().cursor
    store.acknowledge(CHECKPOINT, cursor)
    train(store, range(3, 4))
    before = store.snapshot()
    with pytest.raises(DataError, match=r"holds what changed after .*; apply it to that one, then restore"):
        store.restore(store.snapshot(cursor))
    assert_same(store.snapshot(), before)
