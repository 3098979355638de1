"""What people are shown and do, on its way into the stream that a run learns from.

A list that is shown is one impression an item, each with a request id; a click is an action on that id. On a live
stream both are sent as they happen. A replay has a clock of its own, by which months pass in a minute and a window of
seconds is over before anybody could click: there an impression is kept here until its click, and both are sent then.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from recsys.errors import DataError, unknown
from recsys.events import ACTIONS, IMPRESSIONS, Action, Event, Impression, encode
from recsys.serving.published import Id
from recsys.streams.partitioner import partition_of
from recsys.streams.sink import Sink
from recsys.streams.source import Partition

_MOST_SHOWN = 50_000  # impressions that a click may still be on


@dataclass(frozen=True)
class Shown:
    """One item that a user was shown."""

    request_id: str
    user_id: Id
    item_id: Id


class ClickStream(Protocol):
    """Takes what happens to where a run reads it."""

    def show(self, shown: Sequence[Shown]) -> None:
        """A list is shown now."""

    def act(self, shown: Shown, kind: str) -> int:
        """Something is done about an item that was shown; the time that the action is stamped with, in ms."""


class LiveStream:
    """Impressions and actions stamped with the wall clock and sent as they happen; ServiceError where Kafka is gone.

    The sink is opened at the first event, so that a service starts without its Kafka.
    """

    def __init__(
        self, open_sink: Callable[[], Sink], num_partitions: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._open_sink, self._num_partitions, self._clock = open_sink, num_partitions, clock
        self._sink: Sink | None = None
        self._lock = threading.Lock()

    def show(self, shown: Sequence[Shown]) -> None:
        """See ClickStream."""
        time_ms = self._now_ms()
        self._send(IMPRESSIONS, [Impression(one.request_id, one.user_id, one.item_id, time_ms) for one in shown])

    def act(self, shown: Shown, kind: str) -> int:
        """See ClickStream."""
        time_ms = self._now_ms()
        self._send(ACTIONS, [Action(shown.request_id, shown.user_id, kind, time_ms)])
        return time_ms

    def close(self) -> None:
        """Let go of the sink."""
        with self._lock:
            if self._sink is not None:
                self._sink.close()

    def _now_ms(self) -> int:
        return int(1000 * self._clock())

    def _send(self, topic: str, events: Sequence[Impression | Action]) -> None:
        with self._lock:
            if self._sink is None:
                self._sink = self._open_sink()
            for event in events:
                partition = Partition(topic, partition_of(event.user_id, self._num_partitions))
                self._sink.send(partition, encode(event), key=str(event.user_id).encode())
            self._sink.flush()


class Clicks:
    """Gives what is shown its request ids, and takes actions on them, of the ``kinds`` that the run knows as final.

    >>> clicks = Clicks(LiveStream(lambda: sink, num_partitions=1, clock=lambda: 5.0), ["like"])
    >>> from recsys.streams.sink import MemorySink
    >>> sink = MemorySink()
    >>> [request_id] = clicks.show(7, [3])
    >>> clicks.act(request_id, "like")
    5000
    >>> [type(event).__name__ for events in sink.events().values() for event in events]
    ['Impression', 'Action']
    """

    def __init__(self, stream: ClickStream, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self._stream = stream
        self._shown: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()

    def show(self, user_id: Id, item_ids: Sequence[Id]) -> list[str]:
        """A list of items is shown to a user; the request id of each."""
        listed = secrets.token_hex(8)
        shown = [Shown(f"page-{listed}-{at}", user_id, item_id) for at, item_id in enumerate(item_ids)]
        self._stream.show(shown)
        with self._lock:
            self._shown.update((one.request_id, one) for one in shown)
            while len(self._shown) > _MOST_SHOWN:
                self._shown.popitem(last=False)
        return [one.request_id for one in shown]

    def act(self, request_id: str, kind: str) -> int:
        """An action of a kind on what was shown under a request id, once; the time that it is stamped with, in ms.

        ConfigError for a kind that is not known, DataError for a request id that is not, or was acted on before.
        """
        if kind not in self.kinds:
            raise unknown("kind of action", kind, self.kinds)
        with self._lock:
            shown = self._shown.pop(request_id, None)
        if shown is None:
            raise DataError(f"request_id {request_id!r} was not shown lately, or was acted on; ask for a new list")
        try:
            return self._stream.act(shown, kind)
        except BaseException:
            with self._lock:
                self._shown[request_id] = shown  # to be tried again
            raise


def pair_at(shown: Shown, kind: str, time_ms: int) -> list[tuple[str, Event]]:
    """An impression and an action on it a millisecond later, each with its topic: a click in a replay."""
    return [
        (IMPRESSIONS, Impression(shown.request_id, shown.user_id, shown.item_id, time_ms)),
        (ACTIONS, Action(shown.request_id, shown.user_id, kind, time_ms + 1)),
    ]
