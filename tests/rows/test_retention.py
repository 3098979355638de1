"""Which ids get a row and which rows leave: admission, expiry, eviction, and the clock behind them."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.fields import build
from recsys.hashing import Keys
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, shard_buckets
from recsys.ps.shard import LocalShard
from recsys.rows.candidates import CELLS, Candidates
from recsys.rows.clock import EventClock
from recsys.rows.collisionless import CollisionlessIndex
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adam
from recsys.rows.policies import Eviction, FrequencyAdmission, ProbabilisticAdmission, build_admission
from recsys.rows.store import RowGroup, RowStore

WIDTH = 2


def group_of(**fields: Any) -> RowGroup:
    described = {
        "width": WIDTH,
        "optimizer": SGD(learning_rate=1.0),
        "initial": Initial(scale=0.0),
        "seed": 2,
        **fields,
    }
    return RowGroup(name="t", **described)


def push(store: RowStore, keys: list[int], time_ms: int = 0, counts: list[int] | None = None) -> None:
    arrays: Any = (np.array(keys, np.int64), np.ones((len(keys), WIDTH), np.float32))
    store.push({"t": arrays if counts is None else (*arrays, np.array(counts, np.int64))}, time_ms)


def held(store: RowStore) -> set[int]:
    return set(store.snapshot().groups["t"].keys_U.tolist())


def first(store: RowStore, *keys: int) -> list[float]:
    column: list[float] = store.pull({"t": np.array(keys, np.int64)})["t"][:, 0].tolist()
    return column


def sharded(group: RowGroup, num_shards: int = 2) -> ShardedRows:
    shards = [
        LocalRows([group], buckets=shard_buckets(shard, num_shards), num_buckets=NUM_BUCKETS)
        for shard in range(num_shards)
    ]
    return ShardedRows([group], [LocalShard(shard) for shard in shards])


# --- admission


@pytest.mark.parametrize("build_store", [lambda group: LocalRows([group]), sharded], ids=["local", "2 shards"])
def test_a_row_at_the_nth_occurrence_repeats_counted(build_store: Any) -> None:
    store = build_store(group_of(admission=FrequencyAdmission(occurrences=3)))
    push(store, [7, 8, 8])
    assert held(store) == set() and first(store, 7, 8) == [0, 0]
    push(store, [7, 8])  # 8 for the third time: what comes with it is learned, what came before is not
    assert held(store) == {8} and first(store, 7, 8) == [0, -1]
    push(store, [7, 9, 9, 9, 8])  # 7 for the third time, 9 three times at once
    assert held(store) == {7, 8, 9} and first(store, 7, 8, 9) == [-1, -2, -3]


def test_counts_stand_for_repeats_that_were_summed_before() -> None:
    store = sharded(group_of(admission=FrequencyAdmission(occurrences=3)))
    push(store, [7, 8, 9], counts=[2, 3, 1])
    assert held(store) == {8}
    push(store, [7, 9], counts=[1, 1])
    assert held(store) == {7, 8}
    with pytest.raises(DataError, match="counts must be int64"):
        push(store, [1, 2], counts=[1, 0])


def test_occurrences_of_one_admits_at_once() -> None:
    store = LocalRows([group_of(admission=FrequencyAdmission(occurrences=1))])
    push(store, [1, 2])
    assert held(store) == {1, 2}


@pytest.mark.parametrize("absent", ["initial", "zeros"])
def test_an_id_that_waits_reads_what_the_group_says(absent: Any) -> None:
    group = group_of(admission=FrequencyAdmission(occurrences=2), absent=absent, initial=Initial(scale=0.5), seed=9)
    store = LocalRows([group])
    push(store, [5])
    expected = group.initial.rows(np.array([5]), WIDTH, 9) if absent == "initial" else np.zeros((1, WIDTH))
    np.testing.assert_array_equal(store.pull({"t": np.array([5])})["t"], expected)
    push(store, [5])
    np.testing.assert_array_equal(
        store.pull({"t": np.array([5])})["t"], group.initial.rows(np.array([5]), WIDTH, 9) - 1
    )


def test_a_deleted_key_waits_anew() -> None:
    store = LocalRows([group_of(admission=FrequencyAdmission(occurrences=2))])
    push(store, [5, 5])
    store.delete({"t": np.array([5])})
    push(store, [5])
    assert held(store) == set()
    push(store, [5])
    assert held(store) == {5}


@pytest.mark.parametrize("source", [1, 2])
@pytest.mark.parametrize("target", [1, 3])
def test_counts_survive_a_snapshot_onto_any_number_of_shards(source: int, target: int) -> None:
    group = group_of(admission=FrequencyAdmission(occurrences=4))
    store, other = sharded(group, source), sharded(group, target)
    keys = list(range(-50, 50))
    push(store, keys)
    push(store, keys[::2])
    other.restore(store.snapshot())
    push(other, keys)
    assert held(other) == set()
    push(other, keys)
    assert held(other) == set(keys[::2])
    push(other, keys)
    assert held(other) == set(keys)
    assert len(store.snapshot().groups["t"].candidate_keys_C) == 100


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=60), st.integers(1, 9))
def test_candidates_against_a_counter(occurrences: list[tuple[int, int]], needed: int) -> None:
    """With room for all: one line a key."""
    waiting = Candidates(occurrences=needed, max_bytes=64 * 4096, seed=0)
    counts: Counter[int] = Counter()
    for key, count in occurrences:
        counts[key] += count
        (admitted,) = waiting.admit(np.array([key]), np.array([count])).tolist()
        assert admitted == (counts[key] >= needed)
        if admitted:
            del counts[key]
    keys, held_counts = waiting.items()
    assert dict(zip(keys.tolist(), held_counts.tolist(), strict=True)) == dict(counts)


def test_in_a_full_line_the_lowest_count_leaves() -> None:
    waiting = Candidates(occurrences=200, max_bytes=64, seed=0)
    for key in range(CELLS):
        waiting.admit(np.array([key]), np.array([5 - (key in (2, 4))]))
    waiting.admit(np.array([100]), np.array([1]))  # 2 and 4 have the lowest count, 2 came first
    assert waiting.items()[0].tolist() == [0, 1, 3, 4, 5, 6, 100]
    waiting.admit(np.array([101]), np.array([1]))
    assert waiting.items()[0].tolist() == [0, 1, 3, 4, 5, 6, 101]
    assert waiting.nbytes == 64
    again = Candidates(occurrences=200, max_bytes=64, seed=0)
    again.restore(*waiting.items())
    assert [part.tolist() for part in again.items()] == [part.tolist() for part in waiting.items()]


def test_candidates_never_admit_too_early_when_memory_is_short() -> None:
    waiting = Candidates(occurrences=3, max_bytes=64 * 16, seed=0)
    generator, counts = np.random.default_rng(0), Counter[int]()
    for _ in range(300):
        keys = np.unique(generator.zipf(1.3, 40) % 2**62)
        counts.update(keys.tolist())
        for key, admitted in zip(
            keys.tolist(), waiting.admit(keys, np.ones(len(keys), np.int64)).tolist(), strict=True
        ):
            assert not admitted or counts[key] >= 3
            if admitted:
                counts[key] = 0
    assert waiting.nbytes == 64 * 16


def test_probabilistic_admission_draws_for_each_occurrence() -> None:
    keys = np.arange(40_000)
    admission = ProbabilisticAdmission(probability=0.1)
    stores: list[RowStore] = [LocalRows([group_of(admission=admission)]), sharded(group_of(admission=admission))]
    for store in stores:
        push(store, keys.tolist(), counts=np.where(keys < 20_000, 1, 5).tolist())
    assert held(stores[0]) == held(stores[1])  # the draw is of seed, key and step
    once = np.isin(keys, list(held(stores[0])))
    assert once[:20_000].mean() == pytest.approx(0.1, abs=0.01)
    assert once[20_000:].mean() == pytest.approx(1 - 0.9**5, abs=0.015)
    before = held(stores[0])
    push(stores[0], keys[:20_000].tolist())
    again = np.isin(keys[:20_000], list(held(stores[0]) - before))
    assert again.mean() == pytest.approx(0.09, abs=0.01)


# --- expiry


@pytest.mark.parametrize("build_store", [lambda group: LocalRows([group]), sharded], ids=["local", "2 shards"])
def test_rows_not_touched_for_longer_than_they_live_are_gone(build_store: Any) -> None:
    store = build_store(group_of(ttl_seconds=64))
    store.changes("c")
    push(store, [1, 2], 0)
    push(store, [2], 30_000)
    push(store, [], 64_000)
    assert held(store) == {1, 2}  # 64 seconds: not longer
    push(store, [3], 65_000)
    assert held(store) == {2, 3} and first(store, 1) == [0]
    assert store.changes("c").deletes["t"].keys_U.tolist() == [1]
    push(store, [2], 40_000)  # an older event: the clock does not go back, and 2 was touched
    push(store, [], 129_000)
    assert held(store) == {2, 3}
    push(store, [], 130_000)
    assert held(store) == set()


def test_expiry_goes_on_after_a_snapshot_as_if_nothing_had_happened() -> None:
    group = group_of(ttl_seconds=10)
    store, other = LocalRows([group]), sharded(group)
    for second in range(8):
        push(store, [second], 1000 * second)
    other.restore(store.snapshot())
    for each in (store, other):
        for second in range(8, 16):
            push(each, [100], 1000 * second)
            assert held(each) == {key for key in range(8) if second - key <= 10} | {100}


def test_an_expired_row_comes_back_fresh() -> None:
    store = LocalRows([group_of(ttl_seconds=10, optimizer=Adam(learning_rate=0.1))])
    push(store, [1], 0)
    push(store, [1], 5000)
    push(store, [1], 60_000)  # swept before the push is applied
    part = store.snapshot().groups["t"]
    assert part.state["step"].tolist() == [[1.0]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 500)), max_size=60))
def test_the_clock_against_a_list(pushes: list[tuple[int, int]]) -> None:
    clock, times, step = EventClock(), [-1], 0
    for skipped, time_ms in pushes:
        times += [times[-1]] * skipped  # steps of other groups
        step += skipped + 1
        times.append(max(times[-1], time_ms))
        clock.advance(step, time_ms)
    steps = np.arange(1, len(times))
    assert clock.time_ms == times[-1]
    assert clock.times_of(steps).tolist() == [max(0, time) for time in times[1:]]
    for time_ms in range(0, 501, 50):
        known = [step for step in range(1, len(times)) if 0 <= times[step] < time_ms]
        last = clock.last_step_before(time_ms)
        assert max(known, default=0) == (min(last, step) if known else last)


def test_a_long_clock_forgets_detail_and_makes_nobody_older() -> None:
    clock = EventClock(horizon_ms=1_000_000)
    for step in range(1, 30_000):
        clock.advance(step, 1000 * step)
    steps = np.arange(1, 30_000)
    seems, was = clock.times_of(steps), 1000 * steps
    assert (seems >= was).all() and clock.time_ms == 29_999_000
    recent = was > clock.time_ms - 1_000_000
    assert (seems - was)[recent].max() <= 1_000_000 / 1000
    unlimited = EventClock()
    for step in range(1, 30_000):
        unlimited.advance(step, 1000 * step)
    late = unlimited.times_of(steps) - was
    assert late.min() >= 0 and late.max() <= 30_000_000 / 1000 * 1.1


# --- eviction


def budget_for(num_rows: int, group: RowGroup) -> int:
    """The bytes with which a group of SGD rows may hold so many."""
    return CollisionlessIndex.bytes_for(num_rows) + num_rows * (4 * group.width + 4)


def test_lru_evicts_those_touched_longest_ago() -> None:
    group = group_of()
    store = LocalRows([group_of(eviction=Eviction(max_bytes=budget_for(100, group)))])
    keys = list(range(90))
    push(store, keys)
    limit = store.num_rows()["t"]
    assert limit == 90
    push(store, keys[:40])  # so that 40..89 are the oldest
    push(store, list(range(1000, 1030)))
    survivors = held(store)
    assert set(range(1000, 1030)) | set(keys[:40]) <= survivors
    assert len(survivors) <= 100 and 20 <= len(set(keys[40:]) - survivors) <= 22


def test_lfu_evicts_those_pushed_least_often_the_oldest_of_these_first() -> None:
    group = group_of(width=WIDTH)
    budget = budget_for(100, group) + 2 * 100
    store = LocalRows([group_of(eviction=Eviction(kind="lfu", max_bytes=budget))])
    push(store, list(range(50)), counts=[2] * 50)
    push(store, list(range(50, 90)))
    push(store, [50, 50, 51])  # repeats count: three uses, and two
    push(store, list(range(1000, 1040)))
    survivors = held(store)
    assert set(range(52)) <= survivors and set(range(1000, 1040)) <= survivors
    gone = set(range(52, 90)) - survivors
    assert gone and max(gone) < min(set(range(52, 90)) & survivors, default=90)


def test_a_push_of_more_new_keys_than_there_is_room_for() -> None:
    """As many as fit get a row; nobody that the push touches leaves for them."""
    group = group_of()
    store = LocalRows([group_of(eviction=Eviction(max_bytes=budget_for(100, group)))])
    push(store, [1, 2, 3])
    push(store, [1, *range(1000, 2000)])
    assert {1} | set(range(1000, 1090)) <= held(store) and not {2, 3} & held(store)
    assert store.num_rows()["t"] <= 101


@pytest.mark.parametrize("kind", ["lru", "lfu"])
def test_a_budget_is_kept_over_a_long_run(kind: Any) -> None:
    budget = 400_000
    store = LocalRows(
        [
            group_of(
                eviction=Eviction(kind=kind, max_bytes=budget),
                admission=FrequencyAdmission(occurrences=2, max_bytes=65_536),
            )
        ]
    )
    generator = np.random.default_rng(0)
    most = 0
    for at in range(300):
        keys: Keys = generator.integers(0, 20_000, 500)
        store.push({"t": (keys, np.ones((500, WIDTH), np.float32))}, at)
        store.acknowledge("c", store.changes("c").cursor)
        most = max(most, store.nbytes)
    assert 0.7 * budget < most <= budget
    assert store.num_rows()["t"] > 4000


def test_evicted_rows_are_told_as_deleted() -> None:
    group = group_of()
    store = LocalRows([group_of(eviction=Eviction(max_bytes=budget_for(10, group)))])
    push(store, list(range(10)))
    store.acknowledge("c", store.changes("c").cursor)
    push(store, [100])
    deleted = store.changes("c").deletes["t"].keys_U.tolist()
    assert deleted and set(deleted) == set(range(10)) - held(store)


# --- mistakes


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ttl_seconds": 0}, "ttl_seconds 0 must be above 0"),
        ({"ttl_seconds": float("nan")}, "ttl_seconds nan must be above 0"),
        ({"eviction": Eviction(max_bytes=100), "num_rows": 5}, "num_rows is given, so it can not grow past"),
    ],
)
def test_groups_that_can_not_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        group_of(**fields)


def test_a_budget_without_room_for_a_row() -> None:
    with pytest.raises(ConfigError, match=r"eviction\.max_bytes=1000 leaves no room for a single row"):
        LocalRows([group_of(eviction=Eviction(max_bytes=1000))])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "frequency", "occurrences": 0}, "admission.occurrences=0: give a whole number between 1 and 255"),
        ({"kind": "frequency", "occurrences": 256}, "admission.occurrences=256"),
        ({"kind": "probabilistic", "probability": 0}, "admission.probability=0"),
        ({"kind": "often"}, "unknown admission.kind 'often'; known: frequency, probabilistic"),
    ],
)
def test_admission_that_can_not_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_admission(fields)


def test_a_negative_budget() -> None:
    with pytest.raises(ConfigError, match=r"eviction\.max_bytes=-1: give a whole number of at least 1"):
        build(Eviction, {"max_bytes": -1}, "eviction")


def test_groups_survive_their_plain_form() -> None:
    group = group_of(
        admission=FrequencyAdmission(occurrences=3),
        ttl_seconds=5.0,
        eviction=Eviction(kind="lfu", max_bytes=10**6),
        row_format="int8",
    )
    assert RowGroup.from_json(group.to_json()) == group
