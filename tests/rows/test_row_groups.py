"""Row groups' configuration, initial rows, and the array index."""

from typing import Any

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.fields import build
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.rows.array import ArrayIndex
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup, by_name

ONE = SGD(learning_rate=1.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "row group 't': width 0 must be at least 1"),
        ({"num_rows": 0}, "row group 't': num_rows 0 must be at least 1"),
        ({"absent": "nothing"}, "row group 't': absent 'nothing' must be initial, zeros or missing"),
    ],
)
def test_groups_that_can_not_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RowGroup(**{"name": "t", "width": 2, "optimizer": ONE, **fields})


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_an_initial_scale_that_can_not_be(scale: float) -> None:
    with pytest.raises(ConfigError, match=r"^initial\.scale=.*: give a number of at least 0$"):
        build(Initial, {"scale": scale}, "initial")


def test_two_groups_of_one_name_must_be_equal() -> None:
    group = RowGroup(name="t", width=2, optimizer=ONE)
    assert by_name([group, RowGroup(name="t", width=2, optimizer=ONE)]) == {"t": group}
    with pytest.raises(ConfigError, match="two different row groups are named 't'"):
        LocalRows([group, RowGroup(name="t", width=3, optimizer=ONE)])


def test_initial_rows_are_uniform_and_each_tables_own() -> None:
    keys = np.arange(20_000)
    rows = Initial(scale=0.2).rows(keys, 4, seed=3)
    assert -0.2 <= rows.min() < -0.199 and 0.199 < rows.max() < 0.2
    assert abs(rows.mean()) < 0.002
    assert rows.std() == pytest.approx(0.2 / np.sqrt(3), rel=0.01)
    assert abs(np.corrcoef(rows.T) - np.eye(4)).max() < 0.03
    other = Initial(scale=0.2).rows(keys, 4, seed=4)
    assert abs(np.corrcoef(rows[:, 0], other[:, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("num_rows", [1, 5, 1024, 2500])
@pytest.mark.parametrize("num_shards", [1, 3])
def test_array_shards_hold_every_key_once(num_rows: int, num_shards: int) -> None:
    keys = np.arange(num_rows)
    found = []
    for shard in range(num_shards):
        buckets = shard_buckets(shard, num_shards)
        mine = keys[np.isin(keys % NUM_BUCKETS, list(buckets))]
        index = ArrayIndex(num_rows, buckets, NUM_BUCKETS)
        slots, new = index.insert(np.concatenate([mine, mine]))
        assert new.tolist() == list(range(len(mine)))  # the first of each key
        slots = slots[: len(mine)]
        assert len(set(slots.tolist())) == len(mine) == index.num_keys
        assert len(mine) == 0 or (slots.min() >= 0 and slots.max() < index.num_slots)
        chosen = np.full(-(-index.num_slots // 64), 0, np.uint64)
        for slot in slots.tolist():
            chosen[slot // 64] |= np.uint64(1 << slot % 64)
        back, same = index.items(chosen, len(mine))
        assert dict(zip(back.tolist(), same.tolist(), strict=True)) == dict(
            zip(mine.tolist(), slots.tolist(), strict=True)
        )
        found.extend(back.tolist())
    assert sorted(found) == keys.tolist()


def test_array_index_forgets_and_takes_back() -> None:
    index = ArrayIndex(8)
    index.insert(np.array([2, 5]))
    assert index.delete(np.array([5, 6])).tolist() == [5]
    assert index.find(np.array([2, 5])).tolist() == [2, -1]
    slots, new = index.insert(np.array([2, 5]))
    assert (slots.tolist(), new.tolist(), index.num_keys) == ([2, 5], [1], 2)
