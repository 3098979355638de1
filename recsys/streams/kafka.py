"""Kafka as a source and as a sink. There is no consumer group: the offsets live in our checkpoint."""

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from recsys.errors import ConfigError, DataError, ServiceError
from recsys.streams.kafka_client import (
    KafkaConsumer,
    KafkaError,
    KafkaProducer,
    Topics,
    check_partitions,
    connect,
    kafka_errors,
    list_topics,
    topic_partition,
)
from recsys.streams.sink import Sink
from recsys.streams.source import Headers, Partition, Position, Record, Source, check_position
from recsys.streams.unread import UnreadSince

_ALL = 2**31
_POSITION_MS = 500
_REQUEST_MS = 30_000  # for the answer to one request, of which a delivery may need several
_SILENT_SECONDS = 5.0  # then the broker is asked whether it lives
_ASK_SECONDS = 2.0  # it has for an answer while reading goes on
_KNOWN_SECONDS = 1.0  # an end counts as known for so long

Start = Literal["earliest", "latest"] | int


class LastMessage(NamedTuple):
    """A message's value and headers."""

    payload: bytes
    headers: Headers


class KafkaSource(Source):
    """Reads the given partitions from ``start``: "earliest", "latest", or a message time in milliseconds
    since 1970.

    Payloads are the messages' bytes (empty for a message without a value). ``fetch_bytes`` is what one
    request brings per partition at most; a larger message still comes, alone. Where nothing comes for a while the
    broker is asked whether it lives: one that has not answered for ``timeout_seconds`` is a ServiceError, not a silent
    topic; one that comes back before is read on. Raises ServiceError where the broker or a topic is absent,
    DataError where the broker has deleted what comes next (retention).
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics_partitions: Sequence[Partition],
        *,
        start: Start = "earliest",
        fetch_bytes: int = 2**20,
        max_fetch_bytes: int = 2 * 2**20,
        security: Mapping[str, Any] = {},
        timeout_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not isinstance(start, int) and start not in ("earliest", "latest"):
            message = f"start={start!r} can not be; use earliest, latest, or a time in milliseconds since 1970"
            raise ConfigError(message)
        self.partitions = tuple(topics_partitions)
        self._servers = bootstrap_servers
        self._timeout_seconds = timeout_seconds
        self._clock = clock
        self._by_name = {topic_partition(partition): partition for partition in self.partitions}
        self._fetched: dict[Partition, deque[Any]] = {partition: deque() for partition in self.partitions}
        self._unread = UnreadSince()
        self._next: Position = {}  # the offset after the last one delivered, or a later one that the client named
        self._held_back: set[Partition] = set()  # by the last call
        self._paused: set[Partition] = set()  # in the client
        self._consumer: KafkaConsumer = connect(
            KafkaConsumer,
            bootstrap_servers,
            security=security,
            timeout_seconds=timeout_seconds,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=fetch_bytes,
            fetch_max_bytes=max_fetch_bytes,
            # A partition that is let go again waits for the fetch on its way, which may wait this long for
            # data.
            fetch_max_wait_ms=50,
        )
        self._closed = False
        try:
            check_partitions(self.partitions, list_topics(self._consumer, bootstrap_servers), bootstrap_servers)
            self._consumer.assign(list(self._by_name))
            self._end = self._ends(self.partitions)
            self._ends_at = dict.fromkeys(self.partitions, clock())  # when each was asked for
            self._move(self._offsets_at(start))
        except BaseException:
            self.close()
            raise
        self._heard_at = self._asked_at = clock()

    def _offsets_at(self, start: Start) -> Position:
        if start == "latest":
            return dict(self._end)
        if start == "earliest":
            return self._firsts(self.partitions)
        times = dict.fromkeys(self._by_name, start)
        with kafka_errors("looking up offsets by time", self._servers):
            found = self._consumer.offsets_for_times(times, timeout_ms=self._timeout_ms)
        return {
            partition: self._end[partition] if found[name] is None else found[name].offset
            for name, partition in self._by_name.items()
        }

    @property
    def _timeout_ms(self) -> int:
        return int(self._timeout_seconds * 1000)

    def _ends(self, partitions: Iterable[Partition]) -> Position:
        return self._look_up("end_offsets", partitions)

    def _firsts(self, partitions: Iterable[Partition]) -> Position:
        return self._look_up("beginning_offsets", partitions)

    def _look_up(
        self,
        method: Literal["end_offsets", "beginning_offsets"],
        partitions: Iterable[Partition],
        timeout_ms: int | None = None,
    ) -> Position:
        names = [topic_partition(partition) for partition in partitions]
        with kafka_errors("asking for offsets", self._servers):
            offsets = getattr(self._consumer, method)(names, timeout_ms=timeout_ms or self._timeout_ms)
        return {self._by_name[name]: offset for name, offset in offsets.items()}

    def _ask_ends(self, partitions: Iterable[Partition]) -> None:
        """Ask where partitions end now; a broker that does not say keeps what is known, until it is given up.

        Asked at most once in a while: a broker that is gone must not hold up who reads.
        """
        now = self._clock()
        old = [partition for partition in partitions if now - self._ends_at[partition] > _KNOWN_SECONDS]
        if not old or (self._asked_at > self._heard_at and now - self._asked_at < _KNOWN_SECONDS):
            return
        try:
            self._end |= self._look_up("end_offsets", old, min(int(1000 * _ASK_SECONDS), self._timeout_ms))
        except ServiceError:
            if self._clock() - self._heard_at > self._timeout_seconds:
                raise
            self._asked_at = self._clock()
        else:
            self._heard_at = self._clock()
            self._ends_at |= dict.fromkeys(old, self._heard_at)

    def away_seconds(self) -> float:
        """See Source.away_seconds."""
        return self._clock() - self._heard_at if self._asked_at > self._heard_at else 0.0

    def next_batch(
        self, max_records: int = 1000, timeout_seconds: float = 0.1, only: Collection[Partition] | None = None
    ) -> list[Record]:
        wanted = set(self.partitions) if only is None else set(only)
        self._held_back = set(self.partitions) - wanted
        if not any(self._fetched[partition] for partition in wanted):
            self._pause(self._held_back)
            self._fetch(timeout_seconds)
        records = self._take_turns(wanted, max_records)
        self._check_alive(bool(records))
        return records

    def _pause(self, partitions: set[Partition]) -> None:
        self._consumer.resume(*map(topic_partition, self._paused - partitions))
        self._consumer.pause(*map(topic_partition, partitions - self._paused))
        self._paused = partitions

    def _fetch(self, timeout_seconds: float) -> None:
        """Take all that the client has for the partitions that are not paused, whatever its number.

        A partition that is paused while the client is half through a fetch of it would never be heard of
        again (kafka-python 3.0.12 parks the rest and does not find it); so nothing is left half-way, and what
        is not delivered yet waits here.
        """
        try:
            fetched = self._consumer.poll(timeout_ms=int(timeout_seconds * 1000), max_records=_ALL)
        except KafkaError as error:
            self._check_retained()
            message = f"Kafka at {self._servers}: reading failed ({error}); see the broker's log, then start again"
            raise ServiceError(message) from error
        for name, messages in fetched.items():
            self._fetched[self._by_name[name]].extend(messages)

    def _take_turns(self, wanted: set[Partition], max_records: int) -> list[Record]:
        """Up to ``max_records`` of what was fetched, in equal shares while several partitions have some."""
        records: list[Record] = []
        waiting = [partition for partition in self.partitions if partition in wanted and self._fetched[partition]]
        while waiting and len(records) < max_records:
            share = max(1, (max_records - len(records)) // len(waiting))
            for partition in waiting[: max_records - len(records)]:
                fetched = self._fetched[partition]
                messages = [fetched.popleft() for _ in range(min(share, len(fetched)))]
                records += [Record(partition, message.offset, message.value or b"") for message in messages]
                self._next[partition] = messages[-1].offset + 1
                self._unread.delivered(partition, messages[-1].timestamp)
            waiting = [partition for partition in waiting if self._fetched[partition]]
        return records

    def _check_retained(self) -> None:
        first = self._firsts(self.partitions)
        for partition, offset in self.position().items():
            if offset < first[partition]:
                message = (
                    f"offset {offset} of {partition} is gone, Kafka keeps it from {first[partition]} on;"
                    " raise the topic's retention and start over from a later position"
                )
                raise DataError(message)

    def _check_alive(self, heard: bool) -> None:
        if heard:
            self._heard_at = self._clock()
        elif self._clock() - self._heard_at > min(_SILENT_SECONDS, self._timeout_seconds):
            self._ask_ends(self.partitions)

    def last(self) -> dict[Partition, "LastMessage"]:
        """The message before the end of each partition that holds one; reading goes on from the ends."""
        ends, firsts = self._ends(self.partitions), self._firsts(self.partitions)
        wanted = {partition: end - 1 for partition, end in ends.items() if end > firsts[partition]}
        self._end |= ends
        self._move({**ends, **wanted})
        found: dict[Partition, LastMessage] = {}
        until = self._clock() + self._timeout_seconds
        while found.keys() != wanted.keys() and not all(map(self.caught_up, wanted)):
            self._fetch(0.1)
            for partition in wanted:
                for message in self._fetched[partition]:
                    found[partition] = LastMessage(message.value or b"", message.headers or ())
                    self._next[partition] = message.offset + 1
                self._fetched[partition].clear()
            if self._clock() > until:
                raise ServiceError(f"Kafka at {self._servers} does not give the last messages; see the broker's log")
        return found

    def position(self) -> Position:
        return {partition: self._offset_of(partition) for partition in self.partitions}

    def _offset_of(self, partition: Partition) -> int:
        if self._fetched[partition]:
            return self._fetched[partition][0].offset
        # Asked of the client, not counted alone: it goes past what compaction and transaction markers left empty. Of a
        # broker that is gone it may fail: then reading would go on after the last record all the same.
        with contextlib.suppress(KafkaError):
            offset = self._consumer.position(topic_partition(partition), timeout_ms=_POSITION_MS)
            if offset is not None:
                self._next[partition] = offset
        return self._next[partition]

    def seek(self, position: Mapping[Partition, int]) -> None:
        known = [partition for partition in position if partition in self._end]
        ends = self._ends(known)
        check_position(position, self._firsts(known), self._end | ends)
        self._end |= ends
        self._move(position)

    def _move(self, position: Mapping[Partition, int]) -> None:
        for partition, offset in position.items():
            self._consumer.seek(topic_partition(partition), offset)
            self._fetched[partition].clear()
            self._next[partition] = offset

    def caught_up(self, partition: Partition) -> bool:
        """As promised by Source. The broker has said so within the last second: one that is gone says nothing, and
        its silence is not the stream's."""
        offset = self._offset_of(partition)
        if offset < self._known_end(partition):
            return False
        if partition in self._held_back:  # no fetch tells of its end
            self._ends_at[partition] = -math.inf
        self._ask_ends(self.partitions)
        known = self._clock() - self._ends_at[partition] <= _KNOWN_SECONDS
        return known and offset >= self._known_end(partition)

    def lag(self) -> dict[Partition, int]:
        if self._held_back:
            self._ask_ends(self._held_back)
        return {partition: max(0, self._known_end(partition) - offset) for partition, offset in self.position().items()}

    def unread_since_ms(self) -> dict[Partition, int]:
        fetched_ms = {partition: queue[0].timestamp for partition, queue in self._fetched.items() if queue}
        return self._unread.look(self.lag(), fetched_ms)

    def _known_end(self, partition: Partition) -> int:
        return max(self._end[partition], self._consumer.highwater(topic_partition(partition)) or 0)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._consumer.close()


class KafkaSink(Sink):
    """Writes messages that all in-sync replicas have acknowledged by the time ``flush`` returns.

    The producer is idempotent: its retries duplicate nothing. At most ``buffer_bytes`` wait in memory, then
    ``send`` blocks. A message that could not be delivered within ``timeout_seconds`` raises ServiceError
    from every later ``send``, ``flush`` and ``close``: after it, go back to a checkpoint. Batches of 256 KiB
    suit small messages and leave room for one of 1 MiB alone.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        *,
        security: Mapping[str, Any] = {},
        linger_ms: int = 10,
        batch_bytes: int = 256 * 2**10,
        max_message_bytes: int = 16 * 2**20,
        buffer_bytes: int = 32 * 2**20,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._servers = bootstrap_servers
        self._security = security
        self._timeout_seconds = timeout_seconds
        self._max_message_bytes = max_message_bytes
        self._buffer_bytes = buffer_bytes
        self._buffered_bytes = 0
        self._topics: Topics = {}
        self._failures: list[Exception] = []  # filled by the producer's thread
        self._closed = False
        self._producer: KafkaProducer = connect(
            KafkaProducer,
            bootstrap_servers,
            security=security,
            timeout_seconds=timeout_seconds,
            acks="all",
            enable_idempotence=True,
            linger_ms=linger_ms,
            batch_size=batch_bytes,
            max_request_size=max_message_bytes,
            max_block_ms=int(timeout_seconds * 1000),
            request_timeout_ms=max(1, min(_REQUEST_MS, int(timeout_seconds * 1000) - linger_ms)),
            delivery_timeout_ms=int(timeout_seconds * 1000),
        )

    def send(self, partition: Partition, payload: bytes, key: bytes | None = None, headers: Headers = ()) -> None:
        self._raise_failure()
        if partition.index not in self._topics.get(partition.topic, ()):
            self._learn(partition)
        self._make_room(partition, len(payload))
        try:
            sent = self._producer.send(
                partition.topic, payload, key=key, partition=partition.index, headers=list(headers)
            )
        except KafkaError as error:
            self._failures.append(error)
            self._raise_failure()
        sent.add_errback(self._failures.append)

    def _learn(self, partition: Partition) -> None:
        """Check that the partition exists: the producer itself would wait for it in silence."""
        consumer = connect(KafkaConsumer, self._servers, security=self._security, timeout_seconds=self._timeout_seconds)
        try:
            self._topics = list_topics(consumer, self._servers)
        finally:
            consumer.close()
        check_partitions([partition], self._topics, self._servers)

    def _make_room(self, partition: Partition, num_bytes: int) -> None:
        if num_bytes > self._max_message_bytes:
            message = f"a message of {num_bytes} bytes for {partition}; at most {self._max_message_bytes} are taken"
            raise DataError(message)
        if self._buffered_bytes + num_bytes > self._buffer_bytes:
            self.flush()
        self._buffered_bytes += num_bytes

    def flush(self) -> None:
        self._raise_failure()
        # What can not be delivered fails after timeout_seconds, and is raised below: this wait is only a
        # little longer.
        with kafka_errors("flushing", self._servers):
            self._producer.flush(timeout=self._timeout_seconds + 5)
        self._buffered_bytes = 0
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failures:
            message = (
                f"Kafka at {self._servers} did not take a message ({self._failures[0]}), and later ones may"
                " be lost too; mend it, and start again from the last checkpoint"
            )
            raise ServiceError(message) from self._failures[0]

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            with kafka_errors("closing", self._servers):
                self._producer.close(timeout=self._timeout_seconds)
