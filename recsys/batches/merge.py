"""Put records of several partitions into one order: by (event time, partition, offset), whatever arrives first.

That order depends on the data alone, so a run can be repeated, resumed and compared.
"""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import accumulate, repeat
from operator import itemgetter
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

FOREVER = 2**63 - 1
_time = itemgetter(0)


class TimeMerge(Generic[K, T]):
    """Merges partitions, each ordered by time within itself, holding an item back until no earlier one can come.

    An open partition that is empty holds the others back, unless it was set idle or its watermark (the promise
    that nothing earlier will come from it) has passed them. Ties go to the partition named first.

    >>> merge = TimeMerge(["a", "b"])
    >>> merge.put("a", 1, "a1"); merge.put("a", 5, "a5"); list(merge.ready())
    []
    >>> merge.put("b", 3, "b3"); [item for _, item in merge.ready()]
    ['a1', 'b3']
    >>> merge.close("b"); [item for _, item in merge.ready()]
    ['a5']
    """

    def __init__(self, partitions: Sequence[K]) -> None:
        self.partitions = tuple(partitions)
        self._rank = {partition: rank for rank, partition in enumerate(partitions)}
        self._queues: dict[K, deque[tuple[int, T]]] = {partition: deque() for partition in partitions}
        self._watermarks = dict.fromkeys(partitions, -1)
        self._idle: set[K] = set()
        self.late = 0  # items that came after a later one was handed out: a partition woke, or is out of order
        self.time_ms = -1  # of the last item handed out

    def put(self, partition: K, time_ms: int, item: T) -> None:
        """Add an item behind those of its partition; an idle partition wakes."""
        self._idle.discard(partition)
        self._queues[partition].append((time_ms, item))
        if time_ms > self._watermarks[partition]:
            self._watermarks[partition] = time_ms

    def advance(self, partition: K, watermark_ms: int) -> None:
        """Promise that nothing earlier than ``watermark_ms`` will come from ``partition``."""
        self._watermarks[partition] = max(self._watermarks[partition], watermark_ms)

    def close(self, partition: K) -> None:
        """Promise that nothing will come from ``partition`` any more."""
        self._idle.discard(partition)
        self.advance(partition, FOREVER)

    def set_idle(self, partition: K) -> None:
        """Stop waiting for an empty open partition until something comes from it."""
        if not self._queues[partition] and self._watermarks[partition] < FOREVER:
            self._idle.add(partition)

    @property
    def closed(self) -> bool:
        """Whether everything was handed out and nothing more can come."""
        return not any(self._queues.values()) and min(self._watermarks.values()) == FOREVER

    def queued(self, partition: K) -> int:
        """Items held of one partition."""
        return len(self._queues[partition])

    @property
    def watermark_ms(self) -> int:
        """Nothing before this will be handed out, idle partitions aside."""
        return self.time_ms if self.idle else self._earliest()

    @property
    def idle(self) -> bool:
        """Whether nothing is held and every open partition is idle: time stands still, not the end."""
        return bool(self._idle) and self._earliest() == FOREVER

    def first(self, partition: K) -> T | None:
        """The item of a partition that is handed out next; None where none is held."""
        queue = self._queues[partition]
        return queue[0][1] if queue else None

    def state(self) -> dict[str, Any]:
        """What is to be known beside the items that are held, which will be put again."""
        watermarks = [
            min(watermark, queue[0][0]) if queue else watermark
            for queue, watermark in zip(self._queues.values(), self._watermarks.values(), strict=True)
        ]
        return {"time_ms": self.time_ms, "late": self.late, "watermarks_ms": watermarks}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of a merge of as many partitions."""
        self.time_ms, self.late = state["time_ms"], state["late"]
        self._watermarks = dict(zip(self.partitions, state["watermarks_ms"], strict=True))

    def _earliest(self) -> int:
        heads = [
            queue[0][0] if queue else self._watermarks[partition]
            for partition, queue in self._queues.items()
            if queue or partition not in self._idle
        ]
        return min(heads, default=FOREVER)

    def ready(self) -> Iterator[tuple[int, T]]:
        """Hand out (time, item) in order, as far as is certain now."""
        for partition, head in self.certain():
            self.pop(partition)
            yield head

    def certain(self) -> list[tuple[K, tuple[int, T]]]:
        """The items whose turn is certain now, in order, as (partition, (time, item)); ``pop`` takes them away.

        What is earlier than the item before it in its partition comes right behind that: its turn is the latest time
        so far.
        """
        bound = self._bound()
        turns: list[tuple[int, K, tuple[int, T]]] = []
        for partition, queue in self._queues.items():
            times_ms = accumulate(map(_time, queue), max)
            turns += zip(times_ms, repeat(partition), queue)  # without an end
        turns.sort(key=_time)  # stable: of one time, the partition named first
        num = len(turns)
        while num and (turns[num - 1][0], self._rank[turns[num - 1][1]]) > bound:
            num -= 1
        return [(partition, head) for _, partition, head in turns[:num]]

    def _bound(self) -> tuple[int, int]:
        """Up to which (time, rank) nothing earlier can come any more."""
        awake = [(self._watermarks[p], rank) for p, rank in self._rank.items() if p not in self._idle]
        return min(awake, default=(FOREVER, 0))

    def pop(self, partition: K) -> None:
        """Take away the first item of a partition."""
        time_ms, _ = self._queues[partition].popleft()
        if time_ms < self.time_ms:
            self.late += 1
        else:
            self.time_ms = time_ms
