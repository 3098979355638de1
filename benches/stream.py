"""How fast events and examples come out of a real Kafka, beside a bare consumer: ``make bench-stream``.

The bare consumer is kafka-python's own, with its own settings, and throws away what it reads. Leaves ``stream.json``
and ``stream.html`` in ``runs/bench``. ``--quick`` is a small form that says nothing about speed. A measure is a
function from ``Sizes`` and the broker's address to results: add it to ``MEASURES``.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaConsumer, TopicPartition

from benches.neighbours import Neighbours
from benches.result import Result, Target, Values, against, alone, beside, write_results
from benches.running import Told, command_line, run
from benches.stream_data import FEATURES, NUM_PARTITIONS, event_messages, example_messages
from recsys.batches.batch import LabelledBatch
from recsys.batches.batches import BatchStream, TopicFeed
from recsys.batches.examples import ExampleRows, decode_rows, to_batch
from recsys.batches.row_merge import PickedRows, RowMerge
from recsys.embedded.kafka import EmbeddedKafka
from recsys.events import END, EXAMPLES, IMPRESSIONS, decode, encode
from recsys.streams.event_batches import encode_events, rows_of
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.kafka_topics import create_topics
from recsys.streams.source import Partition, Record
from recsys.training.report import Plot

TITLE = "Streams"
OF_BARE, EXAMPLES_A_SECOND = Target(value=0.7), Target(value=500_000)
_EVENTS = 1000  # in an Arrow message


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much of everything."""

    events: int = 150_000
    examples: int = 1_000  # in a message
    messages: int = 60  # of examples, a partition
    rounds: int = 7

    @property
    def num_examples(self) -> int:
        """In all partitions."""
        return self.examples * self.messages * NUM_PARTITIONS


QUICK = Sizes(events=2_000, examples=50, messages=4, rounds=2)
Clocked = tuple[float, float]  # seconds on the wall, and of this process on all cores


def measure(sizes: Sizes, folder: Path, told: Told) -> list[Result]:
    """All measures; writes what they found into ``folder``."""
    neighbours, results = Neighbours(), []
    with EmbeddedKafka(Path(tempfile.mkdtemp(prefix="kafka-", dir=folder))) as kafka:
        servers = kafka.bootstrap_servers
        told(f"filling topics: {sizes.events:,} events, {sizes.num_examples:,} examples")
        fill(servers, sizes)
        for what, measured in MEASURES.items():
            told(what)
            results += measured(sizes, servers)
        told("fetch sizes")
        swept, plot = fetch_sizes(sizes, servers)
    others = neighbours.cores_used() or 0.0
    results = beside([*results, *swept], others)
    about = {"sizes": str(sizes), "cores used by others": others}
    told(f"written: {', '.join(map(str, write_results(folder, 'stream', TITLE, results, about, [plot])))}")
    return results


def fill(servers: str, sizes: Sizes) -> None:
    """The topics that are read, each ended in every partition."""
    create_topics(servers, dict.fromkeys((IMPRESSIONS, EXAMPLES), NUM_PARTITIONS))
    with KafkaSink(servers) as sink:
        for partition, payload in event_messages(IMPRESSIONS, sizes.events):
            sink.send(partition, payload)
        for partition, payload in example_messages(EXAMPLES, sizes.examples, sizes.messages):
            sink.send(partition, payload)
        for topic in (IMPRESSIONS, EXAMPLES):
            for partition in partitions_of(topic):
                sink.send(partition, encode(END))


def events(sizes: Sizes, servers: str) -> list[Result]:
    """JSON events read and decoded, in turns with the bare consumer; and the same events decoded alone."""
    bare, ours = in_turns(sizes.rounds, partial(drop_all, servers, IMPRESSIONS), partial(decode_all, servers))
    rate = sizes.events
    peer = "a bare consumer that throws them away"
    shown = [decode(IMPRESSIONS, payload) for _, payload in event_messages(IMPRESSIONS, _EVENTS)]
    as_json, as_arrow = [encode(event) for event in shown], encode_events(IMPRESSIONS, shown)
    record = Record(Partition(IMPRESSIONS, 0), 0, as_arrow)
    times = in_turns(10 * sizes.rounds, lambda: [decode(IMPRESSIONS, p) for p in as_json], lambda: rows_of(record))
    return [
        against("JSON events read and decoded", "events/s", rate / ours[0], peer, rate / bare[0], OF_BARE),
        against("… by the CPU's clock", "events/s", rate / ours[1], peer, rate / bare[1]),
        alone("decoding alone, JSON", "ns an event", 1e9 * times[0][1] / _EVENTS),
        alone(f"decoding alone, Arrow messages of {_EVENTS:,} events", "ns an event", 1e9 * times[1][1] / _EVENTS),
    ]


def examples(sizes: Sizes, servers: str) -> list[Result]:
    """Examples from Kafka to batches of several sizes, in turns with the bare consumer, and what each step takes."""
    batch_sizes = (64, 256, 4_096)
    bare, *ours = in_turns(
        sizes.rounds,
        partial(drop_all, servers, EXAMPLES),
        *(partial(batch_all, servers, size, sizes.num_examples) for size in batch_sizes),
    )
    results = [alone(f"bare consumer, messages of {sizes.examples:,} examples", "MB/s", megabytes_of(sizes) / bare[0])]
    for size, (seconds, cpu_seconds) in zip(batch_sizes, ours, strict=True):
        said = f"Arrow examples of {len(FEATURES)} features to batches of {size:,}"
        results.append(alone(said, "examples/s", sizes.num_examples / seconds, EXAMPLES_A_SECOND))
        results.append(alone("… by the CPU's clock", "examples/s", sizes.num_examples / cpu_seconds))
    results.append(alone("of which: Kafka's client", "ns an example", 1e9 * bare[1] / sizes.num_examples))
    return results + steps(sizes)


def steps(sizes: Sizes) -> list[Result]:
    """CPU time of each step from a message to a batch, without Kafka."""
    messages = list(example_messages(EXAMPLES, sizes.examples, min(2, sizes.messages)))
    num = len(messages) * sizes.examples
    parts = [(partition.index, decode_rows(payload)) for partition, payload in messages]
    picked = merge_all(parts)
    rows = picked.gather()
    batch = to_batch(rows, FEATURES)
    taken: dict[str, Callable[[], object]] = {
        "messages read and checked": lambda: [decode_rows(payload) for _, payload in messages],
        "rows merged": lambda: merge_all(parts),
        "rows gathered": picked.gather,
        "columns made arrays": lambda: to_batch(rows, FEATURES),
        "cut into batches of 64": lambda: cut(batch),
    }
    times = in_turns(3 * sizes.rounds, *taken.values())
    return [
        alone(f"of which: {name}", "ns an example", 1e9 * cpu_seconds / num)
        for name, (_, cpu_seconds) in zip(taken, times, strict=True)
    ]


def fetch_sizes(sizes: Sizes, servers: str) -> tuple[list[Result], Plot]:
    """MB/s of CPU time of the consumer alone, by what a request brings per partition; twice as much in all."""
    kibs = (256, 512, 1024, 2048, 4096)
    megabytes = megabytes_of(sizes)
    times = in_turns(sizes.rounds, *(partial(drop_all, servers, EXAMPLES, fetch_kib=kib) for kib in kibs))
    rates = [megabytes / cpu_seconds for _, cpu_seconds in times]
    results = [
        alone(f"examples read alone, {kib} KiB a fetch and partition", "MB/s of CPU time", rate)
        for kib, rate in zip(kibs, rates, strict=True)
    ]
    medians = [float(np.median(rate)) for rate in rates]
    series = {"consumer": (list(kibs), medians)}
    return results, Plot("What one fetch brings", "KiB a partition", "MB/s of CPU time", series, log_x=True)


# What others measure of a stream (the joiner's events a second, online against in-memory training) goes here too.
MEASURES: dict[str, Callable[[Sizes, str], list[Result]]] = {
    "JSON events": events,
    "Arrow examples": examples,
}


def megabytes_of(sizes: Sizes) -> float:
    """In the examples' topic."""
    per_round = sum(len(payload) for _, payload in example_messages(EXAMPLES, sizes.examples, 1))
    return per_round * sizes.messages / 1e6


def in_turns(rounds: int, *contenders: Callable[[], object]) -> list[tuple[Values, Values]]:
    """Seconds on the wall and of this process, by round, of each contender; what a first round warms is left out."""
    seconds = np.zeros((len(contenders), 2, rounds))
    for at in range(-1, rounds):
        for number, contender in enumerate(contenders):
            started, busy = time.perf_counter(), time.process_time()
            contender()
            if at >= 0:
                seconds[number, :, at] = time.perf_counter() - started, time.process_time() - busy
    return [(wall, cpu) for wall, cpu in seconds]


def partitions_of(topic: str) -> list[Partition]:
    """All of a topic."""
    return [Partition(topic, index) for index in range(NUM_PARTITIONS)]


def drop_all(servers: str, topic: str, fetch_kib: int | None = None) -> None:
    """Read a topic from end to end with kafka-python alone; by default a fetch is 1 MiB a partition, 50 MiB in all."""
    options: dict[str, Any] = {"bootstrap_servers": servers, "group_id": None, "enable_auto_commit": False}
    if fetch_kib is not None:
        options |= {"max_partition_fetch_bytes": 1024 * fetch_kib, "fetch_max_bytes": 2048 * fetch_kib}
    consumer = KafkaConsumer(**options)
    names = [TopicPartition(topic, index) for index in range(NUM_PARTITIONS)]
    consumer.assign(names)
    left = sum(consumer.end_offsets(names).values())
    consumer.seek_to_beginning(*names)
    while left > 0:
        left -= sum(map(len, consumer.poll(timeout_ms=500, max_records=2**31).values()))
    consumer.close()


def decode_all(servers: str) -> None:
    """Read the events' topic to its end, as a joiner does, up to the events."""
    with KafkaSource(servers, partitions_of(IMPRESSIONS)) as source:
        while not all(map(source.caught_up, source.partitions)):
            for record in source.next_batch(2_000):
                assert isinstance(record.payload, bytes)
                decode(record.partition.topic, record.payload)


def batch_all(servers: str, max_examples: int, num_examples: int) -> None:
    """Read the examples' topic to its end, as a worker does, up to its batches."""
    with KafkaSource(servers, partitions_of(EXAMPLES)) as source:
        stream = BatchStream(TopicFeed(source), FEATURES, max_examples=max_examples)
        while not stream.finished:
            num_examples -= sum(cut.batch.num_examples for cut in stream.poll())
    assert num_examples == 0


def merge_all(parts: Iterable[tuple[int, ExampleRows]]) -> PickedRows:
    """The rows of some messages in their order."""
    merge = RowMerge(range(NUM_PARTITIONS))
    for index, part in parts:
        merge.put_rows(index, part.rows, part.rows.column("emitted_ms").to_numpy())
    for index in range(NUM_PARTITIONS):
        merge.close(index)
    return merge.ready_rows()


def cut(examples: LabelledBatch) -> list[LabelledBatch]:
    """Batches of 64."""
    return [examples.part(start, start + 64) for start in range(0, examples.num_examples - 63, 64)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    given = command_line(__doc__).parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    return run(TITLE, lambda told: measure(QUICK if given.quick else Sizes(), given.folder, told))


if __name__ == "__main__":
    sys.exit(main())
