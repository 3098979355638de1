"""Joiner actors: each joins a group of partitions, and keeps the features of their users."""

import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from recsys.batches.examples import ExampleRows, decode_rows, encode_rows
from recsys.batches.join import JoinConfig
from recsys.batches.joined import JoinedStream, StreamTimes
from recsys.events import END_PAYLOAD, EXAMPLES, EndMarker, decode_end
from recsys.features.declarations import Feature
from recsys.features.state import FeatureChanges
from recsys.runtime.actors import wait_for
from recsys.runtime.events import Events, KafkaEvents, dead_letters
from recsys.streams.source import Partition

_LINGER_SECONDS = 0.1  # with little to read, messages of examples are made this seldom: each has a price of its own
_FULL_POLL = 1_000


class JoinerActor:
    """Runs a JoinedStream. With Kafka it sends examples to their topic (``run``); without, workers ask (``poll``).

    A lock keeps reading and questions apart: a publisher sees users and counts of one instant.
    """

    def __init__(
        self,
        events: Events,
        partitions: Sequence[int],
        config: JoinConfig,
        features: Sequence[Feature],
        times: StreamTimes,
        folder: Path,
    ) -> None:
        self._events, self._folder = events, folder
        self._partitions = tuple(partitions)
        self._dead_letters = dead_letters(folder)
        self._stream = JoinedStream(
            events.open(partitions),
            partitions=partitions,
            config=config,
            features=features,
            dead_letters=self._dead_letters,
            times=times,
        )
        self._lock = threading.Lock()
        self._stopping = False

    def ready(self) -> None:
        """Answers once the joiner is up."""

    def poll(self, only: Collection[int], timeout_seconds: float) -> list[tuple[int, bytes]]:
        """Join some events; what became final, by partition, in wire form."""
        with self._lock:
            parts = self._stream.poll(only, timeout_seconds)
        return [(index, _payload(part)) for index, part in parts]

    def run(self) -> None:
        """Join until every partition has ended, or ``stop``; examples go to their topic."""
        assert isinstance(self._events, KafkaEvents)
        open_partitions = set(self._partitions)
        with self._events.open_sink() as sink:
            while open_partitions and not self._stopping:
                started_at, read_before = time.monotonic(), self._stream.num_events
                for index, payload in self.poll(open_partitions, 0.05):
                    sink.send(Partition(EXAMPLES, index), payload)
                    if payload == END_PAYLOAD:
                        open_partitions.discard(index)
                sink.flush()
                if self._stream.num_events - read_before < _FULL_POLL:
                    time.sleep(max(0.0, started_at + _LINGER_SECONDS - time.monotonic()))

    def stop(self) -> None:
        """End ``run`` after what it is reading now."""
        self._stopping = True

    def changes(self, since: int) -> FeatureChanges:
        """See FeatureState.changes."""
        with self._lock:
            return self._stream.features.changes(since)

    def acknowledge(self, up_to: int) -> None:
        """See FeatureState.acknowledge."""
        with self._lock:
            self._stream.features.acknowledge(up_to)

    def status(self) -> dict[str, Any]:
        """Counts, lag and event clock, for the progress display."""
        with self._lock:
            self._dead_letters.flush()
            return {
                **self._stream.counts(),
                "events": self._stream.num_events,
                "lag": self._stream.lag(),
                "time_ms": self._stream.time_ms,
            }

    def state(self) -> dict[str, Any]:
        """Features and positions of one instant, for a checkpoint."""
        with self._lock:
            return self._stream.state()


class JoinerFeed:
    """Examples asked of joiner actors directly; the next question is on its way while the last answer is used."""

    def __init__(self, joiners: dict[int, Any]) -> None:
        self.partitions = tuple(joiners)  # partition -> actor
        self._joiners = joiners
        self._asked: dict[Any, Any] = {}

    def poll(self, only: Collection[int], timeout_seconds: float = 0.1) -> list[tuple[int, ExampleRows | EndMarker]]:
        """See ExampleFeed."""
        by_actor: dict[Any, list[int]] = {}
        for index in only:
            by_actor.setdefault(self._joiners[index], []).append(index)
        for actor, partitions in by_actor.items():
            if actor not in self._asked:
                self._asked[actor] = actor.poll.remote(partitions, timeout_seconds)
        parts: list[tuple[int, bytes]] = []
        for actor, partitions in by_actor.items():
            parts += wait_for(self._asked.pop(actor))
            self._asked[actor] = actor.poll.remote(partitions, timeout_seconds)
        return [(index, decode_end(payload) or decode_rows(payload)) for index, payload in parts]


class JoinerFeatures:
    """A joiner actor as the publisher's feature feed."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def changes(self, since: int) -> FeatureChanges:
        """See FeatureFeed."""
        changes: FeatureChanges = wait_for(self._actor.changes.remote(since))
        return changes

    def acknowledge(self, up_to: int) -> None:
        """See FeatureFeed."""
        wait_for(self._actor.acknowledge.remote(up_to))


def _payload(part: ExampleRows | EndMarker) -> bytes:
    return END_PAYLOAD if isinstance(part, EndMarker) else encode_rows(part)
