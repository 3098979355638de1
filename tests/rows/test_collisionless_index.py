"""The collisionless index against a dict, on keys chosen to collide."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.rows import kernels
from recsys.rows.collisionless import CollisionlessIndex

MASK = 63  # of the tables below: 64 cells


def unmix(mixed: int) -> int:
    """The int64 key whose mixed hash is ``mixed``, for seed 0: SplitMix64's finaliser undone."""
    z = mixed
    z = (z ^ (z >> 31) ^ (z >> 62)) * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    z = (z ^ (z >> 27) ^ (z >> 54)) * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    z = z ^ (z >> 30) ^ (z >> 60)
    return z - 2**64 if z >= 2**63 else z


def colliding(cell: int, count: int) -> list[int]:
    """Keys with one home cell in a table of 64 cells."""
    return [unmix(i * 64 + cell) for i in range(count)]


def checked(index: CollisionlessIndex, expected: dict[int, int], absent: list[int]) -> None:
    keys = np.array(list(expected), np.int64)
    assert index.find(keys).tolist() == list(expected.values())
    assert (index.find(np.array(absent, np.int64)) == -1).all()
    assert index.num_keys == len(expected) == len(set(expected.values()))
    assert dict(zip(*(column.tolist() for column in index.items()), strict=True)) == expected


def test_colliding_keys_do_collide() -> None:
    keys = np.array(colliding(62, 5), np.int64)
    table_keys, table_slots = np.zeros(64, np.int64), np.full(64, -1, np.int64)
    kernels.place(table_keys, table_slots, np.uint64(0), keys, np.arange(5))
    assert np.flatnonzero(table_slots >= 0).tolist() == [0, 1, 2, 62, 63]  # one run, around the end
    assert table_keys[[62, 63, 0, 1, 2]].tolist() == keys.tolist()


# two home cells one apart, so that runs interleave, at the end of the table, so that they wrap
POOL = colliding(62, 6) + colliding(63, 6) + colliding(0, 6)


@settings(max_examples=100, deadline=None)
@given(
    operations=st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(POOL), unique=True, max_size=8)), max_size=12)
)
def test_colliding_keys_against_a_dict(operations: list[tuple[bool, list[int]]]) -> None:
    index = CollisionlessIndex(capacity=38)  # 64 cells, at most 38 keys: no growth
    expected: dict[int, int] = {}
    for inserts, keys in operations:
        if inserts:
            slots = index.insert(np.array(keys, np.int64)).tolist()
            for key, slot in zip(keys, slots, strict=True):
                assert expected.setdefault(key, slot) == slot
        else:
            freed = index.delete(np.array(keys, np.int64)).tolist()
            assert freed == [expected.pop(key) for key in keys if key in expected]
        checked(index, expected, [key for key in POOL if key not in expected])


def test_extreme_keys_and_zero() -> None:
    index = CollisionlessIndex(capacity=4)
    keys = [0, -1, 2**63 - 1, -(2**63)]
    assert index.find(np.array(keys)).tolist() == [-1] * 4  # an empty cell holds no key, not key 0
    assert index.insert(np.array(keys)).tolist() == [0, 1, 2, 3]
    checked(index, dict(zip(keys, range(4), strict=True)), [1, 2**62])


def test_freed_slots_are_used_before_new_ones() -> None:
    index = CollisionlessIndex()
    index.insert(np.arange(10))
    assert sorted(index.delete(np.array([3, 5, 77])).tolist()) == [3, 5]
    assert sorted(index.insert(np.array([100, 101, 102])).tolist()) == [3, 5, 10]
    assert (index.num_slots, index.num_keys) == (11, 11)


def test_growth_keeps_slots() -> None:
    index = CollisionlessIndex(capacity=4)
    before = index.nbytes
    expected: dict[int, int] = {}
    for start in range(0, 5000, 500):
        keys = np.arange(start, start + 500) * 2**40
        expected.update(zip(keys.tolist(), index.insert(keys).tolist(), strict=True))
    checked(index, expected, [1, 2, 3])
    assert index.nbytes > before + 5000 * 16
    touched_again = index.nbytes
    index.insert(np.array(list(expected)))
    assert index.num_keys == 5000
    assert index.nbytes <= 2 * touched_again


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1])
def test_a_hundred_thousand_random_operations(seed: int) -> None:
    generator = np.random.default_rng(0)
    index = CollisionlessIndex(capacity=4, seed=seed)
    expected: dict[int, int] = {}
    for step in range(50):  # 50 steps of 700 keys, three operations each
        keys = np.unique(generator.integers(-2000, 2000, 700) * 2**47)
        if step % 3 == 2:
            freed = index.delete(keys).tolist()
            assert freed == [expected.pop(key) for key in keys.tolist() if key in expected]
        else:
            for key, slot in zip(keys.tolist(), index.insert(keys).tolist(), strict=True):
                assert expected.setdefault(key, slot) == slot
        asked = generator.integers(-2000, 2000, 1400) * 2**47
        assert index.find(asked).tolist() == [expected.get(key, -1) for key in asked.tolist()]
    checked(index, expected, [1, 3])
    assert index.num_slots <= 4000
