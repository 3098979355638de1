"""Many events in one message: an Arrow IPC stream whose columns are the fields of its topic's schema.

Such a message begins with four bytes 0xFF, as no JSON does. A row is held to the same rules as a JSON event. ``facts``
is a struct, in which what a row lacks is null. One column holds ids of one type: a producer with integers and strings
sends two messages, or JSON.

>>> from recsys.events import Impression
>>> from recsys.streams.source import Partition
>>> shown = [Impression("r1", 7, 3, 0), Impression("r2", 7, 4, 5)]
>>> record = Record(Partition("impressions", 0), 12, encode_events("impressions", shown))
>>> [(row.offset, row.row, row.payload.item_id) for row in rows_of(record)]
[(12, 0, 3), (12, 1, 4)]
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from pyarrow import types

from recsys.errors import DataError, EventError
from recsys.events import FACTS, SCHEMAS, VERSION, Event, Facts, FactsOf, Id, Owner, Schema, Text, TimeMs, check_version
from recsys.streams.source import Record

_ARROW = b"\xff\xff\xff\xff"
_row_encoder = msgspec.json.Encoder()


def is_batch(payload: object) -> bool:
    """Whether a payload is a message of many events.

    >>> is_batch(b'{"end":true}'), is_batch(encode_events("actions", []))
    (False, True)
    """
    return isinstance(payload, bytes) and payload[:4] == _ARROW


def rows_of(record: Record) -> list[Record]:
    """The rows of a message of many events, each a record of its own: an event, or as JSON what is none.

    Raises EventError with the reason where a column is missing or of another type, where the message is of a newer
    version than this knows, and where the bytes are something else: then none of its rows can be used.
    """
    assert isinstance(record.payload, bytes)
    topic = record.partition.topic
    table = _read(topic, record.payload)
    payloads = _as_events(topic, [_values(column) for column in table.columns])
    return [Record(record.partition, record.offset, payload, row) for row, payload in enumerate(payloads)]


def encode_events(topic: str, events: Sequence[Event]) -> bytes:
    """Events of a topic as one message; DataError where a column would hold values of several types."""
    columns = {}
    for name, kind in SCHEMAS[topic].fields.items():
        values = [getattr(event, name) for event in events]
        try:
            columns[name] = pa.array(values, None if values else _COLUMNS[kind].none)
        except pa.ArrowException as error:
            raise DataError(f"{topic}: column {name!r} would hold several types ({error}); send them apart") from error
    batch = pa.record_batch(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _read(topic: str, payload: bytes) -> pa.Table:
    """The columns of the topic's schema, checked."""
    source = pa.BufferReader(payload)
    try:
        with pa.ipc.open_stream(source) as reader:
            _check_schema(topic, reader.schema)
            table = reader.read_all().select(list(SCHEMAS[topic].fields))
        table.validate(full=True)  # offsets beyond the data would be read as they are
    except EventError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise EventError(f"{topic}: not an Arrow stream of events ({len(payload)} bytes): {error}") from error
    if source.tell() < len(payload):
        raise EventError(f"{topic}: {len(payload) - source.tell()} bytes after the Arrow stream; send one a message")
    return table


def _check_schema(topic: str, schema: pa.Schema) -> None:
    """Raise EventError unless this is a version that is known, and has every column in a type that fits."""
    said = (schema.metadata or {}).get(VERSION.encode(), b"1")
    if not said.isdigit() or int(said) < 1:
        raise EventError(f"{topic}: {VERSION} {said!r} is no version; write a number from 1 on")
    check_version(topic, int(said))
    for name, kind in SCHEMAS[topic].fields.items():
        if schema.names.count(name) != 1:
            there = "is missing" if name not in schema.names else "is there more than once"
            raise EventError(f"{topic}: column {name!r} {there}; there are {', '.join(schema.names) or 'none'}")
        column, found = _COLUMNS[kind], schema.field(name).type
        if not column.fits(found):
            raise EventError(f"{topic}: column {name!r} has type {found}; it must be {column.wanted}")


def _as_events(topic: str, columns: list[list[Any]]) -> Sequence[Event | bytes]:
    """Events; a row that is none stays as JSON, which says to its reader, as to ``events.decode``, what is wrong."""
    schema = SCHEMAS[topic]
    try:
        checked = [
            msgspec.convert(column, list[kind])  # type: ignore[valid-type]
            for column, kind in zip(columns, schema.fields.values(), strict=True)
        ]
        events: list[Event] = list(map(schema.event, *checked))  # by columns: four times as fast as by rows
    except msgspec.ValidationError:
        return [_event_or_json(schema, row) for row in zip(*columns, strict=True)]
    finite = topic != FACTS or all(_is_finite(event) for event in events)
    return events if finite else [_event_or_json(schema, row) for row in zip(*columns, strict=True)]


def _event_or_json(schema: Schema, row: tuple[Any, ...]) -> Event | bytes:
    fields = dict(zip(schema.fields, row, strict=True))
    try:
        event = msgspec.convert(fields, schema.event)
    except msgspec.ValidationError:
        return _row_encoder.encode(fields)
    return event if _is_finite(event) else _row_encoder.encode(fields)  # JSON has no NaN: it is null there


def _is_finite(event: Event) -> bool:
    """Whether no fact is a NaN or infinite."""
    facts = event.facts.values() if isinstance(event, Facts) else ()
    return all(math.isfinite(fact) for fact in facts if isinstance(fact, float))


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column as Python values; in structs, without what is null."""
    if types.is_struct(column.type):
        return [None if facts is None else _without_nulls(facts) for facts in column.to_pylist()]
    if types.is_integer(column.type) and column.null_count == 0:
        return column.to_numpy().tolist()  # ten times as fast as to_pylist
    return column.to_pylist()


def _without_nulls(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}


def _is_text(found: pa.DataType) -> bool:
    return types.is_string(found) or types.is_large_string(found)


def _is_id(found: pa.DataType) -> bool:
    return types.is_integer(found) or _is_text(found)


def _is_fact(found: pa.DataType) -> bool:
    if types.is_list(found) or types.is_large_list(found):
        return _is_id(found.value_type) or types.is_null(found.value_type)
    return _is_id(found) or types.is_float32(found) or types.is_float64(found) or types.is_null(found)


def _is_facts(found: pa.DataType) -> bool:
    if not types.is_struct(found):
        return False
    names = [field.name for field in found]
    return len(set(names)) == len(names) and all(_is_fact(field.type) for field in found)


class _Column(NamedTuple):
    fits: Callable[[pa.DataType], bool]
    wanted: str
    none: pa.DataType  # of a column without rows


_FACTS = "a struct of integers, floats, strings, or lists of integers or strings, each name once"
_COLUMNS: dict[Any, _Column] = {
    Text: _Column(_is_text, "string", pa.string()),
    Owner: _Column(_is_text, "string", pa.string()),
    Id: _Column(_is_id, "integers or strings", pa.int64()),
    TimeMs: _Column(types.is_integer, "integers (milliseconds since 1970)", pa.int64()),
    FactsOf: _Column(_is_facts, _FACTS, pa.struct([])),
}
