"""The layout of a published run: keys and values there and back, for every id and every number."""

import struct
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.hashing import id_of_text, id_text
from recsys.rows.formats import FORMATS as STORED
from recsys.rows.layout import Layout, payload_of, pointer_key, tombstone, versioned
from recsys.rows.store import RowFormat

LAYOUT = Layout(model="films", run="r1")
EXTREMES = [-(2**63), -1, 0, 1, 2**63 - 1]
INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES)
VERSIONS = st.integers(0, 2**53) | st.sampled_from([0, 2**32 - 1, 2**32, 2**32 + 1, 2**53])
FORMATS = ["float32", "float16"]


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


@pytest.mark.parametrize(("kept_as", "size"), [("float16", 32), ("bfloat16", 32), ("int8", 20)])
def test_rows_of_few_bits_are_published_as_they_are_kept(kept_as: RowFormat, size: int) -> None:
    """What a store of that format decodes comes back to the bit, and takes as many bytes."""
    kind = STORED[kept_as]
    kept, scales = kind.empty(num_slots=500, width=16)
    slots = np.arange(500)
    rows = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32) * np.logspace(-40, 4, 500)[:, None]
    rows[7] = 0
    kind.encode(kept, scales, slots, slots, rows.astype(np.float32), 1, 2)
    decoded = np.empty((500, 16), np.float32)
    kind.decode(kept, scales, slots, decoded)
    for layout in (LAYOUT, Layout(model="films", run="r1", row_format="float16")):
        values = layout.encode_rows(decoded, slots, kept_as)
        assert {len(value) for value in values} == {8 + size} and version_of(values[3]) == 3
        np.testing.assert_array_equal(layout.decode_rows([None, *values], 16, kept_as)[0][1:], decoded)
    between = np.array([[1.0, 1 + 2**-8, 1 + 3 * 2**-8, -2.0]], np.float32)  # bfloat16: ties to even
    read, _ = LAYOUT.decode_rows(LAYOUT.encode_rows(between, slots[:1], "bfloat16"), 4, "bfloat16")
    assert read.tolist() == [[1.0, 1.0, 1 + 2**-6, -2.0]]


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
    assert rows.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0]]
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
    with pytest.raises(ConfigError, match="row_format 'int8' must be one of float32, float16"):
        Layout(model="m", run="r", row_format="int8")  # type: ignore[arg-type]
