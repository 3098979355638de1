"""Play recorded events into a sink, as fast as it takes them or by a clock."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from recsys.errors import DataError
from recsys.events import ACTIONS, END_PAYLOAD, FACTS, IMPRESSIONS, Action, Event, Facts, Impression, encode
from recsys.streams.partitioner import partition_of
from recsys.streams.sink import Sink
from recsys.streams.source import Partition


class ReplayCounts(NamedTuple):
    """Messages sent per topic, end markers left out."""

    impressions: int
    actions: int
    facts: int


class Sent(NamedTuple):
    """What a replay that was cut off has left in one partition."""

    num_messages: int
    last: bytes


def replay(
    events: Iterable[tuple[str, Event]],
    sink: Sink,
    *,
    num_partitions: int,
    facts_partitions: int | None = None,
    wait: Callable[[int], None] | None = None,
    closes: Collection[str] = (IMPRESSIONS, ACTIONS, FACTS),
    sent: Mapping[Partition, Sent] | None = None,
) -> ReplayCounts:
    """Send ``(topic, event)`` pairs in the order given, then the end marker to all partitions of the topics that
    this ``closes``, and flush.

    Impressions and actions go to the partition of their user, facts to that of the user or item they are
    about (``facts_partitions``, by default as many as the others). Messages are keyed by that id as text.
    ``wait(time_ms)`` is called before each event and returns when its time has come. Raises DataError for a
    topic or event that is not one of these.

    A replay of the same events that was cut off goes on: what it has ``sent`` is passed over, neither waited for nor
    counted. Raises DataError where that is not how these events begin.

    >>> from recsys.streams.sink import MemorySink
    >>> sink = MemorySink()
    >>> replay([("impressions", Impression("r1", 7, 3, 0))], sink, num_partitions=2)
    ReplayCounts(impressions=1, actions=0, facts=0)
    >>> [len(sink.payloads[Partition(topic, 1)]) for topic in ("impressions", "actions", "facts")]
    [2, 1, 1]
    """
    partitions = {
        IMPRESSIONS: num_partitions,
        ACTIONS: num_partitions,
        FACTS: facts_partitions or num_partitions,
    }
    counts = dict.fromkeys(partitions, 0)
    there = _AlreadyThere(sent or {})
    for topic, event in events:
        id, time_ms = _id_and_time(topic, event)
        partition, payload = Partition(topic, partition_of(id, partitions[topic])), encode(event)
        if there.passes(partition, payload):
            continue
        if wait is not None:
            wait(time_ms)
        sink.send(partition, payload, key=str(id).encode())
        counts[topic] += 1
    for partition in (Partition(topic, index) for topic in closes for index in range(partitions[topic])):
        if not there.passes(partition, END_PAYLOAD):
            sink.send(partition, END_PAYLOAD)
    sink.flush()
    there.check_passed()
    return ReplayCounts(**counts)


class _AlreadyThere:
    """Tells what an earlier replay has sent from what is to be sent yet: each partition's first so many messages."""

    def __init__(self, sent: Mapping[Partition, Sent]) -> None:
        self._sent = sent
        self._left = {partition: number for partition, (number, _) in sent.items()}

    def passes(self, partition: Partition, payload: bytes) -> bool:
        """Whether the next message of a partition is there; DataError where another is the last one there."""
        left = self._left.get(partition, 0)
        if left == 0:
            return False
        if left == 1 and payload != self._sent[partition].last:
            raise self._other(partition)
        self._left[partition] = left - 1
        return True

    def check_passed(self) -> None:
        """DataError where a partition held more than the events and the end marker."""
        for partition, left in self._left.items():
            if left:
                raise self._other(partition)

    def _other(self, partition: Partition) -> DataError:
        held = self._sent[partition].num_messages
        return DataError(
            f"the {held} messages in {partition} are not the first {held} of this replay; go on with the data, limit "
            "and number of partitions that it began with, in topics of its own"
        )


def _id_and_time(topic: str, event: Event) -> tuple[int | str, int]:
    if topic == IMPRESSIONS and isinstance(event, Impression):
        return event.user_id, event.time_ms
    if topic == ACTIONS and isinstance(event, Action):
        return event.user_id, event.time_ms
    if topic == FACTS and isinstance(event, Facts):
        return event.id, event.time_ms
    message = f"can not replay {event!r} on topic {topic!r}; topics are {IMPRESSIONS}, {ACTIONS} and {FACTS}"
    raise DataError(message)
