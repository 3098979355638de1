"""One partition of a joined stream: its impressions and actions in one order of time, its joiner, what that emitted."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from recsys.batches.examples import Example, ExampleRows, to_rows
from recsys.batches.join import Joiner
from recsys.batches.merge import TimeMerge
from recsys.batches.sampling import Sampler
from recsys.errors import DataError
from recsys.events import ACTIONS, END, IMPRESSIONS, EndMarker, Event
from recsys.streams.dead_letters import DeadLetters, Place
from recsys.streams.source import Partition, Record
from recsys.streams.unread import Lag

_MAX_QUEUED = 5_000  # events of one input held while another is waited for
_MAX_EXAMPLES = 5_000  # that a poll returns, and a few more
_MESSAGE_EXAMPLES = 1_000  # a broker takes 1 MiB, and one message of events, or one instant, can end many


class JoinedPartition:
    """Queues events of partition ``index`` and joins those whose turn it is.

    What comes more than ``allowed_lateness_ms`` after a later one was joined is set aside.
    """

    def __init__(
        self,
        index: int,
        joiner: Joiner,
        *,
        sampler: Sampler,
        dead_letters: DeadLetters,
        schema: pa.Schema,
        allowed_lateness_ms: int,
    ) -> None:
        self.index, self.joiner = index, joiner
        self._sampler, self._dead_letters, self._schema = sampler, dead_letters, schema
        self._allowed_lateness_ms = allowed_lateness_ms
        self.merge: TimeMerge[Partition, tuple[Record, Event, float]] = TimeMerge(
            [Partition(IMPRESSIONS, index), Partition(ACTIONS, index)]
        )
        self._watermark_ms = -1
        self.num_emitted = self.num_joined = 0
        self.time_ms = -1  # event time of the newest event joined
        self.has_ended = self.is_behind = False  # is_behind: it has left what it could have joined

    def inputs(self) -> list[Partition]:
        """What to read: none that is far ahead of its sibling."""
        if self.has_ended:
            return []
        return [partition for partition in self.merge.partitions if self.merge.queued(partition) < _MAX_QUEUED]

    def take(self, record: Record, event: Event, now: float) -> None:
        """Queue an event, or close the input that ends here."""
        if isinstance(event, EndMarker):
            self.merge.close(record.partition)
        else:
            self.merge.put(record.partition, event.time_ms, (record, event, now))

    def process(self, record: Record, event: Event) -> list[Example]:
        """Let the joiner take an event; one that no features can be made of is set aside."""
        try:
            return self.joiner.process(event)
        except DataError as error:
            self._dead_letters.put(record, str(error))
            return []

    def join(self, now: float, awake_ms: int) -> list[ExampleRows | EndMarker]:
        """What became final: examples with the new watermark, then END once all is read.

        ``awake_ms`` is up to where other partitions have come: one that is idle goes along.
        """
        if self.has_ended:
            return []
        examples, has_more = self._join_events()
        watermark_ms = max(self._watermark_ms, self.merge.watermark_ms, awake_ms if self.merge.idle else -1)
        if not has_more:
            examples += _read_at(now, self.joiner.advance(watermark_ms, _MAX_EXAMPLES))
        self.is_behind = has_more or self.joiner.is_behind(watermark_ms)
        if self.is_behind:  # what comes next is not emitted before what came last
            watermark_ms = max(self._watermark_ms, self.joiner.emitted_ms)
        kept = self._sampler.kept(examples)
        self.joiner.counts.examples_sampled_out += len(examples) - len(kept)
        parts: list[ExampleRows | EndMarker] = []
        if kept or watermark_ms > self._watermark_ms:
            self._watermark_ms = watermark_ms
            parts += self._in_messages(kept)
        if self.merge.closed and not self.is_behind:
            self.has_ended = True
            parts.append(END)
        return parts

    def _in_messages(self, examples: list[Example]) -> Iterator[ExampleRows]:
        """The examples, or none, in pieces that fit a message each; the last piece brings the new watermark."""
        for at in range(0, max(1, len(examples)), _MESSAGE_EXAMPLES):
            piece = examples[at : at + _MESSAGE_EXAMPLES]
            is_last = at + _MESSAGE_EXAMPLES >= len(examples)
            up_to_ms = self._watermark_ms if is_last else piece[-1].emitted_ms
            yield to_rows(piece, self._schema, up_to_ms, self.num_emitted)
            self.num_emitted += len(piece)

    def _join_events(self) -> tuple[list[Example], bool]:
        """Join the events whose turn it is, until enough has become final; and whether that left some."""
        merge, joiner, allowed_ms = self.merge, self.joiner, self._allowed_lateness_ms
        coming = merge.certain()
        joiner.fetch([event for _, (_, (_, event, _)) in coming])
        examples: list[Example] = []
        for partition, (time_ms, (record, event, read_at)) in coming:
            if len(examples) >= _MAX_EXAMPLES:
                return examples, True
            if time_ms > joiner.emitted_ms or joiner.is_behind(time_ms):
                examples += _read_at(read_at, joiner.advance(time_ms, _MAX_EXAMPLES))
                if joiner.is_behind(time_ms):
                    return examples, True  # the event waits in the merge
            merge.pop(partition)
            self.num_joined += 1
            if time_ms > self.time_ms:
                self.time_ms = time_ms
            if merge.time_ms - time_ms > allowed_ms:
                self._set_aside(record, merge.time_ms - time_ms)
            elif emitted := self._taken(record, event):
                examples += _read_at(read_at, emitted)
        return examples, False

    def _taken(self, record: Record, event: Event) -> list[Example]:
        try:
            return self.joiner.take(event)
        except DataError as error:
            self._dead_letters.put(record, str(error))
            return []

    def _set_aside(self, record: Record, late_ms: int) -> None:
        self.joiner.counts.events_too_late += 1
        allowed_seconds = self._allowed_lateness_ms / 1000
        reason = f"too late: {late_ms / 1000:g} s after its partition, allowed_lateness_seconds is {allowed_seconds:g}"
        self._dead_letters.put(record, f"{record.partition.topic}: {reason}")

    # --- where it stands

    @property
    def num_queued(self) -> int:
        """Events that wait for an earlier one."""
        return sum(map(self.merge.queued, self.merge.partitions))

    def lag(self, now: float) -> Lag:
        """What is queued, and for how long the oldest of each input has been."""
        lag = Lag(self.num_queued, 0.0)
        for waiting in map(self.merge.first, self.merge.partitions):
            lag += Lag(0, 0.0 if waiting is None else now - waiting[2])
        return lag

    def waiting_from(self) -> dict[Partition, Place]:
        """Of each input that is queued, the offset and the row of the first event that has changed nothing yet."""
        firsts = {partition: self.merge.first(partition) for partition in self.merge.partitions}
        return {p: (first[0].offset, first[0].row or 0) for p, first in firsts.items() if first is not None}

    def numbers(self) -> dict[str, Any]:
        """Of this instant, beside the joiner, as plain values; what is queued will be read again."""
        return {
            "merge": self.merge.state(),
            "watermark_ms": self._watermark_ms,
            "num_emitted": self.num_emitted,
            "num_joined": self.num_joined,
            "ended": self.has_ended,
        }

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Go on from what ``numbers`` said; one that had ended says so again."""
        self.merge.restore(numbers["merge"])
        self._watermark_ms = numbers["watermark_ms"]
        self.num_emitted = numbers["num_emitted"]

    def restore_progress(self, numbers: Mapping[str, Any]) -> None:
        """The disk has all that was made of the events so far, the end too: they count as this one's."""
        self.num_joined, self.has_ended = numbers["num_joined"], numbers["ended"]


def _read_at(seconds: float, examples: list[Example]) -> list[Example]:
    """The examples, with when the event that made them final was read."""
    for example in examples:
        example.read_at_ms = int(1000 * seconds)
    return examples
