"""Where an online run's events come from, as values that can be sent to an actor and opened there."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.batches.outbox import Number
from recsys.events import ACTIONS, EXAMPLES, FACTS, IMPRESSIONS
from recsys.streams.dead_letters import DEAD_LETTERS, DeadLetters
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.parquet import ParquetSource
from recsys.streams.replay import Sent
from recsys.streams.source import Partition, Position, Record, Source


@dataclass(frozen=True, kw_only=True)
class ParquetEvents:
    """Event files: topic → paths."""

    paths: Mapping[str, Sequence[Path]]
    num_partitions: int

    def open(self, partitions: Sequence[int]) -> Source:
        """The events of some partitions, and all facts."""
        return ParquetSource(self.paths, self.num_partitions, partitions=_inputs(partitions, self.num_partitions))


@dataclass(frozen=True, kw_only=True)
class KafkaEvents:
    """Topics of a broker; examples go through the broker too. It may be gone for ``outage_seconds``."""

    bootstrap_servers: str
    num_partitions: int
    start: str | int = "earliest"
    security: Mapping[str, Any] = field(default_factory=dict)
    outage_seconds: float = 120.0

    @property
    def topics(self) -> dict[str, int]:
        """Every topic of a run with its number of partitions."""
        return dict.fromkeys((IMPRESSIONS, ACTIONS, FACTS, EXAMPLES, DEAD_LETTERS), self.num_partitions)

    def open(self, partitions: Sequence[int]) -> Source:
        """The events of some partitions, and all facts."""
        return self._source(_inputs(partitions, self.num_partitions), self.start)

    def examples_end(self) -> Position:
        """Where the examples topic ends now: what lies before was joined by an earlier run."""
        wanted = [Partition(EXAMPLES, index) for index in range(self.num_partitions)]
        with self._source(wanted, "latest") as source:
            return source.position()

    def last_examples(self, partitions: Sequence[int]) -> dict[int, Number | None]:
        """What the last message of examples of each partition says of itself."""
        wanted = [Partition(EXAMPLES, index) for index in partitions]
        with self._source(wanted, "latest") as source:
            return {partition.index: Number.of(message.headers) for partition, message in source.last().items()}

    def open_examples(self, partitions: Sequence[int], offsets: Mapping[int, int]) -> Source:
        """The joined examples of some partitions, each from an offset on."""
        wanted = [Partition(EXAMPLES, index) for index in partitions]
        source = self._source(wanted)
        source.seek({partition: offsets[partition.index] for partition in wanted})
        return source

    def sent(self, topics: Collection[str]) -> dict[Partition, Sent]:
        """What lies in these topics by partition, as ``replay`` takes it to go on behind it."""
        wanted = [Partition(topic, index) for topic in topics for index in range(self.num_partitions)]
        with self._source(wanted, "latest") as source:
            ends = source.position()
            source.seek({partition: end - 1 for partition, end in ends.items() if end > 0})
            last: dict[Partition, bytes] = {}
            while not all(map(source.caught_up, wanted)):
                last |= {record.partition: _as_bytes(record) for record in source.next_batch()}
        return {partition: Sent(end, last.get(partition, b"")) for partition, end in ends.items()}

    def open_sink(self) -> KafkaSink:
        """A producer."""
        return KafkaSink(self.bootstrap_servers, security=self.security, timeout_seconds=self.outage_seconds)

    def letters(self, partitions: Sequence[int]) -> Iterator[bytes]:
        """The dead letters about some partitions that lie in their topic now."""
        wanted = [Partition(DEAD_LETTERS, index) for index in partitions]
        with self._source(wanted) as source:
            while not all(map(source.caught_up, wanted)):
                yield from map(_as_bytes, source.next_batch())

    def _source(self, partitions: Sequence[Partition], start: str | int = "earliest") -> KafkaSource:
        return KafkaSource(
            self.bootstrap_servers,
            partitions,
            start=start,  # type: ignore[arg-type]
            security=self.security,
            timeout_seconds=self.outage_seconds,
        )


Events = ParquetEvents | KafkaEvents


def open_dead_letters(events: Events, partitions: Sequence[int], folder: Path) -> DeadLetters:
    """Where a joiner of some partitions sets aside what it can not read: the topic, or a file in its folder.

    What lies there of an earlier life, other joiners' folders included, is not written again.
    """
    if isinstance(events, KafkaEvents):
        return DeadLetters(events.open_sink, known=events.letters(partitions), partitions=partitions)
    others = [path for path in folder.parent.glob(f"*/{DEAD_LETTERS}.jsonl") if path.parent != folder]
    known = [line for path in others for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return DeadLetters(folder, known=known, partitions=partitions)


def _as_bytes(record: Record) -> bytes:
    assert isinstance(record.payload, bytes)
    return record.payload


def _inputs(partitions: Sequence[int], num_partitions: int) -> list[Partition]:
    inputs = [Partition(topic, index) for topic in (IMPRESSIONS, ACTIONS) for index in partitions]
    return inputs + [Partition(FACTS, index) for index in range(num_partitions)]
