"""A push's gradients summed by row, against a plain loop; and a push after a pull of the same keys."""

import numpy as np
import pytest

from recsys.hashing import Floats
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup
from recsys.rows.summing import SlotGroups


@pytest.mark.parametrize(
    ("num_ids", "num_slots", "threads"), [(0, 0, 1), (50, 3, 1), (30_000, 300_000, 3), (60_000, 20_000_000, 2)]
)
def test_sums_equal_a_loop_s_to_the_bit(num_ids: int, num_slots: int, threads: int) -> None:
    generator = np.random.default_rng(num_ids)
    slots_N = generator.integers(-1, num_slots, num_ids)  # -1: has no row
    slots_N[generator.random(num_ids) < 0.3] = num_slots - 1  # one that is in much of the push
    gradients_NW = generator.standard_normal((num_ids, 3), np.float32)
    expected: dict[int, tuple[int, Floats]] = {}
    for position, slot in enumerate(slots_N.tolist()):
        if slot >= 0:
            first, total = expected.get(slot, (position, np.zeros(3, np.float32)))
            expected[slot] = first, gradients_NW[position] if first == position else total + gradients_NW[position]
    groups = SlotGroups(slots_N, num_slots, threads)
    found: dict[int, tuple[int, Floats]] = {}
    for part in range(threads):
        for slots_U, positions_U, sums_UW in groups.blocks(part, threads, gradients_NW):
            for slot, first, total in zip(slots_U.tolist(), positions_U.tolist(), sums_UW.copy(), strict=True):
                assert slot not in found
                found[slot] = first, total
    assert found.keys() == expected.keys()
    for slot, (first, total) in expected.items():
        assert found[slot][0] == first
        assert found[slot][1].tolist() == list(total)


def test_a_push_of_the_keys_just_pulled_finds_their_rows_of_now() -> None:
    group = RowGroup(name="t", width=1, optimizer=SGD(learning_rate=1.0), initial=Initial(scale=0.0))
    store = LocalRows([group])
    keys, one = np.array([3, 5, 3, 7]), np.ones((4, 1), np.float32)
    store.push({"t": (keys, one)}, event_time_ms=0)
    asked = np.array([3, 5, 9, 8])
    assert store.pull({"t": asked})["t"].ravel().tolist() == [-2.0, -1.0, 0.0, 0.0]
    store.delete({"t": np.array([3])})
    store.push({"t": (np.array([11]), 4 * one[:1])}, event_time_ms=0)  # takes the slot that 3 had
    assert store.pull({"t": asked})["t"].ravel().tolist() == [0.0, -1.0, 0.0, 0.0]
    asked_before = asked.copy()
    asked[:] = [5, 5, 9, 9]  # other keys in the same array
    store.push({"t": (asked, one)}, event_time_ms=0)
    assert store.pull({"t": asked_before})["t"].ravel().tolist() == [0.0, -3.0, -2.0, 0.0]
    store.push({"t": (asked_before, one)}, event_time_ms=0)
    expected = [-1.0, -4.0, -3.0, -1.0, -4.0, -1.0]
    assert store.pull({"t": np.array([3, 5, 9, 8, 11, 7])})["t"].ravel().tolist() == expected
    assert store.num_rows() == {"t": 6}
