"""Arrow messages of events: read back as written, held to the rules of JSON row by row, refused as a whole."""

import json
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError, EventError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, Action, Event, Facts, Impression, decode, encode
from recsys.streams.event_batches import encode_events, is_batch, rows_of
from recsys.streams.source import Partition, Record

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
INTS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.integers(0, 2**53)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def facts_like(number: st.SearchStrategy[Any]) -> st.SearchStrategy[Facts]:
    facts = st.fixed_dictionaries({}, optional={"year": INTS, "score": FLOATS, "title": TEXT, "genres": st.lists(TEXT)})
    return st.builds(Facts, st.sampled_from(["user", "item"]), number, TIMES, facts)


EVENTS = st.sampled_from([INTS, TEXT]).flatmap(
    lambda ids: st.one_of(
        st.tuples(st.just(IMPRESSIONS), st.lists(st.builds(Impression, TEXT, ids, ids, TIMES))),
        st.tuples(st.just(ACTIONS), st.lists(st.builds(Action, TEXT, ids, TEXT, TIMES))),
        st.tuples(st.just(FACTS), st.lists(facts_like(ids))),
    )
)
COLUMNS: dict[str, dict[str, pa.Array]] = {
    IMPRESSIONS: {
        "request_id": pa.array(["a", "b", "c"]),
        "user_id": pa.array([1, 2, 3]),
        "item_id": pa.array(["x", "y", "z"]),
        "time_ms": pa.array([1, 2, 3]),
    },
    ACTIONS: {
        "request_id": pa.array(["a", "b", "c"]),
        "user_id": pa.array([1, 2, 3]),
        "kind": pa.array(["like", "like", "look"]),
        "time_ms": pa.array([1, 2, 3]),
    },
    FACTS: {
        "of": pa.array(["item", "user", "item"]),
        "id": pa.array([1, 2, 3]),
        "time_ms": pa.array([1, 2, 3]),
        "facts": pa.array([{"year": 1999}, {"year": 2000}, {"year": None}]),
    },
}


def message(columns: dict[str, pa.Array], metadata: dict[str, str] | None = None, batches: int = 1) -> bytes:
    batch = pa.record_batch(list(columns.values()), names=list(columns)).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read(topic: str, payload: bytes) -> list[Event | str]:
    """Events, and for each row that is none the reason that its JSON is refused for."""
    records = rows_of(Record(Partition(topic, 2), 7, payload))
    assert [(record.partition, record.offset, record.row) for record in records] == [
        (Partition(topic, 2), 7, row) for row in range(len(records))
    ]
    return [event_or_reason(record) for record in records]


def event_or_reason(record: Record) -> Event | str:
    if not isinstance(record.payload, bytes):
        return record.payload
    with pytest.raises(EventError) as raised:
        decode(record.partition.topic, record.payload)
    return str(raised.value)


@given(EVENTS)
def test_events_are_read_back_as_they_were_written(topic_and_events: tuple[str, list[Event]]) -> None:
    topic, events = topic_and_events
    payload = encode_events(topic, events)
    assert is_batch(payload) and not any(is_batch(encode(event)) for event in events)
    found = read(topic, payload)
    assert found == events
    for event, original in zip(found, events, strict=True):
        assert list(map(type, msgspec.structs.astuple(event))) == list(map(type, msgspec.structs.astuple(original)))


@pytest.mark.parametrize("topic", COLUMNS)
def test_several_record_batches_and_unknown_columns(topic: str) -> None:
    plain = read(topic, message(COLUMNS[topic]))
    assert len(plain) == 3 and not any(isinstance(event, str) for event in plain)
    more = {"color": pa.array([None, [1], []]), **COLUMNS[topic], "x": pa.array([{}, {}, {}])}
    assert read(topic, message(more, batches=2)) == plain + plain
    assert read(topic, message(more, batches=0)) == []


ROWS: list[tuple[str, str, pa.Array, str]] = [
    (IMPRESSIONS, "request_id", pa.array(["a", "", "c"]), "Expected `str` of length >= 1 - at `$.request_id`"),
    (IMPRESSIONS, "request_id", pa.array(["a", None, "c"]), "Expected `str`, got `null` - at `$.request_id`"),
    (IMPRESSIONS, "user_id", pa.array([1, None, 3]), "Expected `int | str`, got `null` - at `$.user_id`"),
    (IMPRESSIONS, "user_id", pa.array([1, 2**63, 3], pa.uint64()), "<= 9223372036854775807 - at `$.user_id`"),
    (IMPRESSIONS, "item_id", pa.array(["x", "", "z"]), "length >= 1 - at `$.item_id`"),
    (IMPRESSIONS, "time_ms", pa.array([1, -1, 3]), "Expected `int` >= 0 - at `$.time_ms`"),
    (IMPRESSIONS, "time_ms", pa.array([1, 2**53 + 1, 3]), "<= 9007199254740992 - at `$.time_ms`"),
    (ACTIONS, "kind", pa.array(["like", "", "look"]), "length >= 1 - at `$.kind`"),
    (FACTS, "of", pa.array(["item", "movie", "item"]), "'movie' - at `$.of`"),
    (FACTS, "facts", pa.array([{"a": 1}, None, {}]), "Expected `object`, got `null` - at `$.facts`"),
    (FACTS, "facts", pa.array([{"a": 0.5}, {"a": float("nan")}, {"a": 1.0}]), "got `null` - at `$.facts[...]`"),
    (FACTS, "facts", pa.array([{"a": 0.5}, {"a": float("-inf")}, {"a": 1.0}]), "got `null` - at `$.facts[...]`"),
    (FACTS, "facts", pa.array([{"a": [1]}, {"a": [None]}, {"a": []}]), "got `null` - at `$.facts[...][0]`"),
]


@pytest.mark.parametrize(("topic", "name", "column", "reason"), ROWS)
def test_a_wrong_row_alone_is_refused_as_its_json_is(topic: str, name: str, column: pa.Array, reason: str) -> None:
    first, wrong, last = read(topic, message({**COLUMNS[topic], name: column}))
    assert isinstance(wrong, str) and wrong.startswith(f"{topic}: ") and reason in wrong
    assert not isinstance(first, str) and not isinstance(last, str)


def test_a_row_that_is_no_event_is_kept_as_json() -> None:
    columns = {**COLUMNS[FACTS], "id": pa.array(["é", None, "z"])}
    wrong = rows_of(Record(Partition(FACTS, 0), 0, message(columns)))[1]
    assert json.loads(wrong.payload) == {"of": "user", "id": None, "time_ms": 2, "facts": {"year": 2000}}


WRONG_TYPES: list[tuple[str, str, pa.Array]] = [
    (IMPRESSIONS, "request_id", pa.array([1, 2, 3])),
    (IMPRESSIONS, "request_id", pa.array([b"a", b"b", b"c"])),
    (IMPRESSIONS, "request_id", pa.array(["a", "b", "c"]).dictionary_encode()),
    (IMPRESSIONS, "user_id", pa.array([0.5, 1.0, 2.0])),
    (IMPRESSIONS, "user_id", pa.array([None, None, None])),
    (IMPRESSIONS, "item_id", pa.array([[1], [2], [3]])),
    (IMPRESSIONS, "time_ms", pa.array(["1", "2", "3"])),
    (IMPRESSIONS, "time_ms", pa.array([1, 2, 3], pa.timestamp("ms"))),
    (ACTIONS, "kind", pa.array([True, False, True])),
    (FACTS, "facts", pa.array(['{"a":1}'] * 3)),
    (FACTS, "facts", pa.array([{"a": True}] * 3)),
    (FACTS, "facts", pa.array([{"a": {"b": 1}}] * 3)),
    (FACTS, "facts", pa.array([{"a": [0.5]}] * 3)),
    (FACTS, "facts", pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int64()))),
    (FACTS, "facts", pa.StructArray.from_arrays([pa.array([1, 2, 3])] * 2, names=["a", "a"])),
]


@pytest.mark.parametrize(("topic", "name", "column"), WRONG_TYPES)
def test_a_column_of_another_type_refuses_the_message(topic: str, name: str, column: pa.Array) -> None:
    with pytest.raises(EventError) as raised:
        read(topic, message({**COLUMNS[topic], name: column}))
    assert str(raised.value).startswith(f"{topic}: column '{name}' has type {column.type}; it must be ")


@pytest.mark.parametrize(("topic", "name"), [(topic, name) for topic, columns in COLUMNS.items() for name in columns])
def test_a_column_that_is_missing_or_there_twice_refuses_the_message(topic: str, name: str) -> None:
    others = {other: column for other, column in COLUMNS[topic].items() if other != name}
    with pytest.raises(EventError, match=f"^{topic}: column '{name}' is missing; there are {', '.join(others)}$"):
        read(topic, message(others))
    twice = pa.record_batch([*COLUMNS[topic].values(), COLUMNS[topic][name]], names=[*COLUMNS[topic], name])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, twice.schema) as writer:
        writer.write_batch(twice)
    with pytest.raises(EventError, match=f"^{topic}: column '{name}' is there more than once"):
        read(topic, sink.getvalue().to_pybytes())


@pytest.mark.parametrize("topic", COLUMNS)
def test_the_version_is_in_the_metadata_of_the_schema(topic: str) -> None:
    assert len(read(topic, message(COLUMNS[topic], {"schema_version": "1", "other": "é"}))) == 3
    newer = {"all": pa.array([1]), "different": pa.array([2])}
    with pytest.raises(EventError, match=f"^{topic}: schema_version 2, this knows 1; upgrade what reads this topic$"):
        read(topic, message(newer, {"schema_version": "2"}))
    for wrong in ("", "0", "-1", "1.0", "two", "²"):
        with pytest.raises(EventError, match=f"^{topic}: schema_version b'.*' is no version"):
            read(topic, message(COLUMNS[topic], {"schema_version": wrong}))


def test_bytes_that_are_no_stream_are_refused() -> None:
    whole = message(COLUMNS[IMPRESSIONS])
    for payload in (whole[:4], whole[:60], whole[:-300], b"\xff" * 200, whole[:4] + b"\xff\xff\xff\x7f" + whole[8:]):
        with pytest.raises(EventError, match=rf"^impressions: not an Arrow stream of events \({len(payload)} bytes\)"):
            read(IMPRESSIONS, payload)
    with pytest.raises(EventError, match=r"^impressions: \d+ bytes after the Arrow stream"):
        read(IMPRESSIONS, whole + whole)


@given(st.lists(st.tuples(st.integers(0, len(message(COLUMNS[FACTS])) - 1), st.integers(0, 255)), min_size=1))
def test_a_damaged_message_gives_rows_or_an_event_error(changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(message(COLUMNS[FACTS]))
    for at, value in changes:
        damaged[at] = value
    try:
        records = rows_of(Record(Partition(FACTS, 0), 0, bytes(damaged)))
    except EventError as error:
        assert str(error).startswith("facts: ")
        return
    for record in records:
        event_or_reason(record)


def test_ids_of_two_types_are_two_messages() -> None:
    with pytest.raises(DataError, match=r"impressions: column 'user_id' would hold several types .*; send them apart"):
        encode_events(IMPRESSIONS, [Impression("a", 1, 2, 3), Impression("b", "one", 2, 3)])
