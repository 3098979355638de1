"""Which shard holds a key: key → one of a fixed number of virtual buckets → shard.

The bucket depends on the key alone, so a snapshot restores onto any number of shards; a shard owns every n-th bucket.
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from recsys import hashing
from recsys.errors import ConfigError
from recsys.hashing import Keys
from recsys.rows.store import GroupSnapshot, RowGroup, Snapshot

NUM_BUCKETS = 1024


def shard_buckets(shard: int, num_shards: int) -> range:
    """The buckets that a shard owns: every ``num_shards``-th, so that neighbouring keys of an array are spread.

    >>> [shard_buckets(shard, 3) for shard in range(3)]
    [range(0, 1024, 3), range(1, 1024, 3), range(2, 1024, 3)]
    """
    if not 1 <= num_shards <= NUM_BUCKETS:
        raise ConfigError(f"{num_shards} shards: there must be 1 to {NUM_BUCKETS}")
    return range(shard, NUM_BUCKETS, num_shards)


def shards_of(group: RowGroup, keys_N: Keys, num_shards: int) -> npt.NDArray[np.int64]:
    """The shard of each key. Array groups go by key mod buckets (their slots are packed so), maps by hash."""
    if group.num_rows is None:
        buckets_N = hashing.hash_to_range(keys_N, NUM_BUCKETS, seed=group.seed)
    else:
        buckets_N = keys_N % NUM_BUCKETS
    return (np.arange(NUM_BUCKETS) % num_shards).take(buckets_N)  # looked up: a third of the time of dividing


def split_snapshot(snapshot: Snapshot, groups: dict[str, RowGroup], num_shards: int) -> list[Snapshot]:
    """A snapshot cut into one for each shard; all go on counting from the same sequence number."""
    newest = [int(group.sequences_U.max(initial=0)) for group in snapshot.groups.values()]
    cursor = (max(0, *snapshot.cursor, *newest),)
    shards: list[dict[str, GroupSnapshot]] = [{} for _ in range(num_shards)]
    for name, group in snapshot.groups.items():
        for shard in range(num_shards):
            shards[shard][name] = group.select(partial(belongs, groups[name], shard, num_shards))
    return [Snapshot(cursor, parts) for parts in shards]


def merge_snapshots(parts: list[Snapshot]) -> Snapshot:
    """The shards' snapshots as one."""
    groups = {name: _concatenated([part.groups[name] for part in parts]) for name in parts[0].groups}
    return Snapshot(tuple(sequence for part in parts for sequence in part.cursor), groups)


def belongs(group: RowGroup, shard: int, num_shards: int, keys_N: Keys) -> npt.NDArray[np.bool_]:
    """Which keys are a shard's."""
    return shards_of(group, keys_N, num_shards) == shard


def _steps(parts: list[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def _concatenated(parts: list[GroupSnapshot]) -> GroupSnapshot:
    return GroupSnapshot(
        np.concatenate([part.keys_U for part in parts]),
        np.concatenate([part.rows_UW for part in parts]),
        {name: np.concatenate([part.state[name] for part in parts]) for name in parts[0].state},
        np.concatenate([part.event_times_U for part in parts]),
        np.concatenate([part.sequences_U for part in parts]),
        time_ms=max(part.time_ms for part in parts),
        num_steps=max(part.num_steps for part in parts),
        own_steps_U=_steps([part.own_steps_U for part in parts]),
        candidate_keys_C=np.concatenate([part.candidate_keys_C for part in parts]),
        candidate_counts_C=np.concatenate([part.candidate_counts_C for part in parts]),
        candidate_errors_C=np.concatenate([part.candidate_errors_C for part in parts]),
        deleted_keys_D=np.concatenate([part.deleted_keys_D for part in parts]),
    )
