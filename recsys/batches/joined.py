"""Run the joiners of some partitions over a source of events: what a joiner actor does, or a process by itself."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recsys.batches.disk_state import JoinerDisk, Message
from recsys.batches.examples import Example, ExampleRows, example_schema, to_rows
from recsys.batches.join import JoinConfig, JoinCounts, Joiner
from recsys.batches.join_state import JoinState
from recsys.batches.merge import TimeMerge
from recsys.batches.sampling import Sampler, Sampling
from recsys.errors import DataError, EventError
from recsys.events import ACTIONS, END, FACTS, IMPRESSIONS, EndMarker, Event, decode
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import FeatureState, history_from_json
from recsys.streams.dead_letters import DeadLetters, Place
from recsys.streams.event_batches import is_batch, rows_of
from recsys.streams.partitioner import partition_of
from recsys.streams.source import Partition, Record, Source
from recsys.streams.unread import Lag, seconds_since

_MAX_QUEUED = 5_000  # events of one partition held while another is waited for
_MAX_EXAMPLES = 5_000  # of one partition that a poll returns, and a few more
_MESSAGE_EXAMPLES = 1_000  # a broker takes 1 MiB, and one message of events, or one instant, can end many


@dataclass(frozen=True, kw_only=True)
class StreamTimes:
    """When a silent partition stops holding the others back, and how far ahead of the clock an event may be."""

    idle_seconds: float = 30.0
    max_future_seconds: float = 60.0


class JoinedStream:
    """Joined examples of ``partitions``, each joined by itself: its impressions and actions share the user key.

    Facts are a table: they are read as far as they go before the first impression, and then as they come. With states
    of streams that were, ``restored``, it goes on where they stood; features are numbered ``features_above`` then. On a
    ``disk`` the state is durable with each ``commit``; what the disk knows of a partition goes before what is restored.
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
        disk: JoinerDisk | None = None,
    ) -> None:
        self.partitions = tuple(partitions)
        self._disk = disk
        self.features = FeatureState(config.keep_items) if disk is None else disk.features(config.keep_items)
        self._events, self._dead_letters, self._clock = events, dead_letters, clock
        self._times = times or StreamTimes()
        self._sampler = sampler or Sampler(Sampling(), config.actions, seed=0)
        self._schema = example_schema(features)
        extractor = Extractor(features)
        self._joiners = {index: self._joiner(index, config, extractor) for index in self.partitions}
        self._allowed_lateness_ms = config.allowed_lateness_ms
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
        self._num_facts = self._num_before = 0
        self._num_joined = dict.fromkeys(self.partitions, 0)
        self.is_behind = False  # the last poll has left for the next one what it could have joined
        self.time_ms = -1  # event time of the newest event joined
        self._restore(restored, features_above)

    def _joiner(self, index: int, config: JoinConfig, extractor: Extractor) -> Joiner:
        if self._disk is None:
            return Joiner(config, extractor, self.features, JoinState())
        part = self._disk.partitions[index]
        return Joiner(config, extractor, self.features.with_histories(part.histories), part.kept)

    @property
    def ended(self) -> bool:
        """Whether every partition was closed."""
        return self._ended == set(self.partitions)

    @property
    def num_events(self) -> int:
        """Events read; not those that could not be decoded."""
        return self._num_before + self._num_facts + sum(self._num_joined.values()) + self._num_queued

    @property
    def away_seconds(self) -> float:
        """For how long the source has not answered."""
        return self._events.away_seconds()

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
        self.is_behind = False
        return [part for index in self.partitions if index in only for part in self._join(index, now, watermark_ms)]

    def commit(self, messages: Mapping[int, Sequence[Message]]) -> None:
        """Make everything up to here durable, by partition in one batch with the messages that were made of it."""
        assert self._disk is not None
        up_to = self._joined_up_to()
        letters = self._dead_letters.cut(up_to)
        facts = [partition for partition in up_to if partition.topic == FACTS]
        self._disk.facts.commit({**_places_to_json(up_to, facts), "num_facts": self._num_facts})
        for index, part in self._disk.partitions.items():
            about = {
                **_places_to_json(up_to, self._merges[index].partitions),
                **self._numbers_of(index),
                **self._letters_of(index, letters),
                "joiner": self._joiners[index].numbers(),
            }
            part.commit(about, messages.get(index, ()))

    def position(self) -> dict[Partition, int]:
        """Where reading would go on."""
        return self._events.position()

    def lag(self) -> dict[int, Lag]:
        """By partition, events that are not joined yet: unread ones, and those that wait for an earlier one.

        Their seconds are since the oldest unread one was written, or the oldest waiting one was read. Facts of a
        partition count as its own, though every joiner reads all.
        """
        unread, since_ms, now = self._events.lag(), self._events.unread_since_ms(), self._clock()
        lag = {index: Lag(0, 0.0) for index in self.partitions}
        for partition, number in unread.items():
            if partition.index in lag:
                lag[partition.index] += Lag(number, seconds_since(since_ms.get(partition), now))
        for index, merge in self._merges.items():
            for waiting in [merge.first(partition) for partition in merge.partitions]:
                lag[index] += Lag(0, 0.0 if waiting is None else now - waiting[2])
            lag[index] += Lag(sum(map(merge.queued, merge.partitions)), 0.0)
        return lag

    @property
    def num_emitted(self) -> dict[int, int]:
        """Examples that became final, by partition."""
        return dict(self._num_emitted)

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
            **_places_to_json(up_to, up_to),
            "partitions": {
                str(index): {**self._state_of(index), **self._letters_of(index, letters)} for index in self.partitions
            },
            "num_events": self.num_events - self._num_queued,
            "time_ms": self.time_ms,
        }

    def _state_of(self, index: int) -> dict[str, Any]:
        outbox = {} if self._disk is None else {"outbox": self._disk.partitions[index].outbox()}
        return {"joiner": self._joiners[index].state(), **self._numbers_of(index), **outbox}

    def _letters_of(self, index: int, counts: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
        """What was set aside of a partition, and up to where: facts are read again for others' sake."""
        done = self._dead_letters.done(index)
        return {
            "dead_letters": counts.get(index, {}),
            "letters_up_to": [[partition.topic, *place] for partition, place in done.items()],
        }

    def _numbers_of(self, index: int) -> dict[str, Any]:
        return {
            "merge": self._merges[index].state(),
            "watermark_ms": self._watermarks[index],
            "num_emitted": self._num_emitted[index],
            "num_joined": self._num_joined[index],
            "time_ms": self.time_ms,
            "ended": index in self._ended,
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
        """Take this stream's partitions from the disk, or else out of states of any number of streams before."""
        kept = self._abouts()
        position = self._restore_features(states, kept, features_above)
        for about in kept.values():
            position.update((Partition(topic, index), offset) for topic, index, offset in about["position"])
        missing = [index for index in self.partitions if index not in kept]
        for state in states:
            if int(min(state["partitions"], key=int)) in missing:  # counted once, whoever goes on with its partitions
                self._num_before += state["num_events"]
            self.time_ms = max(self.time_ms, state["time_ms"])
            for topic, index, offset in state["position"]:
                partition = Partition(topic, index)
                if index in missing and topic != FACTS:
                    position[partition] = offset
            self._pass_over(state, facts=len(states) == 1)  # of several, some may have read less of them
            for index in missing:
                if str(index) in state["partitions"]:
                    found = state["partitions"][str(index)]
                    self._joiners[index].restore(found["joiner"])
                    self._restore_partition(index, found)
                    if self._disk is not None and "outbox" in found:
                        self._disk.partitions[index].restore_outbox(found["outbox"])
        if self._disk is not None and self._disk.facts.about is not None:
            self._pass_over(self._disk.facts.about)
        for index, about in kept.items():
            self._joiners[index].restore_numbers(about["joiner"])
            self._pass_over(about)
            self._restore_partition(index, about)
            self._num_joined[index] = about["num_joined"]
            self.time_ms = max(self.time_ms, about["time_ms"])
            self._ended.update([index] if about["ended"] else [])
        position = {partition: offset for partition, offset in position.items() if partition in self._last_seen}
        if position:
            self._events.seek(position)

    def _abouts(self) -> dict[int, Mapping[str, Any]]:
        """What the disk knows of partitions."""
        parts = {} if self._disk is None else self._disk.partitions
        return {index: part.about for index, part in parts.items() if part.about is not None}

    def _restore_features(
        self, states: Sequence[Mapping[str, Any]], kept: Collection[int], features_above: int
    ) -> dict[Partition, int]:
        """Take up facts and histories; returns where their topic is read from."""
        position: dict[Partition, int] = {}
        about = None if self._disk is None else self._disk.facts.about
        if about is not None:
            self._num_facts = about["num_facts"]
            position = {Partition(topic, index): offset for topic, index, offset in about["position"]}
        elif states:
            for topic, index, offset in (entry for state in states for entry in state["position"]):
                partition = Partition(topic, index)
                if topic == FACTS:
                    position[partition] = min(offset, position.get(partition, offset))
            self.features.restore([state["features"] for state in states], lambda _: False, features_above)
        self._restore_histories(states, kept)
        if kept or about is not None:
            self.features.everything_changed(features_above)
        return position

    def _restore_histories(self, states: Sequence[Mapping[str, Any]], kept: Collection[int]) -> None:
        num_partitions = sum(len(state["partitions"]) for state in states)
        for user_id, history in (entry for state in states for entry in state["features"]["histories"]):
            index = partition_of(user_id, num_partitions)
            if index in self._joiners and index not in kept:
                self._joiners[index].features.put_history(user_id, history_from_json(history))

    def _pass_over(self, said: Mapping[str, Any], *, facts: bool = True) -> None:
        """Where a message is read again, the rows of it that were joined are passed over."""
        for topic, index, offset, row in said.get("begun", ()):  # absent before messages held many events
            if facts or topic != FACTS:
                self._begun[Partition(topic, index), offset] = row

    def _restore_partition(self, index: int, numbers: Mapping[str, Any]) -> None:
        """Go on with one partition. One that had ended says so again, unless the disk has the message that did."""
        self._merges[index].restore(numbers["merge"])
        self._watermarks[index] = numbers["watermark_ms"]
        self._num_emitted[index] = numbers["num_emitted"]
        done = {Partition(topic, index): (offset, row) for topic, offset, row in numbers.get("letters_up_to", ())}
        self._dead_letters.restore(index, numbers.get("dead_letters", {}), done)

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
        if partition.topic == FACTS:
            self._num_facts += 1
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
        examples = self._join_events(index)
        watermark_ms = max(self._watermarks[index], merge.watermark_ms, awake_ms if merge.idle else -1)
        if merge.head() is None:
            examples += _read_at(now, joiner.advance(watermark_ms, _MAX_EXAMPLES))
        is_behind = merge.head() is not None or joiner.is_behind(watermark_ms)
        if is_behind:  # what comes next is not emitted before what came last
            self.is_behind = True
            watermark_ms = max(self._watermarks[index], joiner.emitted_ms)
        kept = self._sampler.kept(examples)
        joiner.counts.examples_sampled_out += len(examples) - len(kept)
        parts: list[tuple[int, ExampleRows | EndMarker]] = []
        if kept or watermark_ms > self._watermarks[index]:
            self._watermarks[index] = watermark_ms
            parts += [(index, rows) for rows in self._in_messages(index, kept, watermark_ms)]
        if merge.closed and not is_behind:
            self._ended.add(index)
            parts.append((index, END))
        return parts

    def _in_messages(self, index: int, examples: list[Example], watermark_ms: int) -> Iterator[ExampleRows]:
        """The examples, or none, in pieces that fit a message each; the last piece brings the new watermark."""
        for at in range(0, max(1, len(examples)), _MESSAGE_EXAMPLES):
            piece = examples[at : at + _MESSAGE_EXAMPLES]
            is_last = at + _MESSAGE_EXAMPLES >= len(examples)
            up_to_ms = watermark_ms if is_last else piece[-1].emitted_ms
            yield to_rows(piece, self._schema, up_to_ms, self._num_emitted[index])
            self._num_emitted[index] += len(piece)

    def _join_events(self, index: int) -> list[Example]:
        """Join the events of a partition whose turn it is, until enough has become final."""
        merge, joiner = self._merges[index], self._joiners[index]
        examples: list[Example] = []
        while len(examples) < _MAX_EXAMPLES and (head := merge.head()) is not None:
            time_ms, (record, event, read_at) = head
            examples += _read_at(read_at, joiner.advance(time_ms, _MAX_EXAMPLES))
            if joiner.is_behind(time_ms):
                break  # the event waits in the merge
            merge.pop()
            self._num_joined[index] += 1
            self.time_ms = max(self.time_ms, time_ms)
            if merge.time_ms - time_ms > self._allowed_lateness_ms:
                self._set_aside(joiner, record, merge.time_ms - time_ms)
            else:
                examples += _read_at(read_at, self._process(joiner, record, event))
        return examples

    def _set_aside(self, joiner: Joiner, record: Record, late_ms: int) -> None:
        joiner.counts.events_too_late += 1
        allowed_seconds = self._allowed_lateness_ms / 1000
        reason = f"too late: {late_ms / 1000:g} s after its partition, allowed_lateness_seconds is {allowed_seconds:g}"
        self._dead_letters.put(record, f"{record.partition.topic}: {reason}")

    def _process(self, joiner: Joiner, record: Record, event: Event) -> list[Example]:
        try:
            return joiner.process(event)
        except DataError as error:
            self._dead_letters.put(record, str(error))
            return []


def _places_to_json(up_to: Mapping[Partition, Place], partitions: Iterable[Partition]) -> dict[str, Any]:
    return {
        "position": [[p.topic, p.index, up_to[p][0]] for p in partitions],
        "begun": [[p.topic, p.index, *up_to[p]] for p in partitions if up_to[p][1]],
    }


def _read_at(seconds: float, examples: list[Example]) -> list[Example]:
    """The examples, with when the event that made them final was read."""
    for example in examples:
        example.read_at_ms = int(1000 * seconds)
    return examples
