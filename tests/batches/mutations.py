"""Messages that are nearly right: JSON and Arrow messages of events, seeded, most of them damaged in one place."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from recsys.events import ACTIONS, FACTS, IMPRESSIONS

Row = dict[str, Any]
WORDS = ("like", "look", "war", "é", "日本", "a b", "tt0114709", '"7', "-7", "7")
GENRES = ("Drama", "War", "X")
# Written as they are: some are no JSON, some are JSON that no event may hold, some are right in one field or another.
LITERALS = (
    b"null", b"true", b"false", b'""', b"[]", b"{}", b"0", b"-0", b"1.0", b"0.5", b"1e2", b"1E400", b"-1e400",
    b"1e-400", b"NaN", b"Infinity", b"-Infinity", b"nan", b"01", b"+1", b"1.", b".5", b"-", b"0x10", b"1_000",
    b"9007199254740992", b"9007199254740993", b"9223372036854775807", b"9223372036854775808",
    b"-9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"1" + b"0" * 60,
    b"1" + b"0" * 5000, b"3.5e38", b'"\\ud800"', b'"\\udc00x"', b'"\\ud83d\\ude00"', b'"\\u0000"', b'"\xff"',
    b'"\xc3\x28"', b'"\xed\xa0\x80"', b'"tab\there"', b'"\\x41"', b'"item"', b'"user"', b'"like"',
    b'"item\\n"', b"[1,2]", b'["a",3]', b"[0.5]", b"[[1]]", b"[null]", b'{"a":1}', b'{"age":"old"}',
    b'{"age":1e39}', b'{"genres":0.5}', b'{"a":{"b":1}}', b'{"a":[true]}', b"[" * 30 + b"]" * 30,
    b"[" * 100_000, b'{"a":' * 20 + b"1" + b"}" * 20,
)  # fmt: skip


def fields_of(topic: str, number: int, draw: random.Random) -> Row:
    """A right event of a topic, as plain values; impressions and actions of one number share their request."""
    time_ms = draw.choice([draw.randrange(10**6), draw.randrange(2 * 10**12), 0])
    user: int | str = draw.choice([draw.randrange(50), f"u{draw.randrange(50)}", -(2**63)])
    item: int | str = draw.choice([draw.randrange(50), draw.choice(WORDS), 2**63 - 1])
    if topic == IMPRESSIONS:
        return {"request_id": f"r{number}", "user_id": user, "item_id": item, "time_ms": time_ms}
    if topic == ACTIONS:
        kind = draw.choice(["like", "like", "look"])
        return {"request_id": f"r{number}", "user_id": user, "kind": kind, "time_ms": time_ms}
    values = {
        "age": draw.choice([30, 30.5]), "genres": draw.sample(GENRES, 2), "title": draw.choice(WORDS), "seen": [1, 2],
    }  # fmt: skip
    facts = {name: values[name] for name in values if draw.random() < 0.6}
    return {"of": draw.choice(["user", "item"]), "id": item, "time_ms": time_ms, "facts": facts}


def message(topic: str, number: int, draw: random.Random) -> bytes:
    """One message: a sixth are Arrow, three quarters are damaged."""
    if draw.random() < 1 / 6:
        return _arrow(topic, number, draw)
    written = {
        name: json.dumps(value, ensure_ascii=draw.random() < 0.5).encode()
        for name, value in fields_of(topic, number, draw).items()
    }
    pairs = [(json.dumps(name).encode(), value) for name, value in written.items()]
    if draw.random() < 0.4:
        draw.choice(_PAIRS)(pairs, draw)
    payload = b"{" + b",".join(name + b":" + value for name, value in pairs) + b"}"
    return draw.choice(_BYTES)(payload, draw) if draw.random() < 0.55 else payload


Pairs = list[tuple[bytes, bytes]]


def _replace(pairs: Pairs, draw: random.Random) -> None:
    at = draw.randrange(len(pairs))
    pairs[at] = (pairs[at][0], draw.choice(LITERALS))


def _repeat(pairs: Pairs, draw: random.Random) -> None:
    pairs.insert(draw.randrange(len(pairs) + 1), (draw.choice(pairs)[0], draw.choice(LITERALS)))


def _drop(pairs: Pairs, draw: random.Random) -> None:
    del pairs[draw.randrange(len(pairs))]


def _unknown(pairs: Pairs, draw: random.Random) -> None:
    name = draw.choice([b'"color"', b'""', b'"end"', b'"\xff"', b'"\\ud800"', b'"x\\u0041"'])
    pairs.insert(draw.randrange(len(pairs) + 1), (name, draw.choice(LITERALS)))


def _version(pairs: Pairs, draw: random.Random) -> None:
    name = draw.choice([b'"schema_version"', b'"schema\\u005fversion"'])
    pairs.insert(draw.randrange(len(pairs) + 1), (name, draw.choice([b"1", b"1", b"2", b"0", b'"1"', b"1.0", b"null"])))


def _shuffle(pairs: Pairs, draw: random.Random) -> None:
    draw.shuffle(pairs)


def _escape(pairs: Pairs, draw: random.Random) -> None:
    at = draw.randrange(len(pairs))
    name, value = pairs[at]
    pairs[at] = (b'"\\u%04x' % name[1] + name[2:], value)


def _flip(payload: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(payload)
    for _ in range(draw.choice([1, 1, 1, 2, 5])):
        damaged[draw.randrange(len(damaged))] ^= draw.choice([1 << draw.randrange(8), draw.randrange(1, 256)])
    return bytes(damaged)


def _truncate(payload: bytes, draw: random.Random) -> bytes:
    return payload[: draw.randrange(len(payload))]


def _delete(payload: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(payload))
    return payload[:at] + payload[at + draw.randrange(1, 4) :]


def _insert(payload: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(payload) + 1)
    return (
        payload[:at]
        + draw.choice([b"\xff", b"\0", b" ", b'"', b"\\", b"{", b"]", b",", b"1", b"\xc3\xa9"])
        + payload[at:]
    )


def _twice(payload: bytes, draw: random.Random) -> bytes:
    return payload + draw.choice([b"", b"\n", b" ", b","]) + payload


def _wrap(payload: bytes, draw: random.Random) -> bytes:
    before, after = draw.choice(
        [(b"[", b"]"), (b"\xef\xbb\xbf", b""), (b"\n\t ", b"\r\n"), (b"", b"\0"), (b'{"a":', b"}")]
    )
    return before + payload + after


def _other(payload: bytes, draw: random.Random) -> bytes:
    return draw.choice(
        [b"", b"null", b"\xff\xfe{}", payload.decode(errors="replace").encode("utf-16"), draw.randbytes(40)]
    )


_PAIRS: list[Callable[[Pairs, random.Random], None]] = [
    _replace, _replace, _replace, _repeat, _drop, _unknown, _version, _shuffle, _escape,
]  # fmt: skip
_BYTES: list[Callable[[bytes, random.Random], bytes]] = [
    _flip, _flip, _flip, _truncate, _delete, _insert, _twice, _wrap, _other,
]  # fmt: skip
TYPES: dict[str, list[pa.DataType]] = {
    "request_id": [pa.string(), pa.large_string()],
    "kind": [pa.string(), pa.large_string()],
    "of": [pa.string()],
    "user_id": [pa.int64(), pa.string()],
    "item_id": [pa.int64(), pa.string()],
    "id": [pa.int64(), pa.string(), pa.large_string()],
    "time_ms": [pa.int64(), pa.uint64()],
    "facts": [
        pa.struct(
            [
                ("age", pa.float64()),
                ("genres", pa.list_(pa.string())),
                ("title", pa.string()),
                ("seen", pa.list_(pa.int32())),
            ]
        ),
        pa.struct([("age", pa.float32()), ("genres", pa.large_list(pa.string()))]),
    ],
}
_COLUMNS = [  # nine values each, of types and values that fit one field or none
    pa.array([None] * 9), pa.array([True] * 9), pa.array([0.5] * 9), pa.array([b"x"] * 9), pa.array([[1]] * 9),
    pa.array(["x"] * 9), pa.array([7] * 9), pa.array(["x"] * 9).dictionary_encode(),
    pa.array([7] * 9, pa.timestamp("ms")), pa.array(["7"] * 9, pa.string_view()), pa.array([2**63] * 9, pa.uint64()),
    pa.array([2**53, 2**53 + 1, -1] * 3), pa.array(["", "y", None] * 3), pa.array([{}] * 9),
    pa.array([{"age": True}] * 9), pa.array([{"age": {"a": 1}}] * 9),
    pa.array([{"age": float("nan")}, {"age": 0.5}, None] * 3), pa.array([{"age": 1e39}, {"age": 1e38}, {}] * 3),
    pa.array([{"genres": [1, None]}, {"genres": []}, {}] * 3), pa.array([{"genres": 0.5}, {}, {"genres": None}] * 3),
]  # fmt: skip


def _arrow(topic: str, number: int, draw: random.Random) -> bytes:
    num_rows = draw.randrange(0, 7)
    rows = [fields_of(topic, number * 10 + row, draw) for row in range(num_rows)]
    columns = {name: _column(name, [row[name] for row in rows], draw) for name in fields_of(topic, 0, draw)}
    metadata: dict[str, str] | None = None
    if draw.random() < 0.4:
        metadata = _spoil(columns, num_rows, draw)
    payload = _written(columns, metadata, draw)
    if num_rows and draw.random() < 0.15:
        first = next(iter(columns.values()))
        payload = _with_wrong_offsets(payload, first, draw) if first.type == pa.string() else payload
    return draw.choice(_BYTES)(payload, draw) if draw.random() < 0.5 else payload


def _column(name: str, values: list[Any], draw: random.Random) -> pa.Array:
    kind = draw.choice(TYPES[name])
    if pa.types.is_integer(kind):
        values = [value if isinstance(value, int) else len(value) for value in values]
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        values = [str(value) for value in values]
    return pa.array(values, kind)


def _spoil(columns: dict[str, pa.Array], num_rows: int, draw: random.Random) -> dict[str, str] | None:
    """Change one column, or say a version."""
    name = draw.choice(list(columns))
    what = draw.randrange(4)
    if what == 0:
        del columns[name]
    elif what == 1:
        columns["color"] = draw.choice(_COLUMNS).slice(0, num_rows)
    elif what == 2:
        return {"schema_version": draw.choice(["1", "2", "0", "x", ""])}
    else:
        columns[name] = draw.choice(_COLUMNS).slice(0, num_rows)
    return None


def _with_wrong_offsets(payload: bytes, column: pa.Array, draw: random.Random) -> bytes:
    """Text that begins before, or ends behind, what there is of it: Arrow writes none such, so it is put in after."""
    num_offsets = len(column) + 1
    written = pa.array(column.cast(pa.string())).buffers()[1].to_pybytes()[: 4 * num_offsets]
    wrong = [draw.choice([0, 1, 2, 3, -1, 9, 2**20, 2**31 - 1]) for _ in range(num_offsets)]
    wrong = sorted(wrong) if draw.random() < 0.7 else wrong
    return payload.replace(written, struct.pack(f"<{num_offsets}i", *wrong), 1)


def _written(columns: dict[str, pa.Array], metadata: dict[str, str] | None, draw: random.Random) -> bytes:
    schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()], metadata)
    batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
    options = pa.ipc.IpcWriteOptions(compression=draw.choice([None, None, None, "lz4", "zstd"]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for _ in range(draw.choice([1, 1, 1, 2])):
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


assert set(TYPES) == {name for topic in (IMPRESSIONS, ACTIONS, FACTS) for name in fields_of(topic, 0, random.Random(0))}
