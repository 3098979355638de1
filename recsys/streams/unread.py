"""Since when the oldest record lies unread in each partition, as near as a reader knows it."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from recsys.streams.source import Partition


class Lag(NamedTuple):
    """Records that wait, and for how many seconds the first of them has; 0 where none does."""

    events: int
    seconds: float

    def __add__(self, other: tuple[object, ...]) -> "Lag":
        """Of two stages of one partition, or of two partitions: all that wait, and the longest wait.

        >>> Lag(3, 1.5) + Lag(2, 0.25)
        Lag(events=5, seconds=1.5)
        """
        assert isinstance(other, Lag)
        return Lag(self.events + other.events, max(self.seconds, other.seconds))


class UnreadSince:
    """Times of writing, by partition, of the oldest record that was not delivered.

    Of a record that was fetched it is known. Else it was written after the last one delivered, where one was since the
    last look, and not after it was first seen that there is one: after a silence, the last one says nothing.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._delivered_ms: dict[Partition, int] = {}  # since the last look
        self._unread_since_ms: dict[Partition, int] = {}

    def delivered(self, partition: Partition, time_ms: int) -> None:
        """The last record delivered of a partition was written then."""
        self._delivered_ms[partition] = time_ms

    def look(self, lag: Mapping[Partition, int], fetched_ms: Mapping[Partition, int]) -> dict[Partition, int]:
        """Milliseconds since 1970 for each partition with a lag; ``fetched_ms`` are those that are known."""
        found = {}
        for partition, number in lag.items():
            delivered_ms = self._delivered_ms.pop(partition, None)
            if not number:
                self._unread_since_ms.pop(partition, None)
                continue
            if delivered_ms is not None:
                self._unread_since_ms[partition] = delivered_ms
            seen_ms = self._unread_since_ms.setdefault(partition, int(1000 * self._clock()))
            found[partition] = fetched_ms.get(partition, seen_ms)
        return found


def seconds_since(time_ms: int | None, now: float) -> float:
    """Seconds until ``now`` (since 1970); 0 of None, and of what a writer's clock puts ahead of this one.

    >>> seconds_since(1_500, 4.0), seconds_since(None, 4.0), seconds_since(4_100, 4.0)
    (2.5, 0.0, 0.0)
    """
    return 0.0 if time_ms is None else max(0.0, now - time_ms / 1000)
