"""Run the joiners of some partitions over a source of events: what a joiner actor does, or a process by itself."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from recsys.batches.disk_state import JoinerDisk, Message
from recsys.batches.examples import ExampleRows, example_schema
from recsys.batches.intake import Intake, StreamTimes, places_to_json
from recsys.batches.join import JoinConfig, JoinCounts, Joiner
from recsys.batches.join_state import JoinState
from recsys.batches.joined_partition import JoinedPartition
from recsys.batches.sampling import Sampler, Sampling
from recsys.events import FACTS, EndMarker, Event
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import FeatureState, history_from_json
from recsys.streams.dead_letters import DeadLetters, Place
from recsys.streams.partitioner import partition_of
from recsys.streams.source import Partition, Record, Source
from recsys.streams.unread import Lag, seconds_since

__all__ = ["JoinedStream", "StreamTimes"]


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
        self._intake = Intake(events, dead_letters, times, clock)
        extractor, schema = Extractor(features), example_schema(features)
        sampler = sampler or Sampler(Sampling(), config.actions, seed=0)
        self._parts = {
            index: JoinedPartition(
                index,
                self._joiner(index, config, extractor),
                sampler=sampler,
                dead_letters=dead_letters,
                schema=schema,
                allowed_lateness_ms=config.allowed_lateness_ms,
            )
            for index in self.partitions
        }
        self._num_facts = self._num_before = 0
        self._time_before_ms = -1
        self.is_behind = False  # the last poll has left for the next one what it could have joined
        self._restore(restored, features_above)

    def _joiner(self, index: int, config: JoinConfig, extractor: Extractor) -> Joiner:
        if self._disk is None:
            return Joiner(config, extractor, self.features, JoinState())
        part = self._disk.partitions[index]
        features = self.features.with_histories(part.histories)
        return Joiner(config, extractor, features, part.kept, lately=self._disk.lately)

    @property
    def ended(self) -> bool:
        """Whether every partition was closed."""
        return all(part.has_ended for part in self._parts.values())

    @property
    def num_events(self) -> int:
        """Events read; not those that could not be decoded."""
        joined = sum(part.num_joined for part in self._parts.values())
        return self._num_before + self._num_facts + joined + self._num_queued

    @property
    def time_ms(self) -> int:
        """Event time of the newest event joined."""
        return max([self._time_before_ms, *(part.time_ms for part in self._parts.values())])

    @property
    def away_seconds(self) -> float:
        """For how long the source has not answered."""
        return self._events.away_seconds()

    def poll(
        self, only: Collection[int], timeout_seconds: float = 0.1, max_events: int = 2_000
    ) -> list[tuple[int, ExampleRows | EndMarker]]:
        """Read some messages and return what became final, by partition; END closes a partition, once."""
        inputs = [partition for index in only for partition in self._parts[index].inputs()]
        records = self._intake.read(inputs, max_events, timeout_seconds)
        now = self._clock()
        for record in records:
            for row, event in self._intake.events_of(record, now):
                self._take(row, event, now)
        self._notice_idle(now)
        awake_ms = self._awake_watermark_ms()
        found = [
            (index, part)
            for index in self.partitions
            if index in only
            for part in self._parts[index].join(now, awake_ms)
        ]
        self.is_behind = any(self._parts[index].is_behind for index in only)
        return found

    def _take(self, record: Record, event: Event, now: float) -> None:
        """Queue an event for its partition; facts count at once."""
        if record.partition.topic != FACTS:
            self._parts[record.partition.index].take(record, event, now)
        elif isinstance(event, EndMarker):
            self._intake.close_facts(record.partition)
        else:
            self._num_facts += 1
            self._parts[self.partitions[0]].process(record, event)

    def _notice_idle(self, now: float) -> None:
        for part in self._parts.values():
            for partition in part.merge.partitions:
                if self._intake.is_silent(partition, now):
                    part.merge.set_idle(partition)

    def _awake_watermark_ms(self) -> int:
        """The time up to which the partitions that are not idle have come: idle ones go along."""
        merges = [part.merge for part in self._parts.values()]
        return min((merge.watermark_ms for merge in merges if not (merge.idle or merge.closed)), default=-1)

    def commit(self, messages: Mapping[int, Sequence[Message]]) -> None:
        """Make everything up to here durable, by partition in one batch with the messages that were made of it."""
        assert self._disk is not None
        up_to = self._joined_up_to()
        letters = self._dead_letters.cut(up_to)
        facts = [partition for partition in up_to if partition.topic == FACTS]
        self._disk.facts.commit({**places_to_json(up_to, facts), "num_facts": self._num_facts})
        for index, part in self._disk.partitions.items():
            about = {
                **places_to_json(up_to, self._parts[index].merge.partitions),
                **self._numbers_of(index),
                **self._letters_of(index, letters),
                "joiner": self._parts[index].joiner.numbers(),
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
        lag = {index: part.lag(now) for index, part in self._parts.items()}
        for partition, number in unread.items():
            if partition.index in lag:
                lag[partition.index] += Lag(number, seconds_since(since_ms.get(partition), now))
        return lag

    @property
    def num_emitted(self) -> dict[int, int]:
        """Examples that became final, by partition."""
        return {index: part.num_emitted for index, part in self._parts.items()}

    @property
    def _num_queued(self) -> int:
        return sum(part.num_queued for part in self._parts.values())

    def counts(self) -> dict[str, int]:
        """What became of the events, summed over partitions."""
        total = dict.fromkeys(asdict(JoinCounts()), 0)
        for part in self._parts.values():
            for name, count in asdict(part.joiner.counts).items():
                total[name] += count
        total["late_events"] = sum(part.merge.late for part in self._parts.values())
        total["waiting"] = sum(part.joiner.waiting for part in self._parts.values())
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
            **places_to_json(up_to, up_to),
            "partitions": {
                str(index): {**self._state_of(index), **self._letters_of(index, letters)} for index in self.partitions
            },
            "num_events": self.num_events - self._num_queued,
            "time_ms": self.time_ms,
        }

    def _state_of(self, index: int) -> dict[str, Any]:
        outbox = {} if self._disk is None else {"outbox": self._disk.partitions[index].outbox()}
        return {"joiner": self._parts[index].joiner.state(), **self._numbers_of(index), **outbox}

    def _letters_of(self, index: int, counts: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
        """What was set aside of a partition, and up to where: facts are read again for others' sake."""
        done = self._dead_letters.done(index)
        return {
            "dead_letters": counts.get(index, {}),
            "letters_up_to": [[partition.topic, *place] for partition, place in done.items()],
        }

    def _numbers_of(self, index: int) -> dict[str, Any]:
        return {**self._parts[index].numbers(), "time_ms": self.time_ms}

    def _joined_up_to(self) -> dict[Partition, Place]:
        """For every input, the offset and the row of the first event that has changed nothing yet."""
        up_to = self._intake.up_to()
        for part in self._parts.values():
            up_to.update(part.waiting_from())
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
            self._time_before_ms = max(self._time_before_ms, state["time_ms"])
            for topic, index, offset in state["position"]:
                partition = Partition(topic, index)
                if index in missing and topic != FACTS:
                    position[partition] = offset
            self._intake.pass_over(state, facts=len(states) == 1)  # of several, some may have read less of them
            for index in missing:
                if str(index) in state["partitions"]:
                    found = state["partitions"][str(index)]
                    self._parts[index].joiner.restore(found["joiner"])
                    self._restore_partition(index, found)
                    if self._disk is not None and "outbox" in found:
                        self._disk.partitions[index].restore_outbox(found["outbox"])
        if self._disk is not None and self._disk.facts.about is not None:
            self._intake.pass_over(self._disk.facts.about)
        for index, about in kept.items():
            self._parts[index].joiner.restore_numbers(about["joiner"])
            self._intake.pass_over(about)
            self._restore_partition(index, about)
            self._parts[index].restore_progress(about)
            self._time_before_ms = max(self._time_before_ms, about["time_ms"])
        self._intake.seek(position)

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
            if index in self._parts and index not in kept:
                self._parts[index].joiner.features.put_history(user_id, history_from_json(history))

    def _restore_partition(self, index: int, numbers: Mapping[str, Any]) -> None:
        """Go on with one partition. One that had ended says so again, unless the disk has the message that did."""
        self._parts[index].restore(numbers)
        done = {Partition(topic, index): (offset, row) for topic, offset, row in numbers.get("letters_up_to", ())}
        self._dead_letters.restore(index, numbers.get("dead_letters", {}), done)

    def close(self) -> None:
        """Close the source."""
        self._events.close()
