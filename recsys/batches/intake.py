"""Messages of a source decoded to events, those set aside that can not be, and how far each input was read."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import EventError
from recsys.events import FACTS, EndMarker, Event, decode
from recsys.streams.dead_letters import DeadLetters, Place
from recsys.streams.event_batches import is_batch, rows_of
from recsys.streams.source import Partition, Record, Source


@dataclass(frozen=True, kw_only=True)
class StreamTimes:
    """When a silent partition stops holding the others back, and how far ahead of the clock an event may be."""

    idle_seconds: float = 30.0
    max_future_seconds: float = 60.0


class Intake:
    """Reads a source. Facts are a table: they are read as far as they go before anything else, and then as they come.

    Where a message of many events was joined in part, ``pass_over`` says so: its first rows are not told again.
    """

    def __init__(
        self,
        events: Source,
        dead_letters: DeadLetters,
        times: StreamTimes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._events, self._dead_letters = events, dead_letters
        self._times = times or StreamTimes()
        self._facts = {partition for partition in events.partitions if partition.topic == FACTS}
        self._facts_behind = set(self._facts)
        self._last_seen = dict.fromkeys(events.partitions, clock())
        self._begun: dict[tuple[Partition, int], int] = {}  # (partition, offset) -> its first rows that are joined

    def read(self, inputs: Sequence[Partition], max_events: int, timeout_seconds: float) -> list[Record]:
        """The next messages of ``inputs`` and of the facts: of these alone until all are read."""
        wanted = self._wanted(inputs)
        return self._events.next_batch(max_events, timeout_seconds, wanted) if wanted else []

    def _wanted(self, inputs: Sequence[Partition]) -> list[Partition]:
        self._facts_behind = {p for p in self._facts_behind if not self._events.caught_up(p)}
        if self._facts_behind:
            return list(self._facts_behind)
        return [*inputs, *self._facts] if inputs else []

    def events_of(self, record: Record, now: float) -> Iterator[tuple[Record, Event]]:
        """One message's events, each as a record of its own; what can not be decoded is set aside with its reason."""
        self._last_seen[record.partition] = now
        try:
            if not is_batch(record.payload):
                yield record, self._decoded(record, now)
                return
            rows = rows_of(record)
        except EventError as error:
            self._dead_letters.put(record, str(error))
            return
        for row in rows[self._begun.get((record.partition, record.offset), 0) :]:
            try:
                event = self._decoded(row, now)
            except EventError as error:
                self._dead_letters.put(row, str(error))
            else:
                yield row, event

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

    def close_facts(self, partition: Partition) -> None:
        """No more facts come from a partition."""
        self._facts_behind.discard(partition)
        self._facts.discard(partition)

    def is_silent(self, partition: Partition, now: float) -> bool:
        """Whether nothing has come for long, and the source knows of nothing more."""
        silent = now - self._last_seen[partition] > self._times.idle_seconds
        return silent and self._events.caught_up(partition)

    # --- where reading stands

    def up_to(self) -> dict[Partition, Place]:
        """For every input, the offset and the row of the next event."""
        return {p: (offset, self._begun.get((p, offset), 0)) for p, offset in self._events.position().items()}

    def pass_over(self, said: Mapping[str, Any], *, facts: bool = True) -> None:
        """Where a message is read again, the rows of it that were joined are passed over."""
        for topic, index, offset, row in said.get("begun", ()):  # absent before messages held many events
            if facts or topic != FACTS:
                self._begun[Partition(topic, index), offset] = row

    def seek(self, position: Mapping[Partition, int]) -> None:
        """Read on from there, as far as these inputs are the source's."""
        known = {partition: offset for partition, offset in position.items() if partition in self._last_seen}
        if known:
            self._events.seek(known)


def places_to_json(up_to: Mapping[Partition, Place], partitions: Collection[Partition]) -> dict[str, Any]:
    """Where inputs stand, as plain values."""
    return {
        "position": [[p.topic, p.index, up_to[p][0]] for p in partitions],
        "begun": [[p.topic, p.index, *up_to[p]] for p in partitions if up_to[p][1]],
    }
