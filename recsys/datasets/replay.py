"""A prepared data set as a stream of events, in event-time order, at full speed or at a given pace."""

import heapq
import itertools
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.datasets.prepared import Prepared
from recsys.errors import ConfigError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, Action, Event, Facts, Impression, Owner

BATCH_ROWS = 8_192

_NAP_SECONDS = 0.02
_PAUSE_MS = 60_000  # from the end of one pass to the start of the next

TimedEvent = tuple[int, tuple[str, Event]]


def replay_events(prepared: Prepared, limit: int | None = None) -> Iterator[tuple[str, Event]]:
    """Every (topic, event) of a prepared data set in event-time order: facts, impressions, actions.

    The files are streamed, never read whole. ``limit`` keeps all facts, but only the first so many
    impressions and the actions about them. Null facts are left out, and so is a user of whom nothing is
    known. End markers are the caller's to send. ConfigError where ``limit`` is below 1.
    """
    _check_limit(limit)
    wanted = None if limit is None else frozenset(first_request_ids(prepared, limit).to_pylist())
    in_order = heapq.merge(
        _facts(prepared.users, "user"),
        _facts(prepared.items, "item"),
        itertools.islice(_impressions(prepared.impressions), limit),
        _actions(prepared.actions, wanted),
        key=_time_of,
    )
    return (topic_and_event for _, topic_and_event in in_order)


def replay_repeatedly(prepared: Prepared, limit: int | None = None) -> Iterator[tuple[str, Event]]:
    """``replay_events`` again and again, without an end: time goes on, and request ids name their pass from the second.

    Facts are told once.
    """
    yield from replay_events(prepared, limit)
    about = prepared.manifest
    pass_ms = (about.last_time_ms - about.first_time_ms + _PAUSE_MS) // 2 * 2  # impressions stay on even milliseconds
    for number in itertools.count(1):
        for topic, event in replay_events(prepared, limit):
            if isinstance(event, Impression | Action):
                later = {"request_id": f"{event.request_id}~{number}", "time_ms": event.time_ms + number * pass_ms}
                yield topic, msgspec.structs.replace(event, **later)


def first_request_ids(prepared: Prepared, limit: int | None) -> pa.ChunkedArray:
    """The request ids of the first ``limit`` impressions (of all, where None), straight from the file."""
    return pq.read_table(prepared.impressions, columns=["request_id"])["request_id"].slice(0, limit)


def event_files(prepared: Prepared, limit: int | None, into: Path) -> dict[str, list[Path]]:
    """The event files of a prepared data set by topic: what ``replay_events`` reads, as ``ParquetSource`` takes it.

    With a ``limit``, the cut impressions and actions are written to ``into``. ConfigError where it is below 1.
    """
    facts = [prepared.users, prepared.items]
    _check_limit(limit)
    if limit is None:
        return {FACTS: facts, IMPRESSIONS: [prepared.impressions], ACTIONS: [prepared.actions]}
    into.mkdir(parents=True, exist_ok=True)
    impressions = pq.read_table(prepared.impressions).slice(0, limit)
    actions = pq.read_table(prepared.actions)
    wanted = pc.is_in(actions["request_id"], value_set=impressions["request_id"].combine_chunks())
    paths = {IMPRESSIONS: into / "impressions.parquet", ACTIONS: into / "actions.parquet"}
    pq.write_table(impressions, paths[IMPRESSIONS])
    pq.write_table(actions.filter(wanted), paths[ACTIONS])
    return {FACTS: facts, **{topic: [path] for topic, path in paths.items()}}


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        message = f"limit is {limit}; it must be at least 1, or null for the whole data set"
        raise ConfigError(message)


def _time_of(timed: TimedEvent) -> int:
    return timed[0]


def _impressions(path: Path) -> Iterator[TimedEvent]:
    for batch in _batches(path, ["request_id", "user_id", "item_id", "time_ms"]):
        for request_id, user_id, item_id, time_ms in zip(*batch, strict=True):
            yield time_ms, (IMPRESSIONS, Impression(request_id, user_id, item_id, time_ms))


def _actions(path: Path, wanted: Collection[str] | None) -> Iterator[TimedEvent]:
    for batch in _batches(path, ["request_id", "user_id", "kind", "time_ms"]):
        for request_id, user_id, kind, time_ms in zip(*batch, strict=True):
            if wanted is None or request_id in wanted:
                yield time_ms, (ACTIONS, Action(request_id, user_id, kind, time_ms))


def _facts(path: Path, of: Owner) -> Iterator[TimedEvent]:
    id_column, _, *names = pq.read_schema(path).names
    for ids, times_ms, *columns in _batches(path, [id_column, "time_ms", *names]):
        for i, (id_, time_ms) in enumerate(zip(ids, times_ms, strict=True)):
            facts = {name: column[i] for name, column in zip(names, columns, strict=True) if column[i] is not None}
            if facts:
                yield time_ms, (FACTS, Facts(of, id_, time_ms, facts))


def _batches(path: Path, columns: list[str]) -> Iterator[list[list[Any]]]:
    """The columns of a Parquet file as Python lists, a few thousand rows at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield [batch.column(name).to_pylist() for name in columns]


class Pace:
    """Holds a sender to ``events_per_second`` (None: as fast as it goes), counted from its first ``wait``.

    The schedule is absolute: a sender that was held up catches up, and overlong sleeps do not add up. It may run ahead
    by a few milliseconds, so that thousands of events a second do not mean thousands of naps.

    >>> slept = []
    >>> pace = Pace(100, clock=lambda: 5.0, sleep=slept.append)
    >>> pace.wait(0); pace.wait(50)
    >>> slept
    [0.5]
    """

    def __init__(
        self,
        events_per_second: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if events_per_second is not None and not events_per_second > 0:
            message = f"events_per_second is {events_per_second}; it must be above 0, or null for full speed"
            raise ConfigError(message)
        self._events_per_second = events_per_second
        self._clock = clock
        self._sleep = sleep
        self._start_seconds: float | None = None

    def wait(self, num_sent: int) -> None:
        """Sleep until ``num_sent`` events are due."""
        if self._events_per_second is None:
            return
        now_seconds = self._clock()
        if self._start_seconds is None:
            self._start_seconds = now_seconds
        ahead_seconds = self._start_seconds + num_sent / self._events_per_second - now_seconds
        if ahead_seconds > _NAP_SECONDS:
            self._sleep(ahead_seconds)
