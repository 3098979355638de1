"""Play recorded events into a sink, as fast as it takes them or by a clock."""

from collections.abc import Callable, Collection, Iterable
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


def replay(
    events: Iterable[tuple[str, Event]],
    sink: Sink,
    *,
    num_partitions: int,
    facts_partitions: int | None = None,
    wait: Callable[[int], None] | None = None,
    closes: Collection[str] = (IMPRESSIONS, ACTIONS, FACTS),
) -> ReplayCounts:
    """Send ``(topic, event)`` pairs in the order given, then the end marker to all partitions of the topics that
    this ``closes``, and flush.

    Impressions and actions go to the partition of their user, facts to that of the user or item they are
    about (``facts_partitions``, by default as many as the others). Messages are keyed by that id as text.
    ``wait(time_ms)`` is called before each event and returns when its time has come. Raises DataError for a
    topic or event that is not one of these.

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
    for topic, event in events:
        id, time_ms = _id_and_time(topic, event)
        if wait is not None:
            wait(time_ms)
        partition = Partition(topic, partition_of(id, partitions[topic]))
        sink.send(partition, encode(event), key=str(id).encode())
        counts[topic] += 1
    for topic in closes:
        for index in range(partitions[topic]):
            sink.send(Partition(topic, index), END_PAYLOAD)
    sink.flush()
    return ReplayCounts(**counts)


def _id_and_time(topic: str, event: Event) -> tuple[int | str, int]:
    if topic == IMPRESSIONS and isinstance(event, Impression):
        return event.user_id, event.time_ms
    if topic == ACTIONS and isinstance(event, Action):
        return event.user_id, event.time_ms
    if topic == FACTS and isinstance(event, Facts):
        return event.id, event.time_ms
    message = f"can not replay {event!r} on topic {topic!r}; topics are {IMPRESSIONS}, {ACTIONS} and {FACTS}"
    raise DataError(message)
