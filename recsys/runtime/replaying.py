"""Recorded events sent into Kafka by an actor of the run: facts first, then impressions and actions at a pace."""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from recsys.datasets.prepared import open_prepared
from recsys.datasets.replay import Pace, replay_events, replay_repeatedly
from recsys.errors import ServiceError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, EndMarker, Event
from recsys.runtime.events import KafkaEvents
from recsys.serving.clicks import Shown, pair_at
from recsys.streams.replay import ReplayCounts, Sent, replay
from recsys.streams.source import Partition

_CLICK_SECONDS = 3.0  # that a click may wait for the next event


class ReplayActor:
    """Replays a prepared data set.

    To ``resume`` is to go on after another that was cut off: what it has sent into these topics is not sent again.
    That one must be dead: of two at a time each would send what the other does. To ``repeat`` is to begin again at the
    end, its clock going on, until it is killed. Clicks go in between, stamped with that clock (``act``): after one, a
    replay can not be resumed, for what lies in its topics is not what was recorded.
    """

    def __init__(
        self,
        data_folder: Path,
        data_name: str,
        events: KafkaEvents,
        events_per_second: float | None,
        limit: int | None,
        resume: bool = False,
        repeat: bool = False,
    ) -> None:
        self._prepared = open_prepared(data_folder, data_name)
        self._events, self._events_per_second, self._limit = events, events_per_second, limit
        self._resume, self._repeat = resume, repeat
        self._clicks: SimpleQueue[Click] = SimpleQueue()

    def send_facts(self) -> ReplayCounts:
        """What is known of users and items; joiners read it before the first impression."""
        facts = itertools.takewhile(lambda sent: sent[0] == FACTS, self._recorded())
        return self._send(facts, closes=(FACTS,))

    def send_events(self) -> ReplayCounts:
        """Impressions and actions in the order of their times, then the end markers."""
        events = itertools.dropwhile(lambda sent: sent[0] == FACTS, self._recorded())
        return self._send(with_clicks(events, self._clicks), closes=(IMPRESSIONS, ACTIONS))

    def act(self, shown: Shown, kind: str) -> int:
        """Send a click at the replay's own time, which is returned, in ms; beside ``send_events``, in another thread.

        ServiceError where nothing is being sent.
        """
        click = Click(shown, kind)
        self._clicks.put(click)
        try:
            return click.time_ms.result(_CLICK_SECONDS)
        except TimeoutError as error:
            raise ServiceError("the replay sends nothing now: it has ended, or Kafka takes nothing") from error

    def _recorded(self) -> Iterator[tuple[str, Event]]:
        return (replay_repeatedly if self._repeat else replay_events)(self._prepared, self._limit)

    def _send(self, events: Iterator[tuple[str, Event]], closes: tuple[str, ...]) -> ReplayCounts:
        return send_paced(
            events,
            self._events,
            events_per_second=self._events_per_second,
            closes=closes,
            sent=self._events.sent(closes) if self._resume else None,
        )


@dataclass(frozen=True)
class Click:
    """An action on what was shown, which waits for its turn in the replay and then has a time."""

    shown: Shown
    kind: str
    time_ms: "Future[int]" = field(default_factory=Future)


def with_clicks(events: Iterator[tuple[str, Event]], clicks: "SimpleQueue[Click]") -> Iterator[tuple[str, Event]]:
    """Events with clicks between them: each an impression at the time of the event before, and an action on it.

    So every partition stays in the order of time, and nothing comes between the two that would close a window.
    """
    now_ms: int | None = None
    for topic, event in events:
        while now_ms is not None and not clicks.empty():
            click = clicks.get()
            yield from pair_at(click.shown, click.kind, now_ms)
            click.time_ms.set_result(now_ms + 1)
        assert not isinstance(event, EndMarker)
        now_ms = event.time_ms
        yield topic, event


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
