"""A served copy is the store as it was at the last sync, whatever happened to rows since."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.hashing import Floats
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD
from recsys.rows.policies import Eviction
from recsys.rows.store import RowGroup
from recsys.training.served_copy import ServedCopy

KEYS = np.arange(8)
PUSHED = st.tuples(st.just("push"), st.lists(st.integers(0, 7), min_size=1, max_size=4))
DELETED = st.tuples(st.just("delete"), st.lists(st.integers(0, 7), max_size=4))
REST = st.tuples(st.sampled_from(["sync", "back"]), st.just([]))
Deeds = Sequence[tuple[str, Sequence[int]]]


def store_of(**fields: object) -> LocalRows:
    map_of_rows = RowGroup(name="item", width=2, optimizer=SGD(learning_rate=1.0), **fields)  # type: ignore[arg-type]
    return LocalRows([map_of_rows, RowGroup(name="dense", width=3, optimizer=SGD(learning_rate=1.0), num_rows=2)])


def read(rows: LocalRows | ServedCopy) -> dict[str, Floats]:
    return rows.pull({"item": KEYS, "dense": np.arange(2)})


def push(store: LocalRows, ids: Sequence[int], time_ms: int) -> None:
    keys_N = np.array(ids, np.int64)
    store.push({"item": (keys_N, np.ones((len(ids), 2), np.float32))}, time_ms)
    store.push({"dense": (keys_N[:1] % 2, np.ones((1, 3), np.float32))}, time_ms)


@given(
    st.lists(st.one_of(PUSHED, DELETED, REST), max_size=25),
    st.sampled_from([{}, {"ttl_seconds": 4.0}, {"eviction": Eviction(max_rows=3)}, {"absent": "zeros"}]),
)
def test_a_copy_is_the_store_as_of_its_last_sync(deeds: Deeds, fields: dict[str, object]) -> None:
    """Deleted, expired, evicted and restored rows included."""
    store = store_of(**fields)
    copy, kept = ServedCopy(store, "copy"), store.snapshot()
    copy.sync()
    expected = read(store)
    for time, (deed, ids) in enumerate(deeds):
        if deed == "push":
            push(store, ids, 1000 * time)
        elif deed == "delete":
            store.delete({"item": np.array(ids, np.int64)})
        elif deed == "back":
            before, kept = kept, store.snapshot()
            store.restore(before)
        else:
            copy.sync()
            expected = read(store)
        found = read(copy)
        for name, rows in expected.items():
            np.testing.assert_array_equal(found[name], rows)


def test_copies_of_one_store_go_their_own_ways() -> None:
    store = store_of()
    frozen, fresh = ServedCopy(store, "frozen"), ServedCopy(store, "fresh")
    push(store, [1], 0)
    frozen.sync()
    before = read(store)
    for time in range(3):
        push(store, [1, 2], time)
        store.delete({"item": np.array([3 + time])})
        fresh.sync()
    np.testing.assert_array_equal(read(frozen)["item"], before["item"])
    np.testing.assert_array_equal(read(fresh)["item"], read(store)["item"])
    assert not np.array_equal(read(fresh)["item"], before["item"])


def test_an_unknown_group_is_an_error() -> None:
    with pytest.raises(ConfigError, match="unknown row group 'films'; known: item, dense"):
        ServedCopy(store_of(), "copy").pull({"films": KEYS})
