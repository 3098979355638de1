"""Who gets a row by importance: the sketch against a loop, its guarantee, and stores that keep what matters."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.ps.client import ShardedRows
from recsys.ps.routing import NUM_BUCKETS, merge_snapshots, shard_buckets, split_snapshot
from recsys.ps.shard import LocalShard
from recsys.rows.files import apply, read_part, write_part
from recsys.rows.folders import Folder
from recsys.rows.hot_sketch import HotSketch
from recsys.rows.importance import norms_of, winners
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.policies import Eviction, ImportanceAdmission
from recsys.rows.store import RowGroup

GROUP = RowGroup(
    name="t",
    width=2,
    optimizer=SGD(learning_rate=0.1),
    seed=3,
    admission=ImportanceAdmission(max_bytes=64 * 64),
    eviction=Eviction(kind="importance", max_rows=3),
)


# --- the sketch


class Loop:
    """One bucket by hand: [key, score, error] in order."""

    def __init__(self) -> None:
        self.cells: list[list[float]] = []

    def add(self, key: int, score: float) -> float:
        if score == 0:
            return 0
        found = next((cell for cell in self.cells if cell[0] == key), None)
        if found is None and len(self.cells) < 4:
            found = [key, 0.0, 0.0]
            self.cells.append(found)
        if found is None:
            found = min(self.cells, key=lambda cell: cell[1])
            found[0], found[2] = key, found[1]
        found[1] += score
        return found[1] - found[2]

    def remove(self, key: int) -> None:
        self.cells = [cell for cell in self.cells if cell[0] != key]


@given(st.lists(st.tuples(st.integers(-6, 6), st.integers(-3, 9)), max_size=80))
def test_a_bucket_is_a_loop(calls: list[tuple[int, int]]) -> None:
    """A negative score: the key leaves."""
    sketch, loop = HotSketch(max_bytes=64, seed=0), Loop()
    for key, score in calls:
        if score < 0:
            sketch.remove(np.array([key]))
            loop.remove(key)
        else:
            certain = sketch.add(np.array([key]), np.array([score], np.float32))
            assert certain.tolist() == [loop.add(key, score)]
        assert np.array(sketch.items()).T.tolist() == loop.cells
    again = HotSketch(max_bytes=64, seed=0)
    again.restore(*sketch.items())
    assert np.array(again.items()).tolist() == np.array(sketch.items()).tolist()


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 9)), max_size=300), st.integers(0, 2**40))
def test_a_score_is_never_too_low_and_what_is_certain_never_too_high(calls: list[tuple[int, int]], seed: int) -> None:
    sketch, true = HotSketch(max_bytes=64 * 5, seed=seed), dict.fromkeys(range(201), 0)
    for key, score in calls:
        sketch.add(np.array([key]), np.array([score], np.float32))
        true[key] += score
    keys, scores, errors = sketch.items()
    assert len(keys) == len(set(keys.tolist())) and sketch.nbytes == 64 * 5
    for key, score, error in zip(keys.tolist(), scores, errors, strict=True):
        assert score - error <= true[key] <= score


def test_a_hot_id_is_held_as_likely_as_the_paper_says() -> None:
    """Above 1 − (1 − γ) / ((c − 1) γ w): γ = 0.01 of all scores, c = 4 cells, w = 1000 buckets, 0.967."""
    num_buckets, gamma, runs = 1000, 0.01, 300
    bound = 1 - (1 - gamma) / (3 * gamma * num_buckets)
    assert bound == pytest.approx(0.967, abs=1e-4)
    draw, held = np.random.default_rng(0), 0
    for seed in range(runs):
        sketch = HotSketch(max_bytes=64 * num_buckets, seed=seed)
        # the others come once each, most of them after the hot one: it has to outlast them
        others = np.arange(1, 20_001)
        sketch.add(others[:5000], np.full(5000, (1 - gamma) / len(others), np.float32))
        sketch.add(np.array([0]), np.array([gamma], np.float32))
        sketch.add(draw.permutation(others[5000:]), np.full(15_000, (1 - gamma) / len(others), np.float32))
        held += 0 in sketch.items()[0]
    assert held / runs > bound


def test_importances_of_a_papers_size() -> None:
    """CAFE's own example: γ = 10⁻³, c = 4, w = 10⁴."""
    assert pytest.approx(0.9667, abs=1e-4) == 1 - (1 - 1e-3) / (3 * 1e-3 * 1e4)


# --- who wins


@given(
    scores=st.lists(st.integers(0, 9), max_size=12),
    rows=st.lists(st.integers(0, 9), max_size=12),
    room=st.integers(0, 5),
)
def test_the_most_important_have_rows_and_nobody_leaves_for_less(scores: list[int], rows: list[int], room: int) -> None:
    new, gone = winners(np.array(scores, np.float32), np.array(rows, np.float32), room)
    assert len(set(new)) == len(new) and len(set(gone)) == len(gone)
    assert len(new) - len(gone) <= room and all(scores[at] > 0 for at in new)
    after = [rows[at] for at in range(len(rows)) if at not in set(gone)] + [scores[at] for at in new]
    # as a merge of all by importance, rows first among equals
    positive = [score for score in scores if score > 0]
    size = min(len(rows) + room, len(rows) + len(positive))
    assert sorted(after, reverse=True) == sorted([*rows, *positive], reverse=True)[:size]


def test_norms_are_of_sums() -> None:
    draw = np.random.default_rng(0)
    keys, gradients = draw.integers(0, 9, 40), draw.normal(size=(40, 3)).astype(np.float32)
    found, norms = norms_of(keys, gradients)
    expected = [np.linalg.norm(gradients[keys == key].sum(0)) for key in np.unique(keys)]
    np.testing.assert_array_equal(found, np.unique(keys))
    np.testing.assert_allclose(norms, expected, rtol=1e-5)
    _, of_one = norms_of(np.arange(40), gradients)
    np.testing.assert_allclose(of_one, np.linalg.norm(gradients, axis=1), rtol=1e-6)


# --- stores


def push(store: Any, at: int = 0, **norms: float) -> None:
    """Gradients of these lengths, of keys k1, k2, …"""
    keys = np.array([int(name[1:]) for name in norms])
    gradients = np.zeros((len(keys), 2), np.float32)
    gradients[:, 0] = list(norms.values())
    store.push({"t": (keys, gradients)}, at)


def held(store: LocalRows) -> list[int]:
    return sorted(store.snapshot().groups["t"].keys_U.tolist())


def importances(store: LocalRows) -> dict[int, float]:
    group = store.snapshot().groups["t"]
    return dict(zip(group.keys_U.tolist(), group.state["importance"][:, 0].tolist(), strict=True))


def test_the_least_important_row_leaves_for_an_id_that_has_become_more_important() -> None:
    store = LocalRows([GROUP])
    push(store, k1=5, k2=2, k3=3)
    assert held(store) == [1, 2, 3]
    push(store, k4=1.5)
    assert held(store) == [1, 2, 3]
    push(store, k4=0.5, k2=0.1)  # 2 against 2.1
    assert held(store) == [1, 2, 3]
    push(store, k4=0.2, k2=0.1)  # 2.2, but 2 is touched in this very step, and 3 is more important
    assert held(store) == [1, 2, 3]
    push(store, k4=0.1)
    assert held(store) == [1, 3, 4]
    assert importances(store) == pytest.approx({1: 5, 3: 3, 4: 2.3})
    row = store.pull({"t": np.array([4])})["t"][0]
    np.testing.assert_allclose(row - GROUP.initial.rows(np.array([4]), 2, 3)[0], [-0.01, 0], atol=1e-7)  # this push's
    (deleted,) = [deletes.keys_U.tolist() for deletes in store.changes("c").deletes.values()]
    assert deleted == [2]


def test_a_threshold_and_a_gradient_of_zero_keep_out() -> None:
    store = LocalRows([replace(GROUP, admission=ImportanceAdmission(threshold=1.0, max_bytes=4096))])
    push(store, k1=0.6, k2=0, k3=1.5)
    assert held(store) == [3]
    push(store, k1=0.6, k2=0)
    assert held(store) == [1, 3]


def test_what_was_long_ago_counts_less() -> None:
    store = LocalRows([replace(GROUP, admission=ImportanceAdmission(half_life_steps=2, max_bytes=4096))])
    push(store, k1=4, k2=4, k3=3)  # step 1
    for _ in range(3):  # steps 2, 3, 4
        push(store, k1=1)
    push(store, k4=0.9)  # step 5: a gradient of now weighs 4 of those of step 1, 3.6 against 3
    assert held(store) == [1, 2, 4]


@pytest.mark.parametrize("half_life_steps", [None, 1, 3])
def test_a_snapshot_in_files_goes_on_as_if_nothing_were(half_life_steps: int | None, tmp_path: Any) -> None:
    admission = ImportanceAdmission(half_life_steps=half_life_steps, max_bytes=64 * 3)
    group = replace(GROUP, admission=admission, eviction=Eviction(kind="importance", max_rows=20))
    draw = np.random.default_rng(0)

    def drawn() -> dict[str, float]:
        return {f"k{key}": float(draw.exponential()) for key in np.unique(draw.zipf(1.3, 12) % 90)}

    store, other = LocalRows([group]), LocalRows([RowGroup.from_json(group.to_json())])
    for at in range(70):
        push(store, at, **drawn())
    folder = Folder.of(tmp_path)
    whole = store.snapshot()
    base, cursor = write_part(folder, "base", whole), whole.cursor
    store.acknowledge("saved", cursor)
    for at in range(3):
        push(store, 70 + at, **drawn())
    later = write_part(folder, "later", store.snapshot(since=cursor))
    other.restore(apply(read_part(folder, base), read_part(folder, later)))
    for at in range(150):
        step = drawn()
        push(store, at, **step)
        push(other, at, **step)
        assert importances(store) == importances(other)
    one, two = store.snapshot().groups["t"], other.snapshot().groups["t"]
    assert sorted(zip(one.candidate_keys_C, one.candidate_counts_C, one.candidate_errors_C, strict=True)) == sorted(
        zip(two.candidate_keys_C, two.candidate_counts_C, two.candidate_errors_C, strict=True)
    )
    keys = np.arange(90)
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], other.pull({"t": keys})["t"])


def test_snapshots_split_over_shards_with_those_who_wait() -> None:
    group = replace(GROUP, eviction=Eviction(kind="importance", max_rows=8))
    store = LocalRows([group])
    for at in range(40):
        push(store, at, **{f"k{(7 * at + more) % 50}": 1.0 + more for more in range(5)})
    whole = store.snapshot()
    merged = merge_snapshots(split_snapshot(whole, {"t": group}, 3)).groups["t"]
    expected = whole.groups["t"]
    assert len(expected.candidate_keys_C) > 10
    order, expected_order = np.argsort(merged.candidate_keys_C), np.argsort(expected.candidate_keys_C)
    np.testing.assert_array_equal(merged.candidate_keys_C[order], expected.candidate_keys_C[expected_order])
    np.testing.assert_array_equal(merged.candidate_counts_C[order], expected.candidate_counts_C[expected_order])
    np.testing.assert_array_equal(merged.candidate_errors_C[order], expected.candidate_errors_C[expected_order])


def test_shards_weigh_ids_as_one_store_does_and_share_the_room() -> None:
    group = replace(GROUP, eviction=Eviction(kind="importance", max_rows=60))
    parts = [LocalRows([group], buckets=shard_buckets(at, 3), num_buckets=NUM_BUCKETS) for at in range(3)]
    sharded, local = ShardedRows([group], [LocalShard(part) for part in parts]), LocalRows([group])
    for at in range(60):
        step = {f"k{(at * 7 + more) % 30}": 0.5 + more for more in range(6)}
        push(local, at, **step)
        push(sharded, at, **step)
    merged = sharded.snapshot().groups["t"]
    found = dict(zip(merged.keys_U.tolist(), merged.state["importance"][:, 0].tolist(), strict=True))
    assert found == importances(local) and len(found) == 30  # ten a shard, of its twenty
    keys = np.arange(30)
    np.testing.assert_array_equal(sharded.pull({"t": keys})["t"], local.pull({"t": keys})["t"])
    for at in range(200):
        push(sharded, 100 + at, **{f"k{100 + at}": float(100 + at)})
    assert 54 <= sharded.num_rows()["t"] <= 60


def test_bytes_are_those_of_rows_importances_and_the_sketch() -> None:
    store = LocalRows([replace(GROUP, admission=ImportanceAdmission(max_bytes=64 * 100))])
    smaller = LocalRows([GROUP])
    assert store.nbytes - smaller.nbytes == 64 * 36


@pytest.mark.parametrize(
    "changes", [{"admission": None}, {"eviction": None}, {"eviction": Eviction(kind="lfu", max_rows=3)}]
)
def test_admission_and_eviction_by_importance_go_together(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="of importance are both or none"):
        replace(GROUP, **changes)
