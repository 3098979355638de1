"""Events and joined examples made up for the stream bench, as messages.

Shape suffixes: B examples of a message, N ids of one feature.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from recsys.batches.examples import ExampleRows, encode_rows, example_schema
from recsys.events import Impression, encode
from recsys.features.declarations import Feature
from recsys.streams.source import Partition

NUM_PARTITIONS = 4
_START_MS = 1_700_000_000_000
FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="item", kind="id", source="item.id"),
    *(Feature(name=f"id_{n}", kind="id", source=f"item.id_{n}") for n in range(4)),
    *(Feature(name=f"bag_{n}", kind="bag", source=f"item.bag_{n}") for n in range(3)),
    *(Feature(name=f"number_{n}", kind="number", source=f"item.number_{n}") for n in range(3)),
)


def event_messages(topic: str, num_events: int) -> Iterator[tuple[Partition, bytes]]:
    """Impressions as JSON, in turns over the partitions."""
    for number in range(num_events):
        shown = Impression(f"request-{number}", number % 5_003, f"item-{number % 977}", _START_MS + number)
        yield Partition(topic, number % NUM_PARTITIONS), encode(shown)


def example_messages(topic: str, num_examples: int, num_messages: int) -> Iterator[tuple[Partition, bytes]]:
    """As many messages a partition, of as many examples each; the partitions' times interleave at random."""
    draw = np.random.default_rng(0)
    for number in range(num_messages):
        for index in range(NUM_PARTITIONS):
            rows = _rows(draw, index, number * num_examples, num_examples)
            watermark_ms = _START_MS + number * num_examples
            yield Partition(topic, index), encode_rows(ExampleRows(rows, watermark_ms, number * num_examples))


def _rows(draw: np.random.Generator, index: int, first: int, num_examples: int) -> pa.RecordBatch:
    """Ids of 64 bits, one an id feature and none to nine a bag."""
    times_ms = _START_MS + np.sort(draw.integers(first, first + num_examples, num_examples))
    columns: dict[str, pa.Array] = {
        "request_id": pa.array([f"{index}-{first + row}" for row in range(num_examples)]),
        "user_id": pa.array(draw.integers(0, 10**6, num_examples)).cast(pa.string()),
        "item_id": pa.array(draw.integers(0, 10**6, num_examples)).cast(pa.string()),
    }
    columns |= {name: pa.array(times_ms) for name in ("time_ms", "emitted_ms", "read_at_ms")}
    for feature in FEATURES:
        if feature.kind != "number":
            lengths_B = np.ones(num_examples, np.int64) if feature.kind == "id" else draw.integers(0, 10, num_examples)
            offsets = np.concatenate([[0], np.cumsum(lengths_B)]).astype(np.int32)
            ids_N = draw.integers(-(2**62), 2**62, offsets[-1])
            columns[f"feature.{feature.name}"] = pa.ListArray.from_arrays(offsets, ids_N)
    schema = example_schema(FEATURES)
    numbers = (name for name in schema.names if name not in columns)
    columns |= {name: pa.array(draw.random(num_examples, np.float32)) for name in numbers}
    return pa.record_batch([columns[name] for name in schema.names], schema=schema)
