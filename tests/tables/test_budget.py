"""How a budget is shared out, and that what is counted is what is there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.features.declarations import Feature
from recsys.rows.formats import FORMATS
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, Adam, Optimizer, RowWiseAdagrad
from recsys.rows.policies import Eviction
from recsys.rows.sizes import bookkeeping_bytes, row_bytes, state_bytes
from recsys.rows.store import RowFormat, RowGroup
from recsys.tables import build_table, plan_tables
from recsys.tables.budget import Sized, share_out

USER = Feature(name="user", kind="id", source="user.id", num_embeddings=3000)
ITEM = Feature(name="item", kind="id", source="item.id", num_embeddings=1000)
GENRE = Feature(name="genre", kind="bag", source="item.genres", vocabulary=("drama", "comedy"))
UNSIZED = Feature(name="query", kind="id", source="profile.query")


def rows(name: str, num: int, width: int, most: int | None = None) -> Sized:
    """A table of so many ids, whose size is its number of rows of float32."""
    return Sized(name, 4 * width * num, most or num, lambda size: 4 * width * size)


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.floats(0, 10**7))
def test_the_largest_size_within_is_found(most: int, per_size: int, num_bytes: float) -> None:
    found = Sized("t", 1, most, lambda size: 7 + per_size * size).largest_within(num_bytes)
    assert found == max(1, min(most, int((num_bytes - 7) // per_size)))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8), st.floats(1, 100))
def test_shares_are_within_the_budget_and_near_it(nums: list[int], compression: float) -> None:
    tables = [rows(str(at), num, 8) for at, num in enumerate(nums)]
    num_bytes = 32 * sum(nums) / compression
    if num_bytes < 32 * len(nums):
        with pytest.raises(ConfigError, match=f"give budget={32 * len(nums)} or more"):
            share_out(tables, num_bytes, "compression")
        return
    sizes = share_out(tables, num_bytes, "compression")
    taken = {name: 32 * size for name, size in sizes.items()}
    assert num_bytes - 32 * len(nums) < sum(taken.values()) <= num_bytes + 1e-6
    for at, num in enumerate(nums):
        assert sizes[str(at)] <= num


def test_tables_share_in_proportion_and_what_is_left_goes_to_the_larger() -> None:
    assert share_out([rows("a", 3000, 4), rows("b", 1000, 4)], 16 * 400, "") == {"a": 300, "b": 100}
    assert share_out([rows("a", 3000, 4), rows("b", 1000, 4, most=10)], 16 * 400, "") == {"a": 390, "b": 10}
    assert share_out([rows("a", 3000, 4), rows("b", 2, 4)], 16 * 300, "") == {"a": 299, "b": 1}


def test_companions_are_counted() -> None:
    fields = {"kind": "hash", "embedding_dim": 8, "budget": 36_000}
    for with_first_order, expected in ((True, [750, 250]), (False, [843, 282])):  # of 36 bytes, and of 32
        planned = plan_tables(
            fields, [USER, ITEM], optimizer=SGD(learning_rate=1.0), seed=0, with_first_order=with_first_order
        )
        assert [build_table(config).groups[0].num_rows for config in planned] == pytest.approx(expected, abs=1)
    wide = [build_table(config) for config in planned]
    assert sum(table.nbytes("serving").total for table in wide) <= 36_000


def test_a_lone_table_without_ids_has_all_the_budget() -> None:
    (query,) = plan_tables(
        {"kind": "hash", "embedding_dim": 4, "budget": 1000}, [UNSIZED], optimizer=SGD(learning_rate=1.0), seed=0
    )
    assert build_table(query).groups[0].num_rows == 62
    assert query.full_bytes is None


def test_own_sizes_go_before_a_budget() -> None:
    fields = {"kind": "unified", "num_rows": 5000, "budget": 100, "embedding_dim": 8}
    (config,) = plan_tables(fields, [USER, GENRE], optimizer=SGD(learning_rate=1.0), seed=0)
    assert build_table(config).groups[0].num_rows == 5000
    assert config.full_bytes == 3002 * 8 * 4


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize(
    "optimizer", [SGD(learning_rate=1.0), RowWiseAdagrad(learning_rate=1.0), Adam(learning_rate=0.1, weight_decay=0.1)]
)
def test_bytes_are_those_that_a_store_holds(row_format: RowFormat, optimizer: Optimizer) -> None:
    """A thousand more rows of an array take so many more bytes; of a map, as many to a fifth."""
    for width in (1, 16):
        groups = [
            RowGroup(name="t", width=width, num_rows=num, optimizer=optimizer, row_format=row_format)
            for num in (1000, 2000)
        ]
        assert row_bytes(groups[0]) == FORMATS[row_format].row_bytes(width)
        smaller, larger = (LocalRows([group]).nbytes for group in groups)
        per_row = row_bytes(groups[0]) + state_bytes(groups[0]) + bookkeeping_bytes(groups[0])
        assert larger - smaller == 1000 * per_row
    grown = RowGroup(name="t", width=16, optimizer=optimizer, row_format=row_format)
    store = LocalRows([grown])
    empty = store.nbytes
    store.push({"t": (np.arange(200_000), np.zeros((200_000, 16), np.float32))}, 0)
    expected = 200_000 * (row_bytes(grown) + state_bytes(grown) + bookkeeping_bytes(grown))
    assert store.nbytes - empty == pytest.approx(expected, rel=0.2)


def test_a_map_holds_no_more_rows_than_it_may() -> None:
    for kind in ("lru", "lfu"):
        group = RowGroup(
            name="t", width=2, optimizer=SGD(learning_rate=1.0), eviction=Eviction(kind=kind, max_rows=100)
        )
        store = LocalRows([group])
        for step in range(20):
            keys = np.arange(30) + 17 * step
            store.push({"t": (keys, np.ones((30, 2), np.float32))}, step)
            assert store.num_rows()["t"] <= 100
        assert store.num_rows()["t"] == 100
    with pytest.raises(ConfigError, match="max_bytes=None and max_rows=None; give one of them"):
        Eviction(kind="lru")


def test_missing_rows_read_as_nan_until_they_are_there() -> None:
    group = RowGroup(name="t", width=2, optimizer=SGD(learning_rate=1.0), absent="missing")
    store = LocalRows([group])
    assert np.isnan(store.pull({"t": np.array([5])})["t"]).all()
    store.push({"t": (np.array([5]), np.zeros((1, 2), np.float32))}, 0)
    np.testing.assert_array_equal(store.pull({"t": np.array([5])})["t"], group.initial.rows(np.array([5]), 2, 0))
