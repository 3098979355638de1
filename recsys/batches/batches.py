"""Cut batches out of joined examples: in event-time order over all partitions, by count, never by arrival."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from recsys.batches.batch import LabelledBatch
from recsys.batches.examples import ExampleRows, decode_rows, to_batch
from recsys.batches.row_merge import NONE, PickedRows, RowMerge
from recsys.errors import DataError
from recsys.events import EXAMPLES, EndMarker, decode_end
from recsys.features.declarations import Feature
from recsys.streams.source import Partition, Record, Source
from recsys.streams.unread import seconds_since

_MAX_QUEUED = 20_000  # examples of one partition held while another is waited for
_GATHERED = 8_192  # examples that are brought into their order at once, in however many batches


StreamPosition = Mapping[int, tuple[int, int]]  # partition -> (offset of the message to read from, next example)
Fed = tuple[int, ExampleRows | EndMarker, int]  # partition, what came, the offset of its message


class PositionedBatch(NamedTuple):
    """A batch, where the stream stands after it, and the examples that it was made of."""

    batch: LabelledBatch
    position: StreamPosition
    rows: pa.RecordBatch


class ExampleFeed(Protocol):
    """Where joined examples come from: a joiner in this process, or the ``examples`` topic."""

    partitions: tuple[int, ...]

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[Fed]:
        """What came, by partition, in order within each; END closes a partition."""


class TopicFeed:
    """Joined examples from a source of the ``examples`` topic."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.partitions = tuple(partition.index for partition in source.partitions)
        # (number after the last example, when the event behind the first was read), of messages perhaps not learned
        self._in_hand: dict[int, deque[tuple[int, int]]] = {index: deque() for index in self.partitions}

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[Fed]:
        """See ExampleFeed."""
        wanted = [Partition(EXAMPLES, index) for index in only]
        records = self._source.next_batch(64, timeout_seconds, wanted)
        fed = [(record.partition.index, _decoded(record), record.offset) for record in records]
        for index, part, _ in fed:
            if isinstance(part, ExampleRows) and part.rows.num_rows:
                read_at_ms = part.rows.column("read_at_ms")[0].as_py()
                self._in_hand[index].append((part.first + part.rows.num_rows, read_at_ms))
        return fed

    def lag_seconds(self, position: StreamPosition, now: float) -> dict[int, float]:
        """By partition, how long the first example beyond a position waits: since its event was read by the joiner
        where it is in hand, since its message was written where it is not read yet."""
        since_ms = {partition.index: at for partition, at in self._source.unread_since_ms().items()}
        for index, messages in self._in_hand.items():
            while messages and messages[0][0] <= position[index][1]:
                messages.popleft()
            if messages:
                since_ms[index] = messages[0][1]
        return {index: seconds_since(since_ms.get(index), now) for index in self.partitions}


class _Read:
    """How far one partition was read, and how far it was handed out."""

    def __init__(self, start: tuple[int, int]) -> None:
        self.offset, self.next = start  # of the last message read; the number of the next example to be handed out
        self._expected = self.next
        self._messages: deque[tuple[int, int]] = deque()  # (offset, number after its last example), of those in hand

    def num_known(self, part: ExampleRows, index: int) -> int:
        """How many examples of a message came before; DataError where some have not come at all."""
        if part.first > self._expected:
            raise DataError(
                f"examples {self._expected} to {part.first - 1} of partition {index} are missing from the stream; go "
                "back to a checkpoint from before they were lost, or start over"
            )
        return min(self._expected - part.first, part.rows.num_rows)

    def take(self, part: ExampleRows, offset: int) -> None:
        """Its new examples are in hand now."""
        end = part.first + part.rows.num_rows
        if end > self._expected:
            self._expected = end
            self._messages.append((offset, end))

    def position(self) -> tuple[int, int]:
        """Reading from here gives all that was not handed out, and the last message again: it has a watermark."""
        while self._messages and self._messages[0][1] <= self.next:
            self._messages.popleft()
        return (self._messages[0][0] if self._messages else self.offset), self.next


class BatchStream:
    """Batches of ``max_examples`` in (emission time, partition, offset) order.

    ``max_seconds`` of event time also close a batch, so that a thin live stream does not wait for a full one;
    both rules look at the data alone, so the same stream is cut the same way every time. Live, where answering soon
    counts for more than that, ``idle_seconds`` of silence stop a partition from holding back the others, and close
    the batch when all are silent.

    From ``start``, a position that came with a batch, it goes on with the batches that came after that one: examples
    that are sent again are dropped by their numbers.
    """

    def __init__(
        self,
        feed: ExampleFeed,
        features: Sequence[Feature],
        *,
        max_examples: int,
        max_seconds: float | None = None,
        idle_seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        start: StreamPosition | None = None,
    ) -> None:
        self._read = {index: _Read((start or {}).get(index, (0, 0))) for index in feed.partitions}
        self._feed, self._features = feed, tuple(features)
        self._idle_seconds, self._clock = idle_seconds, clock
        self._last_seen = dict.fromkeys(feed.partitions, clock())
        self._max_examples = max_examples
        self._max_ms = None if max_seconds is None else int(1000 * max_seconds)
        self._merge = RowMerge(feed.partitions)
        self._ready = NONE

    def poll(self, timeout_seconds: float = 0.1) -> Iterator[PositionedBatch]:
        """Read once, and hand out the batches that are complete now."""
        behind = [i for i in self._feed.partitions if self._merge.queued(i) < _MAX_QUEUED]
        for index, part, offset in self._feed.poll(behind, timeout_seconds):
            self._take(index, part, offset)
        self._notice_idle()
        self._ready = self._ready.then(self._merge.ready_rows())
        for sizes in self._cuts():
            rows = self._ready.take(0, sum(sizes)).gather()
            batches = to_batch(rows, self._features)
            start = 0
            for size in sizes:
                self._hand_out(size)
                yield PositionedBatch(batches.part(start, start + size), self.position(), rows.slice(start, size))
                start += size

    def position(self) -> StreamPosition:
        """Where the stream stands after the last batch."""
        return {index: read.position() for index, read in self._read.items()}

    @property
    def finished(self) -> bool:
        """Whether every partition is closed and every example was handed out."""
        return self._merge.closed and not self._ready

    @property
    def idle(self) -> bool:
        """Whether a live stream is silent, with nothing to hand out."""
        return self._idle_seconds is not None and self._merge.idle and not self._ready

    def _notice_idle(self) -> None:
        if self._idle_seconds is None:
            return
        for index, seen in self._last_seen.items():
            if self._clock() - seen > self._idle_seconds:
                self._merge.set_idle(index)

    def _take(self, index: int, part: ExampleRows | EndMarker, offset: int) -> None:
        self._last_seen[index] = self._clock()
        self._read[index].offset = offset
        if isinstance(part, EndMarker):
            self._merge.close(index)
            return
        known = self._read[index].num_known(part, index)
        self._merge.put_rows(index, part.rows, part.rows.column("emitted_ms").to_numpy()[known:], known)
        self._read[index].take(part, offset)
        self._merge.advance(index, part.watermark_ms)

    def _hand_out(self, num_examples: int) -> None:
        """Count the first of the ready examples as handed out."""
        picked, self._ready = self._ready.take(0, num_examples), self._ready.take(num_examples)
        for index, count in picked.counts().items():
            self._read[index].next += count

    def _cuts(self) -> Iterator[list[int]]:
        """How many of the ready examples make each of the next batches, for several batches at a time: what is asked
        of Arrow for all of them at once is paid once.
        """
        sizes: list[int] = []
        ready = self._ready
        while (size := self._cut(ready)) > 0:
            sizes.append(size)
            ready = ready.take(size)
            if sum(sizes) >= _GATHERED:
                yield sizes
                sizes = []
        if sizes:
            yield sizes

    def _cut(self, ready: PickedRows) -> int:
        """How many of the ready examples make the next batch; 0 where more have to come."""
        if self._max_ms is not None and ready:
            closes_ms = int(ready.times_ms_N[0]) + self._max_ms
            inside = int(np.count_nonzero(ready.times_ms_N <= closes_ms))
            if inside < len(ready) or self._merge.watermark_ms > closes_ms:
                return min(inside, self._max_examples)
        if len(ready) >= self._max_examples:
            return self._max_examples
        return len(ready) if self._merge.closed or self._merge.idle else 0


def _decoded(record: Record) -> ExampleRows | EndMarker:
    """Not set aside where it is broken: joiners alone write here, and without their examples a model is another."""
    assert isinstance(record.payload, bytes)
    try:
        return decode_end(record.payload) or decode_rows(record.payload)
    except DataError as error:
        raise DataError(
            f"{record.partition}, offset {record.offset}: {error}; only a run's joiners write to this topic: see who "
            "else does, and start over"
        ) from error
