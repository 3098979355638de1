"""Run the joiners of some partitions over a source of events: what a joiner actor does, or a process by itself."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recsys.batches.examples import Example, ExampleRows, example_schema, to_rows
from recsys.batches.join import JoinConfig, JoinCounts, Joiner
from recsys.batches.merge import TimeMerge
from recsys.batches.sampling import Sampler, Sampling
from recsys.errors import DataError, EventError
from recsys.events import ACTIONS, END, FACTS, IMPRESSIONS, EndMarker, Event, decode
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import FeatureState, Id
from recsys.streams.dead_letters import DeadLetters, Place
from recsys.streams.event_batches import is_batch, rows_of
from recsys.streams.partitioner import partition_of
from recsys.streams.source import Partition, Record, Source

_MAX_QUEUED = 5_000  # events of one partition held while another is waited for
_MAX_EXAMPLES = 1_000  # in one message: a broker takes 1 MiB, and one message of events, or one instant, can end many


@dataclass(frozen=True, kw_only=True)
class StreamTimes:
    """When a silent partition stops holding the others back, and how far ahead of the clock an event may be."""

    idle_seconds: float = 30.0
    max_future_seconds: float = 60.0


class JoinedStream:
    """Joined examples of ``partitions``, each joined by itself: its impressions and actions share the user key.

    Facts are a table: they are read as far as they go before the first impression, and then as they come. With states
    of streams that were, ``restored``, it goes on where they stood; features are numbered ``features_above`` then.
    What ``sampler`` leaves out has been joined, and is counted: features know of it, examples are numbered without it.
    """

    def __init__(
        self,
        events: Source,
        *,
        partitions: Sequence[int],
        config: JoinConfig,
        features: Sequence[Feature],
        dead_letters: DeadLetters,
        times: StreamTimes | None = None,
        clock: Callable[[], float] = time.time,
        restored: Sequence[Mapping[str, Any]] = (),
        features_above: int = 0,
        sampler: Sampler | None = None,
    ) -> None:
        self.partitions = tuple(partitions)
        self.features = FeatureState(config.keep_items)
        self._events, self._dead_letters, self._clock = events, dead_letters, clock
        self._times = times or StreamTimes()
        self._sampler = sampler or Sampler(Sampling(), config.actions, seed=0)
        self._schema = example_schema(features)
        extractor = Extractor(features)
        self._joiners = {index: Joiner(config, extractor, self.features) for index in self.partitions}
        self._merges: dict[int, TimeMerge[Partition, tuple[Record, Event, float]]] = {
            index: TimeMerge([Partition(IMPRESSIONS, index), Partition(ACTIONS, index)]) for index in self.partitions
        }
        self._facts = {partition for partition in events.partitions if partition.topic == FACTS}
        self._facts_behind = set(self._facts)
        self._last_seen = dict.fromkeys(events.partitions, clock())
        self._watermarks = dict.fromkeys(self.partitions, -1)
        self._begun: dict[tuple[Partition, int], int] = {}  # (partition, offset) -> its first rows that are joined
        self._ended: set[int] = set()
        self._num_emitted = dict.fromkeys(self.partitions, 0)
        self.num_events = 0
        self.time_ms = -1  # event time of the newest event joined
        if restored:
            self._restore(restored, features_above)

    def poll(
        self, only: Collection[int], timeout_seconds: float = 0.1, max_events: int = 2_000
    ) -> list[tuple[int, ExampleRows | EndMarker]]:
        """Read some messages and return what became final, by partition; END closes a partition, once."""
        wanted = self._wanted(only)
        records = self._events.next_batch(max_events, timeout_seconds, wanted) if wanted else []
        now = self._clock()
        for record in records:
            self._take(record, now)
        self._notice_idle(now)
        watermark_ms = self._awake_watermark_ms()
        return [part for index in self.partitions if index in only for part in self._join(index, now, watermark_ms)]

    def position(self) -> dict[Partition, int]:
        """Where reading would go on."""
        return self._events.position()

    def lag(self) -> int:
        """Messages there and not yet read, and events read that still wait for an earlier one."""
        return sum(self._events.lag().values()) + self._num_queued

    @property
    def _num_queued(self) -> int:
        return sum(merge.queued(p) for merge in self._merges.values() for p in merge.partitions)

    def counts(self) -> dict[str, int]:
        """What became of the events, summed over partitions."""
        total = dict.fromkeys(asdict(JoinCounts()), 0)
        for joiner in self._joiners.values():
            for name, count in asdict(joiner.counts).items():
                total[name] += count
        total["late_events"] = sum(merge.late for merge in self._merges.values())
        total["waiting"] = sum(joiner.waiting for joiner in self._joiners.values())
        total["dead_letters"] = sum(self._dead_letters.counts.values())
        return total

    def state(self) -> dict[str, Any]:
        """Everything of this instant that going on from it takes, as plain values.

        What was read and not joined yet is left out: its position is that of the first such message, and ``begun`` says
        how many rows of one that holds many events were joined.
        """
        up_to = self._joined_up_to()
        letters = self._dead_letters.cut(up_to)
        return {
            "features": self.features.to_json(),
            "position": [[p.topic, p.index, offset] for p, (offset, _) in up_to.items()],
            "begun": [[p.topic, p.index, offset, row] for p, (offset, row) in up_to.items() if row],
            "partitions": {
                str(index): {**self._state_of(index), "dead_letters": letters.get(index, {})}
                for index in self.partitions
            },
            "num_events": self.num_events - self._num_queued,
            "time_ms": self.time_ms,
        }

    def _state_of(self, index: int) -> dict[str, Any]:
        return {
            "joiner": self._joiners[index].state(),
            "merge": self._merges[index].state(),
            "watermark_ms": self._watermarks[index],
            "num_emitted": self._num_emitted[index],
        }

    def _joined_up_to(self) -> dict[Partition, Place]:
        """For every input, the offset and the row of the first event that has changed nothing yet."""
        up_to = {p: (offset, self._begun.get((p, offset), 0)) for p, offset in self.position().items()}
        for merge in self._merges.values():
            for partition in merge.partitions:
                waiting = merge.first(partition)
                if waiting is not None:
                    up_to[partition] = (waiting[0].offset, waiting[0].row or 0)
        return up_to

    def _restore(self, states: Sequence[Mapping[str, Any]], features_above: int) -> None:
        """Take this stream's partitions out of states of any number of streams before."""
        mine = set(self.partitions)
        self.features = FeatureState.restored(
            [state["features"] for state in states], self._keeps_user(states), features_above
        )
        for joiner in self._joiners.values():
            joiner.features = self.features
        position: dict[Partition, int] = {}
        for state in states:
            if int(min(state["partitions"], key=int)) in mine:  # counted once, whoever goes on with its partitions
                self.num_events += state["num_events"]
            self.time_ms = max(self.time_ms, state["time_ms"])
            for topic, index, offset in state["position"]:
                partition = Partition(topic, index)
                if topic == FACTS or index in mine:
                    position[partition] = min(offset, position.get(partition, offset))
            up_to: dict[Partition, Place] = {Partition(t, index): (offset, 0) for t, index, offset in state["position"]}
            for topic, index, offset, row in state.get("begun", ()):  # absent before messages held many events
                self._begun[Partition(topic, index), offset] = row
                up_to[Partition(topic, index)] = (offset, row)
            for index in self.partitions:
                if str(index) in state["partitions"]:
                    self._restore_partition(index, state["partitions"][str(index)])
                    letters = state["partitions"][str(index)].get("dead_letters", {})
                    self._dead_letters.restore(index, letters, up_to)
        self._events.seek({partition: offset for partition, offset in position.items() if partition in self._last_seen})

    def _restore_partition(self, index: int, state: Mapping[str, Any]) -> None:
        """Go on with one partition. One that had ended says so again: nobody may have heard it."""
        self._joiners[index].restore(state["joiner"])
        self._merges[index].restore(state["merge"])
        self._watermarks[index] = state["watermark_ms"]
        self._num_emitted[index] = state["num_emitted"]

    def _keeps_user(self, states: Sequence[Mapping[str, Any]]) -> Callable[[Id], bool]:
        """Whether a user's events come to one of these partitions."""
        num_partitions = sum(len(state["partitions"]) for state in states)
        return lambda user_id: partition_of(user_id, num_partitions) in self._merges

    def close(self) -> None:
        """Close the source."""
        self._events.close()

    def _wanted(self, only: Collection[int]) -> list[Partition]:
        """Partitions to read from: facts alone until they are read, none that is far ahead of its sibling."""
        self._facts_behind = {p for p in self._facts_behind if not self._events.caught_up(p)}
        if self._facts_behind:
            return list(self._facts_behind)
        inputs = [
            partition
            for index in only
            if index not in self._ended
            for partition in self._merges[index].partitions
            if self._merges[index].queued(partition) < _MAX_QUEUED
        ]
        return [*inputs, *self._facts] if inputs else []

    def _take(self, record: Record, now: float) -> None:
        """Decode one message and queue its events; what can not be decoded is set aside with its reason."""
        self._last_seen[record.partition] = now
        if not is_batch(record.payload):
            self._take_event(record, now)
            return
        try:
            rows = rows_of(record)
        except EventError as error:
            self._dead_letters.put(record, str(error))
            return
        for row in rows[self._begun.get((record.partition, record.offset), 0) :]:
            self._take_event(row, now)

    def _take_event(self, record: Record, now: float) -> None:
        partition = record.partition
        try:
            event = self._decoded(record, now)
        except EventError as error:
            self._dead_letters.put(record, str(error))
            return
        if isinstance(event, EndMarker):
            self._close_input(partition)
            return
        self.num_events += 1
        if partition.topic == FACTS:
            self._process(self._joiners[self.partitions[0]], record, event)
        else:
            self._merges[partition.index].put(partition, event.time_ms, (record, event, now))

    def _decoded(self, record: Record, now: float) -> Event:
        payload = record.payload
        event = decode(record.partition.topic, payload) if isinstance(payload, bytes) else payload
        if not isinstance(event, EndMarker):
            ahead = event.time_ms / 1000 - now
            if ahead > self._times.max_future_seconds:
                raise EventError(
                    f"{record.partition.topic}: time_ms {event.time_ms} is {ahead:.0f} s ahead of the clock, "
                    f"max_future_seconds is {self._times.max_future_seconds:.0f}"
                )
        return event

    def _close_input(self, partition: Partition) -> None:
        self._facts_behind.discard(partition)
        if partition.topic == FACTS:
            self._facts.discard(partition)
        else:
            self._merges[partition.index].close(partition)

    def _notice_idle(self, now: float) -> None:
        for merge in self._merges.values():
            for partition in merge.partitions:
                silent = now - self._last_seen[partition] > self._times.idle_seconds
                if silent and self._events.caught_up(partition):
                    merge.set_idle(partition)

    def _awake_watermark_ms(self) -> int:
        """The time up to which the partitions that are not idle have come: idle ones go along."""
        awake = [merge for merge in self._merges.values() if not (merge.idle or merge.closed)]
        return min((merge.watermark_ms for merge in awake), default=-1)

    def _join(self, index: int, now: float, awake_ms: int) -> list[tuple[int, ExampleRows | EndMarker]]:
        """What became final in one partition: examples with the new watermark, then END once all is read."""
        if index in self._ended:
            return []
        merge, joiner = self._merges[index], self._joiners[index]
        examples: list[Example] = []
        for time_ms, (record, event, read_at) in merge.ready():
            self.time_ms = max(self.time_ms, time_ms)
            final = joiner.advance(time_ms)  # by itself: these are kept where the event is refused
            examples += _read_at(read_at, [*final, *self._process(joiner, record, event)])
        watermark_ms = max(self._watermarks[index], merge.watermark_ms, awake_ms if merge.idle else -1)
        examples += _read_at(now, joiner.advance(watermark_ms))
        kept = self._sampler.kept(examples)
        joiner.counts.examples_sampled_out += len(examples) - len(kept)
        parts: list[tuple[int, ExampleRows | EndMarker]] = []
        if kept or watermark_ms > self._watermarks[index]:
            self._watermarks[index] = watermark_ms
            parts += [(index, rows) for rows in self._in_messages(index, kept, watermark_ms)]
        if merge.closed:
            self._ended.add(index)
            parts.append((index, END))
        return parts

    def _in_messages(self, index: int, examples: list[Example], watermark_ms: int) -> Iterator[ExampleRows]:
        """The examples, or none, in pieces that fit a message each; the last piece brings the new watermark."""
        for at in range(0, max(1, len(examples)), _MAX_EXAMPLES):
            piece = examples[at : at + _MAX_EXAMPLES]
            is_last = at + _MAX_EXAMPLES >= len(examples)
            up_to_ms = watermark_ms if is_last else piece[-1].emitted_ms
            yield to_rows(piece, self._schema, up_to_ms, self._num_emitted[index])
            self._num_emitted[index] += len(piece)

    def _process(self, joiner: Joiner, record: Record, event: Event) -> list[Example]:
        try:
            return joiner.process(event)
        except DataError as error:
            self._dead_letters.put(record, str(error))
            return []


def _read_at(seconds: float, examples: list[Example]) -> list[Example]:
    """The examples, with when the event that made them final was read."""
    for example in examples:
        example.read_at_ms = int(1000 * seconds)
    return examples
