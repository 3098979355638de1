"""Partitions of ids: stable for ever, the same one by one and all at once, and even."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.hashing import mix64, to_id
from recsys.streams.partitioner import partition_of, partitions_of

INT64 = st.integers(-(2**63), 2**63 - 1)


def test_partitions_never_change() -> None:
    # Topics written by an earlier version must be joined by a later one.
    ids: list[int | str] = [0, 1, -1, 2**63 - 1, "ann", "tt0114709"]
    assert [partition_of(id, 16) for id in ids] == [15, 1, 0, 7, 12, 8]


@given(st.lists(INT64 | st.text(min_size=1)), st.integers(1, 1000))
def test_one_by_one_is_all_at_once_is_mix64(ids: list[int | str], num_partitions: int) -> None:
    ids_N = np.array([to_id(id) for id in ids], dtype=np.int64)
    expected = [int(value) % num_partitions for value in mix64(ids_N)]
    assert partitions_of(ids_N, num_partitions).tolist() == expected
    assert [partition_of(id, num_partitions) for id in ids] == expected


def test_consecutive_ids_spread_evenly() -> None:
    counts = np.bincount(partitions_of(np.arange(80_000), 8))
    assert counts.min() > 9_600 and counts.max() < 10_400  # ±4 standard deviations of 94
