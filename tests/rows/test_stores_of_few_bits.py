"""Stores of rows in few bits: what they learn, restore and take."""

from typing import Any, get_args

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.rows.formats import FORMATS as BY_NAME
from recsys.rows.initial import Initial
from recsys.rows.local import LocalRows
from recsys.rows.optimizers import SGD, RowWiseAdagrad
from recsys.rows.store import RowFormat, RowGroup

FORMATS = get_args(RowFormat)
LOW = [name for name in FORMATS if name != "float32"]


def test_a_group_may_have_every_format_there_is() -> None:
    assert set(FORMATS) == set(BY_NAME)


def group_of(name: RowFormat, **fields: Any) -> RowGroup:
    return RowGroup(
        name="t", width=8, row_format=name, **{"optimizer": RowWiseAdagrad(learning_rate=0.05), "seed": 1, **fields}
    )


@pytest.mark.parametrize("name", LOW)
def test_a_store_of_few_bits_learns_what_float32_learns(name: RowFormat) -> None:
    """Many steps much smaller than the distance of neighbouring numbers: to the nearest, they would all be lost."""
    stores = [LocalRows([group_of(n, optimizer=SGD(learning_rate=1e-5))]) for n in ("float32", name)]
    keys = np.arange(200)
    before = stores[1].pull({"t": keys})["t"]
    for at in range(300):
        for store in stores:
            store.push({"t": (keys, np.ones((200, 8), np.float32))}, at)
    exact, rounded = (store.pull({"t": keys})["t"] for store in stores)
    assert np.abs(rounded - exact).max() < 6e-3
    np.testing.assert_allclose((rounded - before).mean(), -300e-5, rtol=0.1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", FORMATS)
def test_results_do_not_depend_on_threads_order_or_repeats(name: RowFormat, threads: int) -> None:
    generator = np.random.default_rng(0)
    keys = generator.integers(-(2**63), 2**63 - 1, 40_000)
    gradients = generator.standard_normal((40_000, 8)).astype(np.float32)
    order = np.argsort(keys)
    sorted_once, repeated = LocalRows([group_of(name)], threads=1), LocalRows([group_of(name)], threads=threads)
    for _ in range(2):
        sorted_once.push({"t": (keys[order], gradients[order])}, 0)
        repeated.push({"t": (np.tile(keys, 2), np.tile(gradients / 2, (2, 1)))}, 0)
    np.testing.assert_array_equal(sorted_once.pull({"t": keys})["t"], repeated.pull({"t": keys})["t"])


@pytest.mark.parametrize("name", FORMATS)
def test_a_snapshot_restores_to_the_bit(name: RowFormat) -> None:
    store, other = LocalRows([group_of(name)]), LocalRows([group_of(name)])
    keys = np.arange(50)
    for at in range(3):
        store.push({"t": (keys, np.full((50, 8), 0.1 * at, np.float32))}, at)
    other.restore(store.snapshot())
    for each in (store, other):
        each.push({"t": (keys[:20], np.full((20, 8), 0.3, np.float32))}, 9)
    np.testing.assert_array_equal(store.pull({"t": keys})["t"], other.pull({"t": keys})["t"])


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_are_what_the_format_says(name: RowFormat) -> None:
    sizes = []
    for width in (8, 24):
        store = LocalRows([RowGroup(name="t", width=width, optimizer=SGD(learning_rate=1.0), row_format=name)])
        store.push({"t": (np.arange(1000), np.ones((1000, width), np.float32))}, 0)
        sizes.append(store.nbytes)
    assert sizes[1] - sizes[0] == 1000 * (BY_NAME[name].row_bytes(24) - BY_NAME[name].row_bytes(8))


def test_an_unknown_format_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="row_format 'int4'; known: float32, float16, bfloat16, int8, int16"):
        RowGroup(name="t", width=1, optimizer=SGD(learning_rate=1.0), row_format="int4")  # type: ignore[arg-type]


def test_absent_rows_are_those_that_a_new_row_begins_with() -> None:
    """To within the format's rounding: reading an absent row does not round."""
    for name in LOW:
        store = LocalRows([group_of(name, initial=Initial(scale=0.5))])
        absent = store.pull({"t": np.arange(9)})["t"]
        store.push({"t": (np.arange(9), np.zeros((9, 8), np.float32))}, 0)
        assert np.abs(store.pull({"t": np.arange(9)})["t"] - absent).max() <= 0.5 / 127
