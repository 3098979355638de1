"""The layout of a published run: keys and values there and back, for every id and every number."""

import struct
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from recsys.errors import ConfigError, DataError
from recsys.hashing import id_of_text, id_text
from recsys.rows import formats
from recsys.rows.layout import Layout, field_bytes, payload_of, pointer_key, split_bytes, tombstone, versioned
from recsys.rows.optimizers import SGD
from recsys.rows.store import RowGroup

LAYOUT = Layout(model="films", run="r1")
EXTREMES = [-(2**63), -1, 0, 1, 2**63 - 1]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES)
VERSIONS = st.integers(0, 2**53) | st.sampled_from([0, 2**32 - 1, 2**32, 2**32 + 1, 2**53])
FORMATS = ["float32", "float16", "int8"]


def floats(width: Literal[16, 32], count: int) -> st.SearchStrategy[np.ndarray]:
    numbers = st.floats(width=width, allow_nan=False, allow_infinity=False)
    return st.lists(numbers, min_size=count, max_size=count).map(lambda found: np.array(found, np.float32))


def version_of(value: bytes) -> int:
    return int(struct.unpack(">d", value[:8])[0])


@given(st.lists(INT64, max_size=8))
def test_row_keys_hold_the_id(ids: list[int]) -> None:
    keys = LAYOUT.row_keys("item", np.array(ids, np.int64))
    assert keys == [b"recsys:films:r1:float32:item:" + id_.to_bytes(8, "little", signed=True) for id_ in ids]


@given(st.lists(INT64, unique=True, max_size=8))
def test_distinct_rows_have_distinct_keys(ids: list[int]) -> None:
    keys_N = np.array(ids, np.int64)
    keys = [key for group in ("a", "b", "a:b", "dense") for key in LAYOUT.row_keys(group, keys_N)]
    assert len(set(keys)) == 4 * len(ids)


@given(st.data())
def test_float32_rows_come_back_bit_for_bit(data: st.DataObject) -> None:
    num, width = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
    rows = data.draw(floats(32, num * width)).reshape(num, width)
    versions = data.draw(st.lists(VERSIONS, min_size=num, max_size=num))
    values = LAYOUT.encode_rows(rows, np.array(versions, np.int64))
    decoded, present = LAYOUT.decode_rows(values, width)
    assert decoded.dtype == np.float32 and decoded.shape == (num, width) and present.tolist() == [True] * num
    assert decoded.tobytes() == rows.tobytes()
    assert [version_of(value) for value in values] == versions
    assert all(len(value) == 8 + 4 * width for value in values)


@given(st.data())
def test_float16_rows_come_back_to_what_float16_holds(data: st.DataObject) -> None:
    layout = Layout(model="films", run="r1", row_format="float16")
    width = data.draw(st.integers(1, 4))
    rows = data.draw(floats(16, 3 * width)).reshape(3, width)
    versions = data.draw(st.lists(VERSIONS, min_size=3, max_size=3))
    values = layout.encode_rows(rows, np.array(versions, np.int64))
    np.testing.assert_array_equal(layout.decode_rows(values, width)[0], rows)
    assert [version_of(value) for value in values] == versions
    assert all(len(value) == 8 + 2 * width for value in values)


def test_float16_rounds_and_clips() -> None:
    layout = Layout(model="films", run="r1", row_format="float16")
    rows = np.array([[1e6, -1e6, 65504, 65519], [0.1, 1e-9, np.inf, -np.inf]], np.float32)
    decoded, _ = layout.decode_rows(layout.encode_rows(rows, np.array([1, 2])), 4)
    assert decoded[0].tolist() == [65504, -65504, 65504, 65504]
    assert decoded[1].tolist() == [float(np.float16(0.1)), 0.0, 65504, -65504]


@pytest.mark.parametrize("row_format", FORMATS)
def test_missing_rows_and_tombstones_are_absent(row_format: str) -> None:
    layout = Layout(model="films", run="r1", row_format=row_format)  # type: ignore[arg-type]
    (value,) = layout.encode_rows(np.array([[1, 2]], np.float32), np.array([9]))
    rows, present = layout.decode_rows([None, value, tombstone(10), None], 2)
    assert present.tolist() == [False, True, False, False]
    np.testing.assert_allclose(rows, [[0, 0], [1, 2], [0, 0], [0, 0]], atol=0.5 * 2 / 127)
    assert rows.flags.writeable
    rows, present = layout.decode_rows([], 2)
    assert rows.shape == (0, 2) and present.shape == (0,)
    assert layout.decode_rows([None], 3)[0].shape == (1, 3)


@pytest.mark.parametrize("row_format", FORMATS)
def test_a_row_of_another_length_is_an_error(row_format: str) -> None:
    layout = Layout(model="films", run="r1", row_format=row_format)  # type: ignore[arg-type]
    values = layout.encode_rows(np.ones((2, 3), np.float32), np.array([1, 2]))
    for wrong in (values[0][:-1], values[0] + b"\0", values[0][:9]):
        with pytest.raises(DataError, match="bytes long; it was written with another layout"):
            layout.decode_rows([values[1], wrong], 3)
    with pytest.raises(DataError, match="bytes long"):
        layout.decode_rows(values, 2)


def test_float16_read_as_float32_is_an_error() -> None:
    values = Layout(model="m", run="r", row_format="float16").encode_rows(np.ones((1, 3), np.float32), np.array([1]))
    with pytest.raises(DataError, match="not 20 bytes long"):
        Layout(model="m", run="r").decode_rows(values, 3)


@given(VERSIONS, st.binary(max_size=20))
def test_versioned_values_come_apart_again(version: int, payload: bytes) -> None:
    value = versioned(payload, version)
    assert version_of(value) == version and payload_of(value) == payload
    assert tombstone(version) == versioned(b"", version)


@given(VERSIONS, VERSIONS)
def test_versions_order_as_bytes(one: int, other: int) -> None:
    """What Redis compares as big-endian floats has the order of the integers."""
    assert (versioned(b"", one) < versioned(b"", other)) == (one < other)


def test_user_7_is_not_the_user_of_the_string_7() -> None:
    assert LAYOUT.user_key(7) == "recsys:films:r1:user:7"
    assert LAYOUT.user_key("7") == 'recsys:films:r1:user:"7'
    assert LAYOUT.item_key(-(2**63)) == "recsys:films:r1:item:-9223372036854775808"
    assert LAYOUT.user_key("a:b") != LAYOUT.item_key("a:b")
    texts: list[int | str] = [7, "7", '"7', "", -7, "-7", "tt7", "TT7", "ü"]
    assert len({LAYOUT.user_key(id_) for id_ in texts}) == len(texts)


def test_numpy_integers_are_integers() -> None:
    assert LAYOUT.user_key(np.int64(7)) == LAYOUT.user_key(7)  # type: ignore[arg-type]


@given(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5), st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5))
def test_distinct_ids_have_distinct_keys(one: int | str, other: int | str) -> None:
    same = type(one) is type(other) and one == other
    assert (LAYOUT.user_key(one) == LAYOUT.user_key(other)) == same
    assert (LAYOUT.item_key(one) == LAYOUT.item_key(other)) == same


@given(INT64 | st.text(max_size=5) | st.sampled_from(["7", '"', '""7', "-7"]))
def test_an_id_comes_back_from_its_text(id_: int | str) -> None:
    found = id_of_text(id_text(id_))
    assert found == id_ and type(found) is type(id_)


def test_keys_of_a_run_share_its_prefix_and_no_other_runs() -> None:
    keys = [LAYOUT.meta_key, LAYOUT.versions_key, LAYOUT.items_key, LAYOUT.user_key(1), LAYOUT.item_key(1)]
    assert len(set(keys)) == 5
    assert all(key.startswith("recsys:films:r1:") for key in keys)
    other = Layout(model="films", run="r10")
    assert not other.prefix.startswith(LAYOUT.prefix)
    assert pointer_key("films") == "recsys:films:current"
    assert not pointer_key("films").startswith(Layout(model="films", run="current").prefix)


@pytest.mark.parametrize(("model", "run"), [("a:b", "r"), ("m", "a:b"), ("", "r"), ("m", ""), (":", "r")])
def test_names_that_would_break_keys_are_refused(model: str, run: str) -> None:
    with pytest.raises(ConfigError, match=r"name '.*' of a published model must not be empty or hold a ':'"):
        Layout(model=model, run=run)


def test_unknown_row_format() -> None:
    with pytest.raises(ConfigError, match="row_format 'int4' must be one of float32, float16, int8"):
        Layout(model="m", run="r", row_format="int4")  # type: ignore[arg-type]


def test_unknown_layout_and_impossible_numbers_of_buckets() -> None:
    with pytest.raises(ConfigError, match="layout 'small' must be one of fast, compact"):
        Layout(model="m", run="r", layout="small")  # type: ignore[arg-type]
    for num_buckets in (0, 2**16 + 1):
        with pytest.raises(ConfigError, match=f"num_buckets {num_buckets} must be between 1 and 65536"):
            Layout(model="m", run="r", num_buckets=num_buckets)


# --- formats


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int8", "int16"])
def test_what_a_table_stores_in_a_format_is_published_in_it_to_the_bit(name: str) -> None:
    stored, draw = formats.FORMATS[name], np.random.default_rng(5)
    rows = (draw.normal(size=(500, 7)) * 10.0 ** draw.integers(-30, 4, (500, 1))).astype(np.float32)
    rows[3], rows[4, 2], rows[5, 1], rows[6] = 0, 3e38 if name == "float32" else np.inf, np.nan, 65504
    values, scales = stored.empty(500, 7)
    slots = np.arange(500)
    stored.encode_nearest(values, scales, slots, rows)
    kept = np.empty_like(rows)
    stored.decode(values, scales, slots, kept)
    published = LAYOUT.encode_rows(kept, slots, name)
    np.testing.assert_array_equal(LAYOUT.decode_rows(published, 7, name)[0], kept)
    straight = LAYOUT.decode_rows(LAYOUT.encode_rows(rows, slots, name), 7, name)[0]
    np.testing.assert_array_equal(straight, kept)


def test_int8_is_within_half_a_step_of_its_rows_largest() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    layout = Layout(model="m", run="r", row_format="int8")
    values = layout.encode_rows(rows, np.arange(200))
    assert {len(value) for value in values} == {8 + 4 + 16}
    error = np.abs(layout.decode_rows(values, 16)[0] - rows).max(axis=1)
    assert (error <= 0.5001 * np.abs(rows).max(axis=1) / 127).all()


# --- buckets


@given(st.lists(INT64, min_size=1, unique=True, max_size=8), st.integers(1, 2**16))
def test_a_row_is_a_field_of_its_bucket(ids: list[int], num_buckets: int) -> None:
    layout = Layout(model="films", run="r1", layout="compact", num_buckets=num_buckets)
    keys_N = np.array(ids, np.int64)
    buckets = layout.buckets(keys_N).tolist()
    assert all(0 <= bucket < num_buckets for bucket in buckets)
    assert layout.row_keys("item", keys_N) == [b"recsys:films:r1:float32:item:{%04x}" % bucket for bucket in buckets]
    assert set(layout.row_keys("item", keys_N)) <= set(layout.bucket_keys("item"))
    assert split_bytes(field_bytes(keys_N)) == [id_.to_bytes(8, "little", signed=True) for id_ in ids]


def test_rows_spread_evenly_over_buckets() -> None:
    for keys_N in (np.arange(64_000), np.arange(64_000) << 40):
        counts = np.bincount(Layout(model="m", run="r", num_buckets=1000).buckets(keys_N), minlength=1000)
        assert counts.min() > 25 and counts.max() < 110  # 64 expected, give or take 8


def test_in_a_cluster_braces_hold_the_bucket_alone() -> None:
    layout = Layout(model="m", run="r", cluster=True)
    keys_N = np.array([5, 7, -3])
    for key, bucket in zip(layout.row_keys("item", keys_N), layout.buckets(keys_N), strict=True):
        assert key[:-8].endswith(b":item:{%04x}" % bucket)
        assert key_slot(key) == key_slot(b"%04x" % bucket)
    assert {key_slot(key) for key in layout.row_keys("dense", np.arange(9))} == {key_slot(b"dense")}


def test_dense_parameters_are_strings_of_float32_in_every_layout() -> None:
    dense = RowGroup(name="dense", width=4, optimizer=SGD(learning_rate=1.0), num_rows=9)
    item = RowGroup(name="item", width=4, optimizer=SGD(learning_rate=1.0), row_format="int8")
    for row_format, expected in (("int8", "int8"), ("float32", "int8"), ("float16", "int8")):
        layout = Layout(model="m", run="r", layout="compact", row_format=row_format)  # type: ignore[arg-type]
        assert (layout.format_of(item), layout.format_of(dense)) == (expected, "float32")
        assert (layout.is_compact("item"), layout.is_compact("dense")) == (True, False)
