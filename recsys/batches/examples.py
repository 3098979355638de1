"""Joined examples, and their Arrow form on the ``examples`` topic.

A message is one Arrow IPC stream of one record batch: examples in emission order, and in the schema's metadata the
partition's watermark: no later example of this partition is emitted before it. A message may hold no examples and
just move the watermark. An id or bag feature is a list<int64> column, a number a float32 column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.batches.batch import Bag, KeepRates, LabelledBatch
from recsys.errors import DataError
from recsys.features.columns import columns
from recsys.features.declarations import Feature
from recsys.features.packing import Packed
from recsys.hashing import Floats, id_of_text, id_text

_FEATURE = "feature."
_ID_COLUMNS = ("user_id", "item_id")
_RATES = ("keep_rate", "positive_rate", "negative_rate")


class Example(msgspec.Struct, gc=False):
    """One impression with its final label, and features as of the time it was shown."""

    request_id: str
    user_id: int | str
    item_id: int | str
    time_ms: int  # of the impression
    emitted_ms: int  # event time at which the label became final
    label: float
    values: Packed  # in the order of the features
    weight: float = 1.0
    read_at_ms: int = 0  # wall clock at which the event that made it final was read
    kinds: tuple[str, ...] = ()  # of the actions that counted; not on the topic
    keep_rate: float = 1.0  # the probability with which sampling kept it
    positive_rate: float = 1.0  # the largest that sampling kept examples with an action by
    negative_rate: float = 1.0  # … and those without


@dataclass(frozen=True)
class ExampleRows:
    """Examples as Arrow, with the watermark that came with them.

    ``first`` numbers the first of them among all of its partition: a joiner that is started again may send some twice.
    """

    rows: pa.RecordBatch
    watermark_ms: int = 0
    first: int = 0


def example_schema(features: Sequence[Feature]) -> pa.Schema:
    """Columns of the examples of these features. Ids are kept as strings beside their hashed feature values."""
    fields = [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("time_ms", pa.int64()),
        ("emitted_ms", pa.int64()),
        ("label", pa.float32()),
        ("weight", pa.float32()),
        ("read_at_ms", pa.int64()),
        *((name, pa.float32()) for name in _RATES),
    ]
    for feature in features:
        kind = pa.float32() if feature.kind == "number" else pa.list_(pa.int64())
        fields.append((_FEATURE + feature.name, kind))
    return pa.schema(fields)


def to_rows(examples: Sequence[Example], schema: pa.Schema, watermark_ms: int, first: int = 0) -> ExampleRows:
    """Examples as one record batch."""
    names = [name for name in schema.names if not name.startswith(_FEATURE)]  # features come last
    raw = zip(*map(attrgetter(*names), examples), strict=True) if examples else [()] * len(names)
    found = [
        pa.array(list(map(id_text, values)) if name in _ID_COLUMNS else values, schema.field(name).type)
        for name, values in zip(names, raw, strict=True)
    ]
    are_numbers = [pa.types.is_float32(field.type) for field in list(schema)[len(names) :]]
    found += columns([example.values for example in examples], are_numbers)
    return ExampleRows(pa.record_batch(found, schema=schema), watermark_ms, first)


def encode_rows(rows: ExampleRows) -> bytes:
    """One Kafka message."""
    metadata = {"watermark_ms": str(rows.watermark_ms), "first": str(rows.first)}
    batch = rows.rows.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_rows(payload: bytes) -> ExampleRows:
    """The message that ``encode_rows`` wrote; DataError where it is something else."""
    try:
        with pa.ipc.open_stream(payload) as reader:
            batch = reader.read_next_batch()
        batch.validate(full=True)  # offsets beyond the data would be read as they are
        metadata = batch.schema.metadata or {}
        return ExampleRows(batch, int(metadata[b"watermark_ms"]), int(metadata[b"first"]))
    except (pa.ArrowException, OSError, ValueError, StopIteration, KeyError) as error:
        raise DataError(f"not a message of examples ({len(payload)} bytes): {error!r}") from error


def to_batch(rows: pa.RecordBatch | pa.Table, features: Sequence[Feature]) -> LabelledBatch:
    """Arrow examples as the batch a model takes."""
    bags = {f.name: _bag(rows, f) for f in features if f.kind != "number"}
    numbers = [_numbers(rows, _FEATURE + f.name) for f in features if f.kind == "number"]
    return LabelledBatch(
        bags=bags,
        numbers_BM=np.stack(numbers, axis=1) if numbers else np.zeros((rows.num_rows, 0), np.float32),
        labels_B=_numbers(rows, "label"),
        weights_B=_numbers(rows, "weight"),
        request_ids=_column(rows, "request_id").to_pylist(),
        user_ids=_ids(rows, "user_id"),
        item_ids=_ids(rows, "item_id"),
        times_ms_B=_column(rows, "time_ms").to_numpy(zero_copy_only=False),
        read_at_ms_B=_column(rows, "read_at_ms").to_numpy(zero_copy_only=False),
        rates=_rates(rows),
    )


def _ids(rows: pa.RecordBatch | pa.Table, name: str) -> list[int | str]:
    """The ids that ``id_text`` wrote; of one type, as they nearly always are, all at once."""
    texts = _column(rows, name)
    if texts.null_count:
        raise DataError(f"the examples' column {name!r} holds {texts.null_count} nulls; ids are never null")
    quoted = pc.starts_with(texts, '"')
    try:
        if not pc.any(quoted).as_py():
            return pc.cast(texts, pa.int64()).to_numpy().tolist()
        if pc.all(quoted).as_py():
            return pc.utf8_slice_codeunits(texts, 1).to_pylist()
        return [id_of_text(text) for text in texts.to_pylist()]
    except ValueError as error:  # Arrow's are, too
        raise DataError(f"the examples' column {name!r} holds what is no id: {error}") from error


def _rates(rows: pa.RecordBatch | pa.Table) -> KeepRates | None:
    """The rates that sampling kept the examples by; of examples from before there was sampling, none."""
    if _RATES[0] not in rows.schema.names:
        return None
    return KeepRates(*(_numbers(rows, name) for name in _RATES))


def _bag(rows: pa.RecordBatch | pa.Table, feature: Feature) -> Bag:
    lists = _column(rows, _FEATURE + feature.name)
    offsets = lists.offsets.to_numpy().astype(np.int64)
    # a copy: Arrow's memory is read-only, and torch wants to own what it is given
    return Bag(np.array(lists.flatten(), np.int64), offsets - offsets[0])


def _numbers(rows: pa.RecordBatch | pa.Table, name: str) -> Floats:
    return np.array(_column(rows, name), np.float32)  # a copy: Arrow's memory is read-only


def _column(rows: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    if name not in rows.schema.names:
        raise DataError(
            f"the examples lack column {name!r}; they were joined with other features: use a fresh topic or archive"
        )
    column = rows.column(name)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
