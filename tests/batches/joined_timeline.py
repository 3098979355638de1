"""One timeline of events in every form that a stream of joined examples is tested on."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.batches.disk_state import JoinerDisk
from recsys.batches.examples import Example, ExampleRows
from recsys.batches.join import ActionKind, JoinConfig, Joiner
from recsys.batches.joined import JoinedStream, StreamTimes
from recsys.batches.merge import FOREVER
from recsys.batches.sampling import Sampler
from recsys.events import (
    ACTIONS,
    END,
    FACTS,
    IMPRESSIONS,
    Action,
    EndMarker,
    Event,
    Facts,
    Impression,
    encode,
)
from recsys.features.declarations import Feature
from recsys.features.extract import Extractor
from recsys.features.state import FeatureState
from recsys.streams.dead_letters import DeadLetters
from recsys.streams.event_batches import encode_events
from recsys.streams.memory import Item, MemorySource
from recsys.streams.parquet import ParquetSource
from recsys.streams.partitioner import partition_of
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition, Source
from recsys.streams.unread import Lag

WINDOW_MS = 10_000
CONFIG = JoinConfig(actions={"like": ActionKind(window_seconds=WINDOW_MS / 1000, final=True)}, keep_items=5)
FEATURES = (
    Feature(name="user", kind="id", source="user.id"),
    Feature(name="item", kind="id", source="item.id"),
    Feature(name="liked", kind="bag", source="user.likes", table="item", max_length=3),
    Feature(name="seen", kind="bag", source="user.shown", table="item", max_length=2),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
    Feature(name="shown", kind="number", source="user.log_impressions"),
    Feature(name="recent", kind="number", source="user.recent_like_log_odds"),
    Feature(name="age", kind="id", source="profile.age"),
    Feature(name="genres", kind="bag", source="item.genres", vocabulary=("Drama", "War")),
)
TOPICS = {Impression: IMPRESSIONS, Action: ACTIONS, Facts: FACTS}
Lists = dict[Partition, list[Item]]
Row = dict[str, Any]


def timeline(num_impressions: int = 200, seed: int = 5) -> list[Event]:
    """Facts at time 0, impressions at even times, likes at odd ones: no two of these share a time."""
    draw = random.Random(seed)
    users, items = [7, 8, -9, "anna", "7", "émile"], list(range(20))
    events: list[Event] = [Facts("user", user, 0, {"age": 20 + at}) for at, user in enumerate(users)]
    events += [Facts("item", item, 0, {"genres": draw.sample(["Drama", "War", "X"], 2)}) for item in items]
    action_times = set[int]()
    for number in range(num_impressions):
        shown = Impression(f"r{number}", draw.choice(users), draw.choice(items), 1000 + 2 * number * 350)
        events.append(shown)
        time_ms = shown.time_ms + 2 * draw.randrange(6000) + 1  # some are too late
        if draw.random() < 0.5 and time_ms not in action_times:
            action_times.add(time_ms)
            events.append(Action(shown.request_id, shown.user_id, "like", time_ms))
    return sorted(events, key=lambda event: event.time_ms)


def in_lists(events: Sequence[Event], num_partitions: int, as_bytes: bool = False, end: bool = True) -> Lists:
    """Each event in the partition of its user, or of the id of its facts."""
    lists: Lists = {Partition(topic, index): [] for topic in TOPICS.values() for index in range(num_partitions)}
    for event in events:
        of = event.id if isinstance(event, Facts) else event.user_id
        partition = Partition(TOPICS[type(event)], partition_of(of, num_partitions))
        lists[partition].append(encode(event) if as_bytes else event)
    if end:
        for items in lists.values():
            items.append(encode(END) if as_bytes else END)
    return lists


def in_batches(lists: Lists, draw: random.Random, junk: bool = False) -> Lists:
    """The same events in Arrow messages of one to nine, one type of id in each; with ``junk``, bad rows among them."""
    packed: Lists = {}
    for partition, items in lists.items():
        packed[partition] = []
        for _, group in itertools.groupby(items, key=_types_of_ids):
            events = list(group)
            while events:
                size = draw.randint(1, 9)
                packed[partition].append(_packed(partition.topic, events[:size], draw, junk))
                events = events[size:]
    return packed


def _types_of_ids(item: Any) -> list[type]:
    return [type(getattr(item, name)) for name in ("user_id", "item_id", "id") if hasattr(item, name)]


def _packed(topic: str, events: list[Any], draw: random.Random, junk: bool) -> bytes:
    if events[0] is END:
        return encode(END)
    events = list(events)
    for _ in range(draw.randrange(3) if junk else 0):
        events.insert(draw.randrange(len(events) + 1), msgspec.structs.replace(events[0], time_ms=-1))
    return encode_events(topic, events)


def in_files(events: Sequence[Event], num_partitions: int, folder: Path) -> Source:
    """The same from Parquet; ids of one column have one type, so all become strings."""
    rows: dict[str, list[Row]] = {}
    for event in events:
        fields = msgspec.to_builtins(event)
        if isinstance(event, Facts):
            row = {f"{event.of}_id": event.id, "time_ms": event.time_ms, **event.facts}
            rows.setdefault(f"{event.of}s", []).append(row)
        else:
            rows.setdefault(TOPICS[type(event)], []).append(fields)
    paths: dict[str, list[Path]] = {}
    for name, listed in rows.items():
        path = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(listed), path, row_group_size=37)
        paths.setdefault(name if name in (IMPRESSIONS, ACTIONS) else FACTS, []).append(path)
    return ParquetSource({topic: paths[topic] for topic in (FACTS, IMPRESSIONS, ACTIONS)}, num_partitions)


def with_text_ids(events: Sequence[Event]) -> list[Event]:
    """The same events with every user and item id a string."""
    changed = []
    for event in events:
        names = [name for name in ("user_id", "item_id", "id") if hasattr(event, name)]
        changed.append(msgspec.structs.replace(event, **{name: str(getattr(event, name)) for name in names}))
    return changed


class Clock:
    """A clock that a test sets."""

    def __init__(self, seconds: float = 1000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


def joined_stream(
    source: Source,
    num_partitions: int,
    *,
    clock: Callable[[], float] | None = None,
    times: StreamTimes | None = None,
    features: Sequence[Feature] = FEATURES,
    partitions: Sequence[int] | None = None,
    restored: Sequence[dict[str, Any]] = (),
    config: JoinConfig = CONFIG,
    sampler: Sampler | None = None,
    disk: JoinerDisk | None = None,
) -> tuple[JoinedStream, MemorySink]:
    """A stream over all partitions, or some, and the sink of its dead letters."""
    letters = MemorySink()
    partitions = range(num_partitions) if partitions is None else partitions
    stream = JoinedStream(
        source,
        partitions=partitions,
        restored=restored,
        config=config,
        features=features,
        dead_letters=DeadLetters(letters, partitions=partitions),
        times=times,
        clock=clock or Clock(),
        sampler=sampler,
        disk=disk,
    )
    return stream, letters


def memory_stream(lists: Lists, num_partitions: int = 1, **options: Any) -> JoinedStream:
    """A stream over lists."""
    return joined_stream(MemorySource(lists), num_partitions, **options)[0]


def rows_of(part: ExampleRows) -> list[Row]:
    """Examples as dictionaries, without the wall clock."""
    return part.rows.drop_columns(["read_at_ms"]).to_pylist()


def drain(stream: JoinedStream, max_events: int = 2_000) -> dict[int, list[Row]]:
    """Everything, by partition; checks what holds of every stream: its order, its watermarks, one END."""
    rows: dict[int, list[Row]] = {index: [] for index in stream.partitions}
    watermarks = dict.fromkeys(stream.partitions, -1)
    ended = set[int]()
    for _ in range(10_000):
        if len(ended) == len(stream.partitions):
            break
        for index, part in stream.poll(stream.partitions, 0, max_events):
            assert index not in ended, "something came after the end"
            if isinstance(part, EndMarker):
                ended.add(index)
                continue
            assert all(row["emitted_ms"] >= watermarks[index] for row in rows_of(part))
            assert part.watermark_ms >= watermarks[index]
            watermarks[index] = part.watermark_ms
            rows[index] += rows_of(part)
    assert len(ended) == len(stream.partitions), "the stream did not end"
    assert set(watermarks.values()) == {FOREVER}
    assert stream.poll(stream.partitions, 0) == []
    assert set(stream.lag().values()) == {Lag(0, 0.0)}
    return rows


def merged(rows: dict[int, list[Row]]) -> list[Row]:
    """In order of emission over all partitions."""
    return sorted((row for part in rows.values() for row in part), key=lambda row: row["emitted_ms"])


def expected_examples(events: Sequence[Event]) -> list[Example]:
    """What one joiner makes of the sorted events, facts first."""
    joiner = Joiner(CONFIG, Extractor(FEATURES), FeatureState(CONFIG.keep_items))
    facts = [event for event in events if isinstance(event, Facts)]
    others = sorted(
        (event for event in events if not isinstance(event, Facts)),
        key=lambda event: (event.time_ms, isinstance(event, Action)),
    )
    examples = [example for event in [*facts, *others] for example in joiner.process(event)]
    return examples + joiner.advance(FOREVER)
