"""What every source promises, asked of each: memory, Parquet files, and a real Kafka.

One timeline of events is put into all three; a drain must then give the same records whatever the source is.
"""

import random
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.embedded.kafka import EmbeddedKafka, kafka_unavailable
from recsys.errors import DataError
from recsys.events import END, Action, Event, Facts, Impression, decode
from recsys.streams.kafka import KafkaSink, KafkaSource
from recsys.streams.kafka_topics import create_topics
from recsys.streams.memory import Item, MemorySource
from recsys.streams.parquet import ParquetSource
from recsys.streams.partitioner import partition_of
from recsys.streams.replay import replay
from recsys.streams.sink import MemorySink
from recsys.streams.source import Partition, Source

NUM_PARTITIONS = 3
Expected = dict[Partition, list[Event]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One implementation: a source over the timeline, and how many random runs it can afford."""

    open: Callable[[], Source]
    num_seeds: int


def timeline() -> list[tuple[str, Event]]:
    """Facts, impressions and actions in the order of their times, with many ties."""
    users = ["anna", "ben", "carl", "dora", "émile", "7"]
    draw = random.Random(11)
    events: list[tuple[str, Event]] = []
    for number in range(120):
        user, time_ms = draw.choice(users), number // 4 * 1000
        if number % 10 == 0:
            events.append(("facts", Facts("user", user, time_ms, {"age": number, "liked": [1, number]})))
            events.append(("facts", Facts("item", f"item-{number}", time_ms, {"title": f"T{number}"})))
        events.append(("impressions", Impression(f"r{number}", user, number % 7, time_ms)))
        if number % 3 == 0:
            events.append(("actions", Action(f"r{number}", user, "like", time_ms)))
    return events


def expected_records() -> Expected:
    """The oracle: a plain loop over the timeline."""
    records: Expected = {
        Partition(topic, index): [] for topic in ("facts", "impressions", "actions") for index in range(NUM_PARTITIONS)
    }
    for topic, event in timeline():
        id = event.id if isinstance(event, Facts) else event.user_id  # type: ignore[union-attr]
        records[Partition(topic, partition_of(id, NUM_PARTITIONS))].append(event)
    return {partition: [*events, END] for partition, events in records.items()}


def write_files(folder: Path) -> dict[str, list[Path]]:
    """The timeline as typed Parquet files of tiny row groups."""
    columns: dict[str, list[dict[str, object]]] = {"users": [], "items": [], "impressions": [], "actions": []}
    for topic, event in timeline():
        if isinstance(event, Facts):
            row: dict[str, object] = {f"{event.of}_id": event.id, "time_ms": event.time_ms, **event.facts}
            columns[f"{event.of}s"].append(row)
        else:
            columns[topic].append({name: getattr(event, name) for name in event.__struct_fields__})
    for name, rows in columns.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", row_group_size=7)
    return {
        "facts": [folder / "users.parquet", folder / "items.parquet"],
        "impressions": [folder / "impressions.parquet"],
        "actions": [folder / "actions.parquet"],
    }


@pytest.fixture(scope="session")
def kafka_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    reason = kafka_unavailable()
    if reason:
        pytest.skip(reason)
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka-contract")) as kafka:
        create_topics(kafka.bootstrap_servers, dict.fromkeys(("facts", "impressions", "actions"), NUM_PARTITIONS))
        with KafkaSink(kafka.bootstrap_servers) as sink:
            replay(timeline(), sink, num_partitions=NUM_PARTITIONS)
        yield kafka.bootstrap_servers


@pytest.fixture(scope="module", params=["memory", "parquet", "kafka"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "memory":
        sink = MemorySink()
        replay(timeline(), sink, num_partitions=NUM_PARTITIONS)
        lists: dict[Partition, list[Item]] = {at: [*payloads] for at, payloads in sink.payloads.items()}
        return Case(open=lambda: MemorySource(lists), num_seeds=20)
    if request.param == "parquet":
        paths = write_files(tmp_path_factory.mktemp("files"))
        return Case(open=lambda: ParquetSource(paths, NUM_PARTITIONS), num_seeds=8)
    servers = request.getfixturevalue("kafka_servers")
    return Case(open=lambda: KafkaSource(servers, list(expected_records())), num_seeds=4)


@pytest.fixture
def source(case: Case) -> Iterator[Source]:
    with case.open() as source:
        yield source


@pytest.fixture(scope="module")
def expected() -> Expected:
    return expected_records()


class Reader:
    """Reads batches and checks what holds for each: size, partitions, one offset after the other."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.next_offset = source.position()
        self.payloads: dict[Partition, list[Event]] = {partition: [] for partition in source.partitions}

    def read(self, max_records: int = 1000, only: Collection[Partition] | None = None) -> int:
        batch = self.source.next_batch(max_records, 0.05, only)
        assert len(batch) <= max_records
        for record in batch:
            assert only is None or record.partition in only
            assert record.offset == self.next_offset[record.partition]
            self.next_offset[record.partition] += 1
            payload = record.payload
            event = decode(record.partition.topic, payload) if isinstance(payload, bytes) else payload
            self.payloads[record.partition].append(event)
        assert self.source.position() == self.next_offset
        return len(batch)

    def read_all(self, draw: random.Random | None = None, most: int = 40) -> dict[Partition, list[Event]]:
        """Read in batches of random sizes until every partition has ended, and once more."""
        deadline = time.monotonic() + 20
        while not self.has_ended() and time.monotonic() < deadline:
            self.read(draw.randint(1, most) if draw else 1000)
        assert self.read() == 0
        return self.payloads

    def has_ended(self) -> bool:
        return all(map(self.source.caught_up, self.source.partitions))


def test_every_record_comes_once_in_order_and_the_end_marker_last(case: Case, expected: Expected) -> None:
    for seed in range(case.num_seeds):
        with case.open() as source:
            assert set(source.partitions) == set(expected)
            assert Reader(source).read_all(random.Random(seed)) == expected
            assert source.next_batch() == []


def test_a_position_is_where_another_source_goes_on(case: Case, expected: Expected) -> None:
    for seed in range(case.num_seeds):
        draw = random.Random(seed)
        with case.open() as source, case.open() as other:
            reader = Reader(source)
            for _ in range(draw.randint(0, 12)):
                reader.read(draw.randint(1, 30), set(draw.sample(list(expected), 6)))
            position = source.position()
            reader.read_all(draw)
            other.seek(position)
            assert other.position() == position
            rest = {partition: expected[partition][offset:] for partition, offset in position.items()}
            assert Reader(other).read_all(draw) == rest
            source.seek(position)
            assert Reader(source).read_all(draw) == rest


def test_seek_to_any_point_of_some_partitions_leaves_the_others(case: Case, expected: Expected) -> None:
    with case.open() as source:
        for seed in range(case.num_seeds):
            draw = random.Random(seed)
            source.next_batch(draw.randint(1, 50))
            named = draw.sample(list(expected), draw.randint(1, len(expected)))
            position = {partition: draw.randint(0, len(expected[partition])) for partition in named}
            wanted = source.position() | position
            source.seek(position)
            assert source.position() == wanted
            rest = {partition: expected[partition][offset:] for partition, offset in wanted.items()}
            assert Reader(source).read_all(draw) == rest


def test_held_back_partitions_deliver_nothing_and_lose_nothing(case: Case, expected: Expected) -> None:
    for seed in range(case.num_seeds):
        draw = random.Random(seed)
        with case.open() as source:
            reader = Reader(source)
            for _ in range(15):
                only = set(draw.sample(list(expected), draw.randint(0, len(expected))))
                before = source.position()
                reader.read(draw.randint(1, 60), only)
                held_back = set(expected) - only
                assert all(source.position()[partition] == before[partition] for partition in held_back)
            assert reader.read_all(draw) == expected


def test_one_partition_can_be_read_to_its_end_before_the_others(source: Source, expected: Expected) -> None:
    reader = Reader(source)
    chosen = Partition("impressions", 1)
    for _ in range(50):
        reader.read(10, {chosen})
    assert reader.payloads[chosen] == expected[chosen]
    assert source.caught_up(chosen)
    assert reader.read_all() == expected


def test_lag_counts_what_is_left(source: Source, expected: Expected) -> None:
    sizes = {partition: len(events) for partition, events in expected.items()}
    assert source.lag() == sizes
    assert not any(source.caught_up(partition) for partition in expected)
    source.next_batch(30)
    assert source.lag() == {partition: sizes[partition] - at for partition, at in source.position().items()}
    Reader(source).read_all()
    assert source.lag() == dict.fromkeys(expected, 0)
    assert all(source.caught_up(partition) for partition in expected)
    chosen = Partition("actions", 0)
    source.seek({chosen: sizes[chosen] - 2})
    assert source.lag()[chosen] == 2
    assert not source.caught_up(chosen)


@pytest.mark.parametrize(
    ("partition", "offset", "message"),
    [
        (Partition("impressions", 0), -1, "can not seek to offset -1 of impressions-0, which holds 0 to"),
        (
            Partition("impressions", 0),
            10_000,
            "can not seek to offset 10000 of impressions-0, which holds 0 to",
        ),
        (Partition("impressions", 9), 0, "can not seek in impressions-9: this source reads "),
    ],
)
def test_seek_where_nothing_is_says_so_and_moves_nothing(
    source: Source, partition: Partition, offset: int, message: str
) -> None:
    source.next_batch(30)
    before = source.position()
    with pytest.raises(DataError, match=message):
        source.seek({Partition("actions", 0): 0, partition: offset})
    assert source.position() == before


def test_nothing_wanted_is_nothing_delivered(source: Source, expected: Expected) -> None:
    assert source.next_batch(10, 0.01, only=[]) == []
    assert Reader(source).read_all() == expected


def test_closing_twice_is_harmless(case: Case) -> None:
    source = case.open()
    source.next_batch(1)
    source.close()
    source.close()
