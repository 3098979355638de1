"""Columns become features: numbered by the training part alone, what is unknown one id, what can not be an error."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.features.declarations import Feature
from recsys.hashing import hash_string
from recsys.tabular.columns import IdColumn, NumberColumn, column_of, labels_of


def feature(kind: Any = "id", **fields: Any) -> Feature:
    return Feature(name="f", kind=kind, source="column.f", **fields)


def learned(declared: Feature, *batches: pa.Array) -> IdColumn | NumberColumn:
    column = column_of(declared)
    for batch in batches:
        column.learn(batch)
    if isinstance(column, IdColumn):
        column.finish()
    return column


def test_ids_are_numbered_by_frequency_and_the_rest_is_one_id() -> None:
    column = learned(feature(min_count=2), pa.array(["a", "b", "c", "b"]), pa.array(["c", "b", "rare"]))
    assert column.encode(pa.array(["b", "c", "a", "rare", "never seen", None])).to_pylist() == [1, 2, 0, 0, 0, 0]
    assert column.num_ids == 3


def test_what_is_absent_is_an_id_like_others() -> None:
    column = learned(feature(min_count=1), pa.array([7, None, None, -7]))
    assert column.encode(pa.array([None, -7, 7, 8], pa.int32())).to_pylist() == [1, 2, 3, 0]


@given(st.lists(st.one_of(st.none(), st.integers(-5, 5)), max_size=40), st.integers(1, 4), st.integers(0, 40))
def test_numbering_is_that_of_a_counter(values: list[int | None], min_count: int, cut: int) -> None:
    """Whatever the batches are: ids from 1 on, the most frequent first, equal ones in order, None last."""
    batches = [pa.array(part, pa.int64()) for part in (values[:cut], values[cut:])]
    column = learned(feature(min_count=min_count), *batches)
    counts = {value: values.count(value) for value in values if values.count(value) >= min_count}
    order = sorted(counts, key=lambda value: (-counts[value], value is None, value or 0))
    expected = [order.index(value) + 1 if value in order else 0 for value in values]
    assert column.encode(pa.array(values, pa.int64())).to_pylist() == expected
    assert column.num_ids == len(order) + 1


def test_ids_without_numbering_are_a_streams() -> None:
    assert column_of(feature()).encode(pa.array([5, -(2**63), None])).to_pylist() == [5, -(2**63), None]
    assert column_of(feature()).encode(pa.array(["x", "y", "x"])).to_pylist() == [
        hash_string("x"), hash_string("y"), hash_string("x")
    ]  # fmt: skip
    assert column_of(feature(vocabulary=("x", "y"))).encode(pa.array(["y", "z", "x"])).to_pylist() == [1, None, 0]


def test_bags_are_cut_parted_and_never_null() -> None:
    declared = feature("bag", min_count=1, max_length=2)
    column = learned(declared, pa.array(["a|b", "a|c|d", None, ""]))
    assert column.encode(pa.array(["b|a|d", None, "", "z"])).to_pylist() == [[2, 1], [], [], [0]]
    words = column_of(feature("bag", vocabulary=("a", "b")))
    assert words.encode(pa.array([["b", "z", "a"], [], ["z"], None])).to_pylist() == [[1, 0], [], [], []]
    raw = column_of(feature("sequence", max_length=2))
    assert raw.encode(pa.array([[1, 2, 3], None, [4]]).slice(0, 3)).to_pylist() == [[1, 2], [], [4]]
    assert raw.encode(pa.array([[9], [1, 2, 3], None, [4]]).slice(1)).to_pylist() == [[1, 2], [], [4]]


def test_log_squared_buckets() -> None:
    values = [-1.0, 0.0, 1.0, 2.0, 3.0, 100.0, None]
    column = column_of(feature(bucketing="log_squared"))
    expected = [-1, 0, 1, 2, int(math.log(3) ** 2), int(math.log(100) ** 2), None]
    assert column.encode(pa.array(values)).to_pylist() == expected
    assert column.encode(pa.array([100, None])).to_pylist() == [21, None]


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30), st.integers(0, 30))
def test_standardising_is_by_the_mean_and_deviation_of_what_was_learned(values: list[float], cut: int) -> None:
    column = learned(
        feature("number", scaling="standard"), *(pa.array(p, pa.float64()) for p in (values[:cut], values[cut:]))
    )
    found = column.encode(pa.array([*values, None], pa.float64())).to_numpy()
    deviation = np.std(values)
    expected = (np.array(values) - np.mean(values)) / deviation if deviation > 1e-9 else np.zeros(len(values))
    if deviation > 1e-6 or deviation == 0:
        np.testing.assert_allclose(found[:-1], expected, rtol=1e-3, atol=1e-3)
    assert found[-1] == 0  # what is absent is the mean
    assert found.dtype == np.float32


def test_numbers_as_they_are_and_by_logarithm() -> None:
    values = pa.array([3, None, -1], pa.int32())
    assert column_of(feature("number")).encode(values).to_pylist() == [3, 0, -1]
    found = column_of(feature("number", scaling="log")).encode(values).to_numpy()
    np.testing.assert_allclose(found, [math.log(4), 0, -math.log(2)], rtol=1e-6)


@pytest.mark.parametrize(
    ("declared", "column", "says"),
    [
        (feature("number"), pa.array([1.0, float("nan")]), "nan is no finite float32"),
        (feature("number"), pa.array([1e39]), "1e+39 is no finite float32"),
        (feature("number"), pa.array(["x"]), "declare it kind: id"),
        (feature(bucketing="log_squared"), pa.array([float("inf")]), "inf is no finite float32"),
        (feature(), pa.array([2**64 - 1], pa.uint64()), "ids are int64, or strings"),
        (feature(min_count=1), pa.array([0.5]), "declare it kind: number"),
        (feature("bag"), pa.array([1]), "declare it kind: id"),
    ],
)
def test_what_can_not_be_is_an_error(declared: Feature, column: pa.Array, says: str) -> None:
    with pytest.raises(DataError, match=r"feature 'f' \(column\.f\)") as caught:
        encoder = column_of(declared)
        encoder.learn(column)
        encoder.encode(column)
    assert says in str(caught.value)


def test_more_ids_than_declared() -> None:
    with pytest.raises(DataError, match="with the unknown 4 ids, but num_embeddings is 3"):
        learned(feature(min_count=1, num_embeddings=3), pa.array([1, 2, 3]))


@pytest.mark.parametrize("wrong", [[0, 2], [1, None], [0.5], [float("nan")]])
def test_labels_are_0_or_1(wrong: list[Any]) -> None:
    with pytest.raises(DataError, match="labels are 0 or 1, and never absent"):
        labels_of(pa.array(wrong), "click", "train")
    assert labels_of(pa.array([True, False]), "click", "train").to_pylist() == [1, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "number", "min_count": 2},
        {"kind": "id", "scaling": "log"},
        {"kind": "bag", "bucketing": "log_squared"},
        {"kind": "id", "min_count": 2, "vocabulary": ("a",)},
        {"kind": "id", "min_count": 2, "source": "user.id"},
    ],
)
def test_declarations_that_do_not_go_together(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="does not go with"):
        Feature(**{"name": "f", "source": "column.f", **fields})
