"""Examples through Arrow and back: ids of every kind, empty bags, messages that are something else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.batch import Bag, LabelledBatch, candidate_batch
from recsys.batches.examples import Example, decode_rows, encode_rows, example_schema, to_batch, to_rows
from recsys.batches.merge import FOREVER
from recsys.errors import DataError
from recsys.events import END_PAYLOAD, Impression, encode
from recsys.features.declarations import Feature
from recsys.features.packing import pack, unpack

FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
    Feature(name="genres", kind="bag", source="item.genres"),
    Feature(name="hour", kind="number", source="time.hour_of_day"),
)
SCHEMA = example_schema(FEATURES)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
INT64 = st.integers(-(2**63), 2**63 - 1)
IDS = INT64 | TEXT | st.sampled_from([7, "7", '"7', '"', "-7", "\0", "é", "7\n"])
TIMES = st.integers(0, 2**53)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
RATES = st.floats(width=32, min_value=0, max_value=1, exclude_min=True)


def packed(values: dict[str, Any]) -> bytes:
    return pack(values[name] for name in ("user", "odds", "genres", "hour") if name in values)


EXAMPLES = st.lists(
    st.builds(
        Example,
        request_id=TEXT,
        user_id=IDS,
        item_id=IDS,
        time_ms=TIMES,
        emitted_ms=TIMES,
        label=FLOATS,
        weight=FLOATS,
        read_at_ms=TIMES,
        keep_rate=RATES,
        positive_rate=RATES,
        negative_rate=RATES,
        values=st.fixed_dictionaries(
            {
                "user": st.lists(INT64, max_size=1),
                "odds": FLOATS,
                "genres": st.lists(INT64, max_size=4),
                "hour": FLOATS,
            }
        ).map(packed),
    ),
    max_size=6,
)


def example(values: dict[str, Any], **fields: Any) -> Example:
    given = {"request_id": "r", "user_id": 1, "item_id": 2, "time_ms": 3, "emitted_ms": 4, "label": 1.0}
    return Example(**{**given, **fields}, values=packed(values))


def values_of(example: Example) -> dict[str, Any]:
    return dict(
        zip(["user", "odds", "genres", "hour"], unpack(example.values, [False, True, False, True]), strict=True)
    )


def lists_of(bag: Bag) -> list[list[int]]:
    return [bag.ids_N[start:end].tolist() for start, end in zip(bag.offsets[:-1], bag.offsets[1:], strict=True)]


def check(batch: LabelledBatch, examples: Sequence[Example]) -> None:
    """Every value is that of the example, in the type a model takes."""
    assert batch.num_examples == len(examples)
    for name in ("user", "genres"):
        bag = batch.bags[name]
        assert lists_of(bag) == [values_of(example)[name] for example in examples]
        assert bag.ids_N.dtype == bag.offsets.dtype == np.int64
        assert bag.ids_N.flags.writeable and bag.ids_N.flags.c_contiguous
        assert len(bag.offsets) == len(examples) + 1 and bag.offsets[-1] == len(bag.ids_N)
    assert list(batch.bags) == ["user", "genres"]
    assert batch.numbers_BM.dtype == batch.labels_B.dtype == batch.weights_B.dtype == np.float32
    assert batch.numbers_BM.tolist() == [[values["odds"], values["hour"]] for values in map(values_of, examples)]
    assert batch.numbers_BM.shape == (len(examples), 2) and batch.numbers_BM.flags.writeable
    assert batch.labels_B.tolist() == [example.label for example in examples]
    assert batch.weights_B.tolist() == [example.weight for example in examples]
    assert batch.rates is not None and all(rates_B.dtype == np.float32 for rates_B in batch.rates)
    assert batch.rates.own_B.tolist() == batch.keep_rates_B.tolist() == [example.keep_rate for example in examples]
    assert batch.rates.positives_B.tolist() == [example.positive_rate for example in examples]
    assert batch.rates.negatives_B.tolist() == [example.negative_rate for example in examples]
    assert list(batch.request_ids) == [example.request_id for example in examples]
    for name in ("user_id", "item_id"):
        ids = list(getattr(batch, f"{name}s"))
        expected = [getattr(example, name) for example in examples]
        assert ids == expected and list(map(type, ids)) == list(map(type, expected))
    assert batch.times_ms_B.tolist() == [example.time_ms for example in examples]
    assert batch.read_at_ms_B.tolist() == [example.read_at_ms for example in examples]


@settings(deadline=None)
@given(EXAMPLES, st.integers(-1, FOREVER))
def test_examples_survive_the_topic(examples: list[Example], watermark_ms: int) -> None:
    rows = to_rows(examples, SCHEMA, watermark_ms)
    read = decode_rows(encode_rows(rows))
    assert read.watermark_ms == rows.watermark_ms == watermark_ms
    assert read.rows.to_pylist() == rows.rows.to_pylist()
    assert read.rows.column("emitted_ms").to_pylist() == [example.emitted_ms for example in examples]
    check(to_batch(rows.rows, FEATURES), examples)
    check(to_batch(read.rows, FEATURES), examples)


@settings(deadline=None)
@given(EXAMPLES, st.data())
def test_a_batch_of_a_slice_or_of_several_chunks(examples: list[Example], data) -> None:
    rows = to_rows(examples, SCHEMA, 0).rows
    cut = data.draw(st.integers(0, len(examples)))
    check(to_batch(rows.slice(cut), FEATURES), examples[cut:])
    check(to_batch(rows.slice(0, cut), FEATURES), examples[:cut])
    check(
        to_batch(pa.Table.from_batches([rows.slice(cut), rows.slice(0, cut)]), FEATURES),
        examples[cut:] + examples[:cut],
    )


def test_an_empty_batch() -> None:
    check(to_batch(to_rows([], SCHEMA, 5).rows, FEATURES), [])
    assert decode_rows(encode_rows(to_rows([], SCHEMA, 5))).watermark_ms == 5


def test_examples_from_before_there_was_sampling_were_all_kept() -> None:
    rows = to_rows([example({"user": [5], "odds": 0.5, "genres": [], "hour": 1.0})], SCHEMA, 0).rows
    batch = to_batch(rows.drop_columns(["keep_rate", "positive_rate", "negative_rate"]), FEATURES)
    assert batch.rates is None and batch.keep_rates_B.tolist() == [1.0]


def test_features_may_be_all_sparse() -> None:
    features = FEATURES[:1]
    batch = to_batch(to_rows([example({"user": [5]})], example_schema(features), 0).rows, features)
    assert batch.numbers_BM.shape == (1, 0) and batch.numbers_BM.dtype == np.float32


MESSAGE = encode_rows(to_rows([example({"user": [5], "odds": 0.5, "genres": [], "hour": 1.0})], SCHEMA, 9))


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", END_PAYLOAD, encode(Impression("r", 1, 2, 3)), b"\0" * 100, MESSAGE[:60], MESSAGE[:-400]],
)
def test_a_message_that_is_something_else_is_a_data_error(payload: bytes) -> None:
    with pytest.raises(DataError, match=rf"not a message of examples \({len(payload)} bytes\)"):
        decode_rows(payload)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_a_data_error(payload: bytes) -> None:
    with pytest.raises(DataError):
        decode_rows(payload)


@settings(deadline=None)
@given(st.integers(0, len(MESSAGE) - 1))
def test_a_message_cut_short_is_a_data_error_or_whole(length: int) -> None:
    try:
        rows = decode_rows(MESSAGE[:length])  # Arrow needs no end of stream
    except DataError:
        return
    assert rows.rows.num_rows == 1 and rows.watermark_ms == 9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(MESSAGE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_damaged_message_is_a_data_error_or_can_be_read(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(MESSAGE)
    for at, value in changes:
        damaged[at] = value
    try:
        rows = decode_rows(bytes(damaged)).rows
    except DataError:
        return
    assert len(rows.serialize()) > 0  # reads all of it, and stays within its memory


def test_a_stream_without_a_watermark_or_with_no_number_is_a_data_error() -> None:
    batch = to_rows([], SCHEMA, 0).rows
    for metadata in (None, {"other": "1"}, {"watermark_ms": "soon"}):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.replace_schema_metadata(metadata).schema) as writer:
            writer.write_batch(batch.replace_schema_metadata(metadata))
        with pytest.raises(DataError, match="not a message of examples"):
            decode_rows(bytes(sink.getvalue()))


def test_examples_joined_with_other_features_are_a_data_error_that_names_the_column() -> None:
    rows = to_rows([example({"user": [5]})], example_schema(FEATURES[:1]), 0).rows
    with pytest.raises(DataError, match=r"'feature\.odds'|'feature\.genres'"):
        to_batch(rows, FEATURES)


@pytest.mark.parametrize("texts", [["x"], [None], ["7", "x"], ['"7', "x"], ["9223372036854775808"], [""]])
def test_what_is_no_id_is_a_data_error_that_names_the_column(texts: list[str | None]) -> None:
    rows = to_rows([example({"user": [5]})] * len(texts), example_schema(FEATURES[:1]), 0).rows
    at = rows.schema.get_field_index("item_id")
    with pytest.raises(DataError, match="column 'item_id' holds"):
        to_batch(rows.set_column(at, "item_id", pa.array(texts, pa.string())), FEATURES[:1])


@given(
    st.lists(INT64, max_size=1),
    FLOATS,
    st.lists(st.tuples(st.lists(INT64, max_size=4), FLOATS), max_size=5),
)
def test_candidates_are_the_batch_of_examples_with_the_same_values(user, odds, items) -> None:
    shared = {"user": user, "odds": odds}
    of_items = [{"genres": genres, "hour": hour} for genres, hour in items]
    batch = candidate_batch(FEATURES, shared, of_items)
    trained = to_batch(to_rows([example({**shared, **one}) for one in of_items], SCHEMA, 0).rows, FEATURES)
    assert batch.num_examples == len(items) and batch.bags.keys() == trained.bags.keys()
    for name, bag in trained.bags.items():
        np.testing.assert_array_equal(batch.bags[name].ids_N, bag.ids_N, strict=True)
        np.testing.assert_array_equal(batch.bags[name].offsets, bag.offsets, strict=True)
    np.testing.assert_array_equal(batch.numbers_BM, trained.numbers_BM, strict=True)


@given(st.lists(st.lists(INT64, max_size=4)))
def test_a_bag_of_lists(lists: list[list[int]]) -> None:
    bag = Bag.of_lists(lists)
    assert lists_of(bag) == lists
    assert bag.ids_N.dtype == bag.offsets.dtype == np.int64
