"""Which messages are events, judged without the decoder: by Python's ``json`` and rules written out here.

The frame of an Arrow message is read by Arrow, as there is no other reader of it; its columns and rows are judged here.
"""

import json
import math
from typing import Any

import pyarrow as pa

from recsys.events import ACTIONS, FACTS, IMPRESSIONS

Row = dict[str, Any]
FIELDS = {
    IMPRESSIONS: {"request_id": "text", "user_id": "id", "item_id": "id", "time_ms": "time"},
    ACTIONS: {"request_id": "text", "user_id": "id", "kind": "text", "time_ms": "time"},
    FACTS: {"of": "owner", "id": "id", "time_ms": "time", "facts": "facts"},
}
NOT_UTF8 = "\U0010fffe"  # stands where bytes were none
MAX_FLOAT32 = 3.4028234663852886e38


class Refused(Exception):
    """Not an event."""


class Object(list):
    """A JSON object as its (name, value) pairs, repeated ones too."""


def judge(topic: str, payload: bytes, now: float) -> list[Row | None] | None:
    """The rows of a message, None for a bad one; None for a message that is bad as a whole."""
    try:
        rows = _arrow_rows(topic, payload) if payload[:4] == b"\xff" * 4 else [_json_row(topic, payload)]
    except Refused:
        return None
    return [row if row is not None and _can_be_used(topic, row, now) else None for row in rows]


def _json_row(topic: str, payload: bytes) -> Row | None:
    pairs = _parsed(payload)
    if not isinstance(pairs, Object):
        raise Refused
    versions = [value for name, value in pairs if name == "schema_version"]
    if any(type(version) is not int or version < 1 for version in versions) or versions[-1:] > [1]:
        return None
    fields = FIELDS[topic]
    for name, value in pairs:
        if name in fields and not _fits(fields[name], value):
            return None
    row = {name: value for name, value in pairs if name in fields}
    if row.keys() != fields.keys():
        return None
    if "facts" in row:
        row["facts"] = dict(row["facts"])
    return row


def _parsed(payload: bytes) -> Any:
    text = payload.decode("utf-8", "surrogateescape")
    text = "".join(NOT_UTF8 if "\udc80" <= char <= "\udcff" else char for char in text)
    try:
        parsed = json.loads(text, object_pairs_hook=Object, parse_constant=_no_constant, parse_int=_int)
    except (ValueError, RecursionError) as error:
        raise Refused from error
    _check_surrogates(parsed)
    return parsed


def _no_constant(name: str) -> None:
    raise Refused


def _int(digits: str) -> int:
    return int(digits) if len(digits) < 100 else 2**200  # neither fits, and Python limits the length of the other


def _check_surrogates(value: Any) -> None:
    """Half a character, written as an escape, is nowhere right; bytes that are no UTF-8 are, where nobody looks."""
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise Refused
    elif isinstance(value, list | tuple):
        for part in value:
            _check_surrogates(part)


def _fits(kind: str, value: Any) -> bool:
    if kind == "text":
        return _is_text(value) and value != ""
    if kind == "id":
        return _is_int64(value) or (_is_text(value) and value != "")
    if kind == "time":
        return type(value) is int and 0 <= value <= 2**53
    if kind == "owner":
        return type(value) is str and value in ("user", "item")
    return isinstance(value, Object) and all(_is_text(name) and _is_fact(fact) for name, fact in value)


def _is_text(value: Any) -> bool:
    return type(value) is str and NOT_UTF8 not in value


def _is_int64(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _is_fact(value: Any) -> bool:
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is list:
        return all(_is_int64(part) or _is_text(part) for part in value)
    return _is_int64(value) or _is_text(value)


def _can_be_used(topic: str, row: Row, now: float) -> bool:
    """Whether its time is not ahead of the clock, and the features ``age`` and ``genres`` can be made of its facts."""
    if row["time_ms"] / 1000 - now > 60:
        return False
    if topic != FACTS:
        return True
    if row["of"] == "user":
        age = row["facts"].get("age", 0)
        return type(age) in (int, float) and abs(age) <= MAX_FLOAT32
    return type(row["facts"].get("genres")) is not float


def _arrow_rows(topic: str, payload: bytes) -> list[Row | None]:
    source, names = pa.BufferReader(payload), list(FIELDS[topic])
    try:
        reader = pa.RecordBatchStreamReader(source)
        schema = reader.schema
        version = (schema.metadata or {}).get(b"schema_version", b"1")
        if version != b"1" or any(schema.names.count(name) != 1 for name in names):
            raise Refused
        if not all(_column_fits(FIELDS[topic][name], schema.field(name).type) for name in names):
            raise Refused
        batches = [batch.select(names) for batch in reader]
        for batch in batches:
            batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Refused from error
    if source.tell() != len(payload):
        raise Refused
    return [_arrow_row(topic, row) for batch in batches for row in batch.to_pylist()]


def _arrow_row(topic: str, row: Row) -> Row | None:
    if row.get("facts") is not None:
        row["facts"] = Object((name, fact) for name, fact in row["facts"].items() if fact is not None)
    if not all(_fits(kind, row[name]) for name, kind in FIELDS[topic].items()):
        return None
    return {name: dict(value) if name == "facts" else value for name, value in row.items()}


_TEXT = {"string", "large_string"}
_INTS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def _column_fits(kind: str, found: pa.DataType) -> bool:
    if kind in ("text", "owner"):
        return str(found) in _TEXT
    if kind != "facts":
        return str(found) in (_INTS if kind == "time" else _INTS | _TEXT)
    if not isinstance(found, pa.StructType):
        return False
    names = [field.name for field in found]
    return len(names) == len(set(names)) and all(_fact_column_fits(field.type) for field in found)


def _fact_column_fits(found: pa.DataType) -> bool:
    if isinstance(found, pa.ListType | pa.LargeListType):
        return str(found.value_type) in _INTS | _TEXT | {"null"}
    return str(found) in _INTS | _TEXT | {"float", "double", "null"}
