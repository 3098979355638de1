"""Which shard holds a key, and snapshots that move between numbers of shards."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from recsys.errors import ConfigError
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, merge_snapshots, shard_buckets, shards_of, split_snapshot
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adam
from recsys.rows.store import GroupSnapshot, RowGroup, Snapshot

ARRAY = RowGroup(name="a", width=2, optimizer=Adam(learning_rate=0.1), num_rows=5000)
MAP = RowGroup(name="c", width=3, optimizer=Adam(learning_rate=0.1), seed=9)
GROUPS = {"a": ARRAY, "c": MAP}


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7, NUM_BUCKETS])
def test_shards_own_every_bucket_once_and_evenly(num_shards: int) -> None:
    owned = [shard_buckets(shard, num_shards) for shard in range(num_shards)]
    assert sorted(bucket for buckets in owned for bucket in buckets) == list(range(NUM_BUCKETS))
    sizes = {len(buckets) for buckets in owned}
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("num_shards", [0, -1, NUM_BUCKETS + 1])
def test_impossible_numbers_of_shards(num_shards: int) -> None:
    with pytest.raises(ConfigError, match=f"{num_shards} shards: there must be 1 to 1024"):
        shard_buckets(0, num_shards)


@pytest.mark.parametrize("num_shards", [1, 2, 3, 7])
def test_keys_go_to_the_shard_that_owns_their_bucket(num_shards: int) -> None:
    keys = np.arange(5000)
    for shard, key in zip(shards_of(ARRAY, keys, num_shards), keys, strict=True):
        assert key % NUM_BUCKETS in shard_buckets(int(shard), num_shards)


def test_a_small_array_is_spread_over_the_shards() -> None:
    shards = shards_of(ARRAY, np.arange(9), 3)
    assert np.bincount(shards).tolist() == [3, 3, 3]


@pytest.mark.parametrize("stride", [1, 4096, 2**40])
@pytest.mark.parametrize("num_shards", [2, 3, 7])
def test_a_maps_keys_spread_evenly_whatever_their_pattern(num_shards: int, stride: int) -> None:
    num_keys = 21_000
    keys = np.arange(-num_keys // 2, num_keys // 2) * stride
    counts = np.bincount(shards_of(MAP, keys, num_shards), minlength=num_shards)
    expected = num_keys / num_shards
    assert abs(counts - expected).max() < 5 * np.sqrt(expected)  # five standard deviations, about


def test_an_arrays_keys_spread_evenly() -> None:
    counts = np.bincount(shards_of(ARRAY, np.arange(5 * NUM_BUCKETS), 3))
    assert counts.tolist() == [5 * 342, 5 * 341, 5 * 341]


def trained() -> Snapshot:
    store = LocalRows([ARRAY, MAP])
    generator = np.random.default_rng(0)
    for step in range(3):
        store.push(
            {
                "a": (np.arange(step, 5000, 7), generator.random((len(range(step, 5000, 7)), 2), np.float32)),
                "c": (generator.integers(-(2**63), 2**63 - 1, 300), generator.random((300, 3), np.float32)),
            },
            event_time_ms=step,
        )
    return store.snapshot()


@pytest.mark.parametrize("first", [1, 2, 5])
@pytest.mark.parametrize("second", [1, 3])
def test_splitting_and_merging_changes_nothing(first: int, second: int) -> None:
    original = trained()
    once = split_snapshot(original, GROUPS, first)
    merged = merge_snapshots(split_snapshot(merge_snapshots(once), GROUPS, second))
    assert len(once) == first
    for shard, part in enumerate(once):
        for name, group in part.groups.items():
            assert (shards_of(GROUPS[name], group.keys_U, first) == shard).all()
    for name, before in original.groups.items():
        after = merged.groups[name]
        one, other = np.argsort(before.keys_U), np.argsort(after.keys_U)
        for a, b in zip(columns(before), columns(after), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a[one], b[other])
    newest = max(int(group.sequences_U.max()) for group in original.groups.values())
    assert {part.cursor for part in once} == {(newest,)}


def columns(group: GroupSnapshot) -> list[npt.NDArray[Any]]:
    state = [group.state[name] for name in sorted(group.state)]
    return [group.keys_U, group.rows_UW, group.event_times_U, group.sequences_U, *state]


def test_a_client_needs_a_shard() -> None:
    with pytest.raises(ConfigError, match="at least one shard"):
        ShardedRows([RowGroup(name="t", width=1, optimizer=SGD(learning_rate=1.0))], [])
