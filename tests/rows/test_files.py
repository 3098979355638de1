"""Snapshots in files: whole and incremental, against the store they came from; links that are missing or altered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.ps.client import LocalShard, ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.rows.files import apply, load_rows, save_rows
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import Adam, RowWiseAdagrad
from recsys.rows.policies import Eviction, FrequencyAdmission
from recsys.rows.store import GroupSnapshot, RowGroup, RowStore, Snapshot

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


def saved(store: RowStore, folder: Path, base: Path | None = None, since: Any = None) -> Any:
    snapshot = store.snapshot(since)
    save_rows(folder, snapshot, base)
    store.acknowledge(CHECKPOINT, snapshot.cursor)
    return snapshot.cursor


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


def test_a_whole_snapshot_comes_back(tmp_path: Path, build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(20))
    saved(store, tmp_path / "a")
    assert_same(load_rows(tmp_path / "a"), store.snapshot())
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert len(store.snapshot().groups["rich/../é"].candidate_keys_C) > 0


@pytest.mark.parametrize("target", list(STORES))
def test_a_chain_of_increments_is_the_store(tmp_path: Path, build: Callable[[], RowStore], target: str) -> None:
    """And training goes on from it as from the store, on any split of the keys."""
    store = build()
    train(store, range(10))
    cursor = saved(store, tmp_path / "0")
    for link in range(1, 4):
        train(store, range(10 * link, 10 * link + 3))
        if link == 2:
            store.push({}, 0)
        cursor = saved(store, tmp_path / str(link), tmp_path / str(link - 1), cursor)
    whole = store.snapshot()
    assert_same(load_rows(tmp_path / "3"), whole)
    increment = pq.read_table(tmp_path / "3" / "rows-2.parquet")
    assert 0 < increment.num_rows < len(whole.groups["array"].keys_U)
    other = STORES[target]()
    other.restore(load_rows(tmp_path / "3"))
    for each in (store, other):
        train(each, range(50, 56))
    one, two = store.snapshot(), other.snapshot()
    for name in one.groups:
        assert columns(one.groups[name]) == columns(two.groups[name])


def test_a_chain_saved_again_is_one_whole_snapshot(tmp_path: Path, build: Callable[[], RowStore]) -> None:
    store = build()
    train(store, range(5))
    cursor = saved(store, tmp_path / "0")
    train(store, range(5, 8))
    saved(store, tmp_path / "1", tmp_path / "0", cursor)
    save_rows(tmp_path / "compact", load_rows(tmp_path / "1"))
    for folder in ("0", "1"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    assert_same(load_rows(tmp_path / "compact"), store.snapshot())


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


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """Three folders: 0, and 1 and 2 that add to the one before."""
    store = LocalRows(GROUPS)
    cursor, base = None, None
    for link in range(3):
        train(store, range(3 * link, 3 * link + 3))
        cursor = saved(store, tmp_path / str(link), base, cursor)
        base = tmp_path / str(link)
    return tmp_path


@pytest.mark.parametrize("folder", ["0", "1", "2"])
def test_an_altered_file_anywhere_in_the_chain_is_named(chain: Path, folder: str) -> None:
    path = chain / folder / "rows-1.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"{path} is missing or altered; restore it"):
        load_rows(chain / "2")


def test_a_missing_base_and_another_in_its_place(chain: Path) -> None:
    (chain / "1").rename(chain / "gone")
    with pytest.raises(DataError, match=rf"adds to {chain / '1'}, which is missing or another one"):
        load_rows(chain / "2")
    store = LocalRows(GROUPS)
    train(store, range(1))
    save_rows(chain / "1", store.snapshot())
    with pytest.raises(DataError, match="missing or another one; restore it, or a later whole one"):
        load_rows(chain / "2")


def test_an_increment_needs_the_base_of_its_instant(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = LocalRows(GROUPS)
    train(store, range(3))
    cursor = store.snapshot().cursor
    store.acknowledge(CHECKPOINT, cursor)
    train(store, range(3, 4))
    increment = store.snapshot(cursor)
    with pytest.raises(DataError, match="need the folder of that instant, beside"):
        save_rows(chain / "3", increment)
    with pytest.raises(DataError, match="need the folder of that instant, beside"):
        save_rows(tmp_path_factory.mktemp("elsewhere") / "3", increment, chain / "0")
    with pytest.raises(DataError, match=r"is of \(.*,\), the increment of after"):
        save_rows(chain / "3", increment, chain / "2")
    assert not (chain / "3").exists()


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


def test_no_snapshot_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no snapshot in .*: manifest\.json is not there"):
        load_rows(tmp_path / "nothing")
