"""Joiner actors: each joins a group of partitions, and keeps the features of their users.

With Kafka their state is on disk, ``<run>/joiner``: a joiner goes on from its last commit, whatever the others go back
to, since what it makes depends on its input alone. A checkpoint holds the state too, for a machine without that folder.
"""

import base64
import gc
import secrets
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.batches.batches import Fed, StreamPosition
from recsys.batches.disk_state import JoinerDisk
from recsys.batches.examples import ExampleRows, decode_rows, encode_rows
from recsys.batches.join import JoinConfig
from recsys.batches.joined import JoinedStream, StreamTimes
from recsys.batches.outbox import Outbox
from recsys.batches.sampling import Sampler
from recsys.events import END_PAYLOAD, EndMarker, decode_end
from recsys.features.declarations import Feature
from recsys.features.state import FeatureChanges
from recsys.runtime.actors import wait_for
from recsys.runtime.events import Events, KafkaEvents, open_dead_letters
from recsys.streams.sink import Sink

_LINGER_SECONDS = 0.1  # with little to read, messages of examples are made this seldom: each has a price of its own
_FULL_POLL = 1_000
_MAX_EVENTS = 4_000  # a poll and commit


class JoinerActor:
    """Runs a JoinedStream. With Kafka it sends examples to their topic (``run``); without, workers ask (``poll``).

    A lock keeps reading and questions apart: a publisher sees users and counts of one instant. On its ``disk`` each
    poll is one commit, and messages go through the outbox. Without a topic, what was emitted and may not be learned yet
    is a part of the state: a worker that takes another's place is handed it again.
    """

    def __init__(
        self,
        events: Events,
        partitions: Sequence[int],
        config: JoinConfig,
        features: Sequence[Feature],
        times: StreamTimes,
        folder: Path,
        restored: Sequence[Mapping[str, Any]] = (),
        features_above: int = 0,
        sampler: Sampler | None = None,
        disk: Path | None = None,
    ) -> None:
        self._events, self._folder = events, folder
        self._partitions = tuple(partitions)
        self._disk = None if disk is None else _open_disk(disk, partitions, config)
        self._dead_letters = open_dead_letters(events, partitions, folder)
        self._stream = JoinedStream(
            events.open(partitions),
            partitions=partitions,
            config=config,
            features=features,
            dead_letters=self._dead_letters,
            times=times,
            restored=restored,
            features_above=features_above,
            sampler=sampler,
            disk=self._disk,
        )
        self._unsent = _unsent(restored, partitions)
        self._handed: list[tuple[int, bytes]] = []  # to workers, which may not have learned it
        self._readers: dict[int, str] = {}  # of each partition: who is handed what comes
        self._lock = threading.Lock()
        self._stopping = False

    def ready(self) -> None:
        """Answers once the joiner is up."""

    def read_from(self, reader: str, numbers: Mapping[int, int]) -> None:
        """From now on ``reader`` is handed what comes of these partitions, from these examples on."""
        with self._lock:
            self._readers.update(dict.fromkeys(numbers, reader))
            again = [part for part in self._handed if part[0] in numbers]
            self._handed = [part for part in self._handed if part[0] not in numbers]
            self._unsent = again + self._unsent

    def poll(self, reader: str, only: Collection[int], timeout_seconds: float) -> list[tuple[int, bytes]]:
        """Join some events; what became final of the reader's partitions, in wire form."""
        with self._lock:
            mine = [index for index in only if self._readers.get(index) == reader]
            parts = [part for part in self._unsent if part[0] in mine] or self._join(mine, timeout_seconds)
            self._unsent = [part for part in self._unsent if part[0] not in mine]
            self._handed += parts
            return parts

    def learned(self, numbers: Mapping[int, int]) -> None:
        """A checkpoint holds the examples of each partition below a number: nobody will ask for them again."""
        with self._lock:
            self._handed = [part for part in self._handed if not _is_below(part, numbers)]

    def run(self) -> None:
        """Join until every partition has ended, or ``stop``; examples go to their topic."""
        assert isinstance(self._events, KafkaEvents) and self._disk is not None
        collect_seldom()
        with self._events.open_sink() as sink:
            outbox = Outbox(self._disk, self._events.last_examples(self._partitions))
            self._send(outbox, sink)
            while not (self._stream.ended or self._stopping):
                started_at, read_before = time.monotonic(), self._stream.num_events
                self._join_and_commit(outbox)
                self._send(outbox, sink)
                if self._stream.num_events - read_before < _FULL_POLL and not self._stream.is_behind:
                    time.sleep(max(0.0, started_at + _LINGER_SECONDS - time.monotonic()))

    def stop(self) -> None:
        """End ``run`` after what it is reading now."""
        self._stopping = True

    def changes(self, consumer: str, since: int) -> FeatureChanges:
        """See FeatureState.changes."""
        with self._lock:
            return self._stream.features.changes(consumer, since)

    def acknowledge(self, consumer: str, up_to: int) -> None:
        """See FeatureState.acknowledge."""
        with self._lock:
            self._stream.features.acknowledge(consumer, up_to)

    def everything_changed(self) -> None:
        """See FeatureState.everything_changed."""
        with self._lock:
            self._stream.features.everything_changed()

    def status(self) -> dict[str, Any]:
        """Counts, and by partition lag and examples emitted, for the progress display."""
        with self._lock:
            self._dead_letters.flush()
            return {
                "counts": {**self._stream.counts(), "events": self._stream.num_events},
                "lag": self._stream.lag(),
                "emitted": self._stream.num_emitted,
                "away_seconds": self._stream.away_seconds,
            }

    def state(self) -> dict[str, Any]:
        """See JoinedStream.state; and what its topic, or workers, may lack of what that counts as emitted."""
        with self._lock:
            parts = [*self._handed, *self._unsent]
            unsent = [[index, base64.b64encode(payload).decode()] for index, payload in parts]
            return {**self._stream.state(), "unsent": unsent}

    def _join(self, only: Collection[int], timeout_seconds: float) -> list[tuple[int, bytes]]:
        return [(index, _payload(part)) for index, part in self._stream.poll(only, timeout_seconds)]

    def _join_and_commit(self, outbox: Outbox) -> None:
        with self._lock:
            parts = self._stream.poll(self._partitions, 0.05, _MAX_EVENTS)
            self._stream.commit(outbox.messages(parts))

    def _send(self, outbox: Outbox, sink: Sink) -> None:
        with self._lock:
            waiting = outbox.unsent()
        if waiting:
            outbox.produce(sink, waiting)
            with self._lock:
                outbox.sent(waiting)

    def close(self) -> None:
        """Let go of source, dead letters and disk."""
        self._stream.close()
        self._dead_letters.close()
        if self._disk is not None:
            self._disk.close()


class JoinerFeed:
    """Examples asked of joiner actors directly, from some numbers on; the next question is on its way while the last
    answer is used.
    """

    def __init__(self, joiners: Mapping[int, Any], start: StreamPosition) -> None:
        self.partitions = tuple(joiners)  # partition -> actor
        self._joiners, self._name = dict(joiners), secrets.token_hex(8)
        self._asked: dict[Any, Any] = {}
        for actor in dict.fromkeys(joiners.values()):
            numbers = {partition: start[partition][1] for partition in joiners if joiners[partition] == actor}
            wait_for(actor.read_from.remote(self._name, numbers))

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[Fed]:
        """See ExampleFeed; there are no messages to begin again from, a joiner that begins again sends all."""
        by_actor: dict[Any, list[int]] = {}
        for index in only:
            by_actor.setdefault(self._joiners[index], []).append(index)
        for actor, partitions in by_actor.items():
            if actor not in self._asked:
                self._asked[actor] = actor.poll.remote(self._name, partitions, timeout_seconds)
        parts: list[tuple[int, bytes]] = []
        for actor, partitions in by_actor.items():
            parts += wait_for(self._asked.pop(actor))
            self._asked[actor] = actor.poll.remote(self._name, partitions, timeout_seconds)
        return [(index, decode_end(payload) or decode_rows(payload), 0) for index, payload in parts]


class JoinerFeatures:
    """A joiner actor as the publisher's feature feed."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def changes(self, consumer: str, since: int) -> FeatureChanges:
        """See FeatureFeed."""
        changes: FeatureChanges = wait_for(self._actor.changes.remote(consumer, since))
        return changes

    def acknowledge(self, consumer: str, up_to: int) -> None:
        """See FeatureFeed."""
        wait_for(self._actor.acknowledge.remote(consumer, up_to))

    def everything_changed(self) -> None:
        """See FeatureFeed."""
        wait_for(self._actor.everything_changed.remote())


def collect_seldom() -> None:
    """Look for garbage in cycles less often: a joiner makes many objects, none of them in cycles.

    At Python's own pace that took half of its time.
    """
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _open_disk(folder: Path, partitions: Sequence[int], config: JoinConfig) -> JoinerDisk:
    origin = secrets.token_hex(8)
    return JoinerDisk(folder, partitions, origin=origin, memory_mb=config.memory_mb, sync=config.sync)


def _is_below(part: tuple[int, bytes], numbers: Mapping[int, int]) -> bool:
    """Whether all of a message's examples are numbered below those of its partition; never of an end."""
    index, payload = part
    if payload == END_PAYLOAD:
        return False
    rows = decode_rows(payload)
    return rows.first + rows.rows.num_rows <= numbers.get(index, 0)


def _unsent(states: Sequence[Mapping[str, Any]], partitions: Sequence[int]) -> list[tuple[int, bytes]]:
    """What joiners had emitted for these partitions and perhaps not sent."""
    return [
        (index, base64.b64decode(payload))
        for state in states
        for index, payload in state.get("unsent", ())  # of a joiner without a topic: nothing
        if index in partitions
    ]


def _payload(part: ExampleRows | EndMarker) -> bytes:
    return END_PAYLOAD if isinstance(part, EndMarker) else encode_rows(part)
