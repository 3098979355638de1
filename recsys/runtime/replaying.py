"""Recorded events sent into Kafka by an actor of the run: facts first, then impressions and actions at a pace."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import Pace, replay_events
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, Event
from recsys.runtime.events import KafkaEvents
from recsys.streams.replay import ReplayCounts, Sent, replay
from recsys.streams.source import Partition


class ReplayActor:
    """Replays a prepared data set.

    To ``resume`` is to go on after another that was cut off: what it has sent into these topics is not sent again.
    That one must be dead: of two at a time each would send what the other does.
    """

    def __init__(
        self,
        data_folder: Path,
        data_name: str,
        events: KafkaEvents,
        events_per_second: float | None,
        limit: int | None,
        resume: bool = False,
    ) -> None:
        self._prepared = open_prepared(data_folder, data_name)
        self._events, self._events_per_second, self._limit = events, events_per_second, limit
        self._resume = resume

    def send_facts(self) -> ReplayCounts:
        """What is known of users and items; joiners read it before the first impression."""
        facts = itertools.takewhile(lambda sent: sent[0] == FACTS, self._recorded())
        return self._send(facts, closes=(FACTS,))

    def send_events(self) -> ReplayCounts:
        """Impressions and actions in the order of their times, then the end markers."""
        events = itertools.dropwhile(lambda sent: sent[0] == FACTS, self._recorded())
        return self._send(events, closes=(IMPRESSIONS, ACTIONS))

    def _recorded(self) -> Iterator[tuple[str, Event]]:
        return replay_events(self._prepared, self._limit)

    def _send(self, events: Iterator[tuple[str, Event]], closes: tuple[str, ...]) -> ReplayCounts:
        return send_paced(
            events,
            self._events,
            events_per_second=self._events_per_second,
            closes=closes,
            sent=self._events.sent(closes) if self._resume else None,
        )


def send_paced(
    events: Iterator[tuple[str, Event]],
    kafka: KafkaEvents,
    *,
    events_per_second: float | None,
    closes: tuple[str, ...],
    sent: Mapping[Partition, Sent] | None = None,
) -> ReplayCounts:
    """Send events to Kafka at a pace (None: as fast as it takes them), but not those ``sent`` before."""
    pace, numbers = Pace(events_per_second), itertools.count()
    with kafka.open_sink() as sink:
        return replay(
            events,
            sink,
            num_partitions=kafka.num_partitions,
            wait=lambda _: pace.wait(next(numbers)),
            closes=closes,
            sent=sent,
        )
