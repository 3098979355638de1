"""The collisionless index against a dict, on keys chosen to collide, and the invariants of its buckets."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.hashing import Keys, mix64
from recsys.rows import buckets
from recsys.rows.collisionless import CollisionlessIndex

GOLDEN = 0x9E3779B97F4A7C15  # hashing.mix64 adds it, the index does not


def unmix(mixed: int) -> int:
    """The int64 key whose hash in an index of seed 0 is ``mixed``: SplitMix64's finaliser undone."""
    z = mixed
    z = (z ^ (z >> 31) ^ (z >> 62)) * pow(0x94D049BB133111EB, -1, 2**64) % 2**64
    z = (z ^ (z >> 27) ^ (z >> 54)) * pow(0xBF58476D1CE4E5B9, -1, 2**64) % 2**64
    z = z ^ (z >> 30) ^ (z >> 60)
    return z - 2**64 if z >= 2**63 else z


def hash_of(key: int) -> int:
    """The hash of a key in an index of seed 0."""
    return int(mix64(np.array([(key - GOLDEN + 2**63) % 2**64 - 2**63], np.int64))[0])


def colliding(segment: int, low: int, count: int) -> list[int]:
    """Keys of one segment with one home bucket, whatever the number of buckets, and with any counter."""
    return [unmix(segment << 54 | number << 40 | low) for number in range(count)]


def everything(index: CollisionlessIndex) -> dict[int, int]:
    chosen = np.full(index.num_slots // 64 + 1, 2**64 - 1, np.uint64)
    keys, slots = index.items(chosen, index.num_keys)
    return dict(zip(keys.tolist(), slots.tolist(), strict=True))


def check_buckets(index: CollisionlessIndex, segments: Sequence[int] = range(1024)) -> None:
    """Cells are used from the left, and each bucket counts the keys that passed it, by the three bits of their hash."""
    words = index._buckets.reshape(-1, buckets.WORDS)
    halves = index._halves.reshape(-1, 2 * buckets.WORDS)
    for segment in segments:
        start, length = int(index._starts[segment]), int(index._lengths[segment])
        passed: Counter[tuple[int, int]] = Counter()
        for bucket in range(length):
            slots = halves[start + bucket, 10:15]
            used = int((slots != 0).sum())
            assert (slots[:used] != 0).all()
            for key in words[start + bucket, :used].view(np.int64).tolist():
                mixed = hash_of(key)
                assert mixed >> 54 == segment
                at = (mixed & 0xFFFFFFFF) * length >> 32
                while at != bucket:
                    passed[at, (mixed >> 40) & 7] += 1
                    at = (at + 1) % length
        for bucket in range(length):
            for counter in range(8):
                counted = int(halves[start + bucket, 15]) >> 4 * counter & 15
                assert counted == passed[bucket, counter] or counted == 15


def check(index: CollisionlessIndex, expected: dict[int, int], absent: list[int]) -> None:
    keys = np.array(list(expected), np.int64)
    assert index.find(keys).tolist() == list(expected.values())
    assert (index.find(np.array(absent, np.int64)) == -1).all()
    assert index.num_keys == len(expected) == len(set(expected.values()))
    assert everything(index) == expected


def test_colliding_keys_do_collide() -> None:
    hashes = [hash_of(key) for key in colliding(7, 5, 20)]
    assert {mixed >> 54 for mixed in hashes} == {7} and {mixed & 0xFFFFFFFF for mixed in hashes} == {5}
    assert {(mixed >> 40) & 7 for mixed in hashes} == set(range(8))


SEGMENT = 1023
# Homes in the last bucket, so that those who find it full lie in the first ones; and in the first.
POOL = colliding(SEGMENT, 2**32 - 1, 20) + colliding(SEGMENT, 0, 20)
# Others, so that a segment has four buckets when the pool comes.
OTHERS = np.array([unmix(at % 1023 << 54 | at * 2654435761 % 2**32) for at in range(12 * 1023)], np.int64)
Steps = list[tuple[bool, list[int]]]


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), st.lists(st.sampled_from(POOL), max_size=30)), max_size=8))
def test_colliding_keys_against_a_dict(steps: Steps) -> None:
    index, expected = CollisionlessIndex(), dict[int, int]()
    expected.update(zip(OTHERS.tolist(), index.insert(OTHERS)[0].tolist(), strict=True))
    for inserts, keys in steps:
        if inserts:
            slots, new = index.insert(np.array(keys, np.int64))
            assert [keys[at] for at in sorted(new.tolist())] == [k for k in dict.fromkeys(keys) if k not in expected]
            for key, slot in zip(keys, slots.tolist(), strict=True):
                assert expected.setdefault(key, slot) == slot
        else:
            freed = index.delete(np.unique(np.array(keys, np.int64))).tolist()
            assert sorted(freed) == sorted(expected.pop(key) for key in set(keys) if key in expected)
        pool = {key: slot for key, slot in expected.items() if key in POOL}
        assert index.find(np.array(POOL)).tolist() == [pool.get(key, -1) for key in POOL]
        check_buckets(index, [SEGMENT])
    assert everything(index) == expected


def test_extreme_keys_and_zero() -> None:
    index = CollisionlessIndex()
    keys = [0, -1, 2**63 - 1, -(2**63)]
    assert index.find(np.array(keys)).tolist() == [-1] * 4  # an unused cell holds no key, not key 0
    assert index.insert(np.array(keys))[0].tolist() == [0, 1, 2, 3]
    check(index, dict(zip(keys, range(4), strict=True)), [1, 2**62])


def test_freed_slots_are_used_before_new_ones() -> None:
    index = CollisionlessIndex()
    index.insert(np.arange(10))
    assert sorted(index.delete(np.array([3, 5, 77])).tolist()) == [3, 5]
    assert sorted(index.insert(np.array([100, 101, 102]))[0].tolist()) == [3, 5, 10]
    assert (index.num_slots, index.num_keys) == (11, 11)


def test_a_repeated_new_key_takes_one_slot() -> None:
    index = CollisionlessIndex()
    slots, new = index.insert(np.array([8, 9, 8, 8, 9]))
    assert (slots.tolist(), new.tolist()) == ([0, 1, 0, 0, 1], [0, 1])
    assert (index.num_slots, index.num_keys) == (2, 2)


def test_only_chosen_slots_are_listed() -> None:
    index = CollisionlessIndex()
    index.insert(np.arange(100, 200))
    keys, slots = index.items(np.array([1 << 3 | 1 << 63, 1], np.uint64), 3)
    assert sorted(zip(keys.tolist(), slots.tolist(), strict=True)) == [(103, 3), (163, 63), (164, 64)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_growth_keeps_slots(threads: int) -> None:
    index = CollisionlessIndex(threads=threads)
    generator = np.random.default_rng(threads)
    expected: dict[int, int] = {}
    for size in [1, 10, 500, 3_000, 70_000, 200, 90_000, 1_000] * 2:
        keys = generator.integers(-(2**63), 2**63 - 1, size)
        keys[size // 2 :] = generator.permutation(keys[: size - size // 2])  # every key comes twice
        slots, new = index.insert(keys)
        assert len(np.unique(keys)) == len(new) == len(np.unique(slots))
        assert (keys[np.sort(new)] == keys[np.sort(np.unique(keys, return_index=True)[1])]).all()
        expected.update(zip(keys.tolist(), slots.tolist(), strict=True))
    check(index, expected, [1, 2, 3])
    assert 15 * len(expected) < index.nbytes < 20 * len(expected) + 200_000 + 8 * len(index._free)


def insert_each(index: CollisionlessIndex, keys: Keys) -> list[int]:
    return [int(index.insert(keys[at : at + 1])[0][0]) for at in range(len(keys))]


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1])
def test_random_operations_against_a_dict(seed: int) -> None:
    generator = np.random.default_rng(0)
    index = CollisionlessIndex(seed=seed)
    expected: dict[int, int] = {}
    for step in range(60):
        keys = np.unique(generator.integers(-9000, 9000, 3000) * 2**47)
        if step % 3 == 2:
            freed = index.delete(keys).tolist()
            assert freed == [expected.pop(key) for key in keys.tolist() if key in expected]
        elif step % 3 == 1:
            expected.update(zip(keys[:300].tolist(), insert_each(index, keys[:300]), strict=True))
        else:
            for key, slot in zip(keys.tolist(), index.insert(keys)[0].tolist(), strict=True):
                assert expected.setdefault(key, slot) == slot
        asked = generator.integers(-9000, 9000, 2000) * 2**47
        assert index.find(asked).tolist() == [expected.get(key, -1) for key in asked.tolist()]
    check(index, expected, [1, 3])
    assert index.num_slots <= 18_000
    if seed == 0:
        check_buckets(index)
