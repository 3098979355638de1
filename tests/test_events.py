"""The wire format: what is written is read back, and everything else is refused with a reason."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import EventError
from recsys.events import (
    ACTIONS,
    END,
    END_PAYLOAD,
    FACTS,
    IMPRESSIONS,
    SCHEMAS,
    Action,
    Facts,
    Impression,
    decode,
    decode_end,
    encode,
)

IDS = st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
TIMES = st.integers(0, 2**53)
FACT_VALUES = (
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | NAMES | st.lists(IDS)
)
EVENTS = st.one_of(
    st.tuples(st.just(IMPRESSIONS), st.builds(Impression, NAMES, IDS, IDS, TIMES)),
    st.tuples(st.just(ACTIONS), st.builds(Action, NAMES, IDS, NAMES, TIMES)),
    st.tuples(
        st.just(FACTS),
        st.builds(Facts, st.sampled_from(["user", "item"]), IDS, TIMES, st.dictionaries(NAMES, FACT_VALUES)),
    ),
)
GOOD = {
    IMPRESSIONS: {"request_id": "r1", "user_id": 7, "item_id": "tt1", "time_ms": 5},
    ACTIONS: {"request_id": "r1", "user_id": 7, "kind": "like", "time_ms": 5},
    FACTS: {"of": "item", "id": 3, "time_ms": 5, "facts": {"year": 1999}},
}
WRONG_ID = [0.5, 1.0, True, None, "", [], {}, 2**63, -(2**63) - 1]
WRONG_NAME = [7, "", None, ["r"], True]
WRONG_TIME = [-1, 2**53 + 1, 1.0, 0.5, "5", True, None]
WRONG = {
    IMPRESSIONS: {
        "request_id": WRONG_NAME,
        "user_id": WRONG_ID,
        "item_id": WRONG_ID,
        "time_ms": WRONG_TIME,
    },
    ACTIONS: {"request_id": WRONG_NAME, "user_id": WRONG_ID, "kind": WRONG_NAME, "time_ms": WRONG_TIME},
    FACTS: {
        "of": [*WRONG_NAME, "items", "users", "movie", "user\n"],
        "id": WRONG_ID,
        "time_ms": WRONG_TIME,
        "facts": [
            None,
            7,
            [],
            {"a": None},
            {"a": True},
            {"a": {}},
            {"a": [0.5]},
            {"a": [[1]]},
            {"a": 2**63},
            {"a": [2**63]},
        ],
    },
}


@given(EVENTS)
def test_an_event_is_read_back_as_it_was_written(topic_and_event) -> None:
    topic, event = topic_and_event
    assert decode(topic, encode(event)) == event
    assert json.loads(encode(event)) == msgspec.to_builtins(event)


@given(IDS)
def test_ids_keep_their_type(id_) -> None:
    event = decode(IMPRESSIONS, encode(Impression("r", id_, id_, 0)))
    assert type(event.user_id) is type(event.item_id) is type(id_)


@pytest.mark.parametrize("topic", GOOD)
def test_unknown_fields_are_ignored(topic: str) -> None:
    expected = decode(topic, json.dumps(GOOD[topic]).encode())
    assert decode(topic, json.dumps({"color": [1, {}], **GOOD[topic], "end": True}).encode()) == expected


@pytest.mark.parametrize(("topic", "field"), [(topic, field) for topic in GOOD for field in GOOD[topic]])
def test_a_missing_field_is_named(topic: str, field: str) -> None:
    fields = {name: value for name, value in GOOD[topic].items() if name != field}
    with pytest.raises(EventError, match=f"^{topic}: .*`{field}`"):
        decode(topic, json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("topic", "field", "value"),
    [(topic, field, value) for topic, fields in WRONG.items() for field in fields for value in fields[field]],
)
def test_a_wrong_field_is_named(topic: str, field: str, value: object) -> None:
    payload = json.dumps({**GOOD[topic], field: value}).encode()
    with pytest.raises(EventError, match=rf"^{topic}: .* - at `\$\.{field}"):
        decode(topic, payload)


@pytest.mark.parametrize("topic", GOOD)
def test_a_newer_version_is_refused_whatever_else_is_in_it(topic: str) -> None:
    expected = decode(topic, json.dumps(GOOD[topic]).encode())
    assert decode(topic, json.dumps({**GOOD[topic], "schema_version": 1}).encode()) == expected
    for fields in ({}, GOOD[topic], dict.fromkeys(GOOD[topic])):
        payload = json.dumps({**fields, "schema_version": 2}).encode()
        for written in (payload, payload.replace(b"schema_version", b"schema\\u005fversion")):
            with pytest.raises(EventError, match=f"^{topic}: schema_version 2, this knows 1; upgrade"):
                decode(topic, written)


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", None, True])
def test_a_wrong_version_is_named(version: object) -> None:
    payload = json.dumps({**GOOD[ACTIONS], "schema_version": version}).encode()
    with pytest.raises(EventError, match=r"^actions: .* - at `\$\.schema_version`"):
        decode(ACTIONS, payload)


def test_every_topic_of_events_has_a_schema() -> None:
    assert {topic: schema.version for topic, schema in SCHEMAS.items()} == {IMPRESSIONS: 1, ACTIONS: 1, FACTS: 1}
    assert {topic: list(schema.fields) for topic, schema in SCHEMAS.items()} == {t: list(GOOD[t]) for t in GOOD}


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b"\xff\xfe",
        b'{"request_id":"r1"',
        b'{"request_id":"\xff","user_id":7,"item_id":1,"time_ms":5}',
        b'{"request_id":"\\ud800","user_id":7,"item_id":1,"time_ms":5}',
        b'{"request_id":"r1","user_id":NaN,"item_id":1,"time_ms":5}',
        b'{"request_id":"r1","user_id":1e400,"item_id":1,"time_ms":5}',
        b'{"request_id":"r1","user_id":7,"item_id":1,"time_ms":5} x',
        b'{"request_id":"r1","user_id":7,"item_id":1,"time_ms":5,"x":' + b"[" * 100_000,
    ],
)
def test_what_is_no_json_object_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(EventError, match=r"^impressions: .+"):
        decode(IMPRESSIONS, payload)


@pytest.mark.parametrize("fact", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 400])
def test_facts_are_numbers_that_a_feature_can_hold(fact: bytes) -> None:
    with pytest.raises(EventError, match=r"^facts: "):
        decode(FACTS, b'{"of":"item","id":1,"time_ms":0,"facts":{"a":%s}}' % fact)


@given(st.binary(max_size=80), st.sampled_from(list(GOOD)))
def test_random_bytes_are_an_event_or_an_event_error(payload: bytes, topic: str) -> None:
    try:
        decode(topic, payload)
    except EventError as error:
        assert str(error).startswith(f"{topic}: ")


@pytest.mark.parametrize("topic", GOOD)
def test_the_end_marker_is_one_payload_in_every_topic(topic: str) -> None:
    assert encode(END) == END_PAYLOAD
    assert decode(topic, END_PAYLOAD) is decode_end(END_PAYLOAD) is END
    assert decode_end(encode(Impression("r", 1, 2, 3))) is None
