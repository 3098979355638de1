"""Parquet files as a source: typed columns, order of time over files, messages for files that do not fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.events import END, Action, EndMarker, Event, Facts, Impression
from recsys.streams.parquet import ParquetSource
from recsys.streams.partitioner import partition_of
from recsys.streams.source import Partition, Record


def write(path: Path, rows: Sequence[dict[str, Any]], row_group_size: int = 1000) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
    return path


def impression(number: int, time_ms: int, user: int = 1) -> dict[str, Any]:
    return {"request_id": f"r{number}", "user_id": user, "item_id": number, "time_ms": time_ms}


def drain(source: ParquetSource, max_records: int = 1000) -> list[Record]:
    records: list[Record] = []
    while batch := source.next_batch(max_records):
        records += batch
    return records


def time_of(event: bytes | Event) -> int:
    assert isinstance(event, Impression | Action | Facts)
    return event.time_ms


def test_rows_become_events_in_the_partitions_of_their_ids(tmp_path: Path) -> None:
    item = {"item_id": "m1", "time_ms": 2, "title": "Heat", "year": 1995, "genres": ["crime"], "rating": None}
    paths = {
        "facts": [write(tmp_path / "items.parquet", [item, item | {"title": None, "rating": 4.5}])],
        "impressions": [write(tmp_path / "i.parquet", [impression(5, 3, user=-9)])],
        "actions": [
            write(
                tmp_path / "a.parquet",
                [{"request_id": "r5", "user_id": -9, "kind": "like", "time_ms": 4, "extra": 1}],
            )
        ],
    }
    records = drain(ParquetSource(paths, 4))
    of_item, of_user = partition_of("m1", 4), partition_of(-9, 4)
    heat = Facts("item", "m1", 2, {"title": "Heat", "year": 1995, "genres": ["crime"]})
    assert [record for record in records if record.payload != END] == [
        Record(Partition("facts", of_item), 0, heat),
        Record(
            Partition("facts", of_item),
            1,
            Facts("item", "m1", 2, {"year": 1995, "genres": ["crime"], "rating": 4.5}),
        ),
        Record(Partition("impressions", of_user), 0, Impression("r5", -9, 5, 3)),
        Record(Partition("actions", of_user), 0, Action("r5", -9, "like", 4)),
    ]
    assert sum(record.payload == END for record in records) == 12


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.integers(0, 12), max_size=60),
    users=st.lists(st.integers(-3, 3), min_size=60, max_size=60),
    row_group_size=st.integers(1, 9),
    max_records=st.integers(1, 20),
)
def test_batches_come_in_order_of_time_however_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[int],
    users: list[int],
    row_group_size: int,
    max_records: int,
) -> None:
    folder = tmp_path_factory.mktemp("files")
    rows = [impression(n, t, user) for n, (t, user) in enumerate(zip(sorted(times), users, strict=False))]
    schema = pa.schema({"request_id": pa.string(), "user_id": pa.int64(), "item_id": pa.int64(), "time_ms": pa.int64()})
    for name, half in (("first", rows[::2]), ("second", rows[1::2])):
        table = pa.Table.from_pylist(half, schema=schema)
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=row_group_size)
    source = ParquetSource({"impressions": [folder / "first.parquet", folder / "second.parquet"]}, 3)
    delivered = drain(source, max_records)
    events = [record.payload for record in delivered if not isinstance(record.payload, EndMarker)]
    oracle = sorted(rows[::2] + rows[1::2], key=lambda row: row["time_ms"])  # stable: the first file wins a tie
    assert [time_of(event) for event in events] == [row["time_ms"] for row in oracle]
    for index in range(3):
        mine = [record for record in delivered if record.partition.index == index]
        names = [f"r{row['item_id']}" for row in oracle if partition_of(row["user_id"], 3) == index]
        assert [record.payload.request_id for record in mine[:-1]] == names  # type: ignore[union-attr]
        assert mine[-1] == Record(Partition("impressions", index), len(names), END)


def test_a_single_partition_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "i.parquet", [impression(n, n, user=n) for n in range(50)], row_group_size=6)
    chosen = Partition("impressions", 2)
    records = drain(ParquetSource({"impressions": [path]}, 4, partitions=[chosen]))
    mine = [n for n in range(50) if partition_of(n, 4) == 2]
    assert [record.payload.item_id for record in records[:-1]] == mine  # type: ignore[union-attr]
    assert records[-1] == Record(chosen, len(mine), END)
    with pytest.raises(ConfigError, match="there is no impressions-4; impressions have 4 partitions each"):
        ParquetSource({"impressions": [path]}, 4, partitions=[Partition("impressions", 4)])


def test_a_file_without_rows_has_its_end_markers(tmp_path: Path) -> None:
    table = pa.table({"user_id": pa.array([], pa.string()), "time_ms": pa.array([], pa.int64())})
    pq.write_table(table, tmp_path / "users.parquet")
    source = ParquetSource({"facts": [tmp_path / "users.parquet"]}, 2)
    assert source.lag() == {Partition("facts", 0): 1, Partition("facts", 1): 1}
    assert [record.payload for record in drain(source)] == [END, END]


GOOD = [impression(0, 5), impression(1, 5)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"request_id": "r", "user_id": 1, "time_ms": 5}],
            "column 'item_id' of impressions is missing; it has request_id, user_id, time_ms",
        ),
        (
            [impression(0, 5) | {"user_id": 1.5}],
            "column 'user_id' has type double; it must be int64 or string",
        ),
        ([impression(0, 5) | {"time_ms": "5"}], "column 'time_ms' has type string; it must be int64"),
        ([impression(0, 5) | {"request_id": 5}], "column 'request_id' has type int64; it must be string"),
        (
            [*GOOD, impression(2, 4)],
            r"row 2: time_ms 4 after 5; sort the file by time_ms \(times are 0 or more\)",
        ),
        ([*GOOD, impression(2, 6) | {"item_id": None}], "row 2: item_id is null"),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_the_place(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    path = write(tmp_path / "bad.parquet", rows, row_group_size=2)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        drain(ParquetSource({"impressions": [path]}, 1))


def test_facts_that_no_event_can_carry(tmp_path: Path) -> None:
    path = write(tmp_path / "users.parquet", [{"user_id": 1, "time_ms": 0, "active": True}])
    with pytest.raises(DataError, match="column 'active' has type bool; it must be integers, floats, strings, or"):
        ParquetSource({"facts": [path]}, 1)


def test_what_is_no_file_of_events(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"text.parquet: can not be read as Parquet \("):
        ParquetSource({"impressions": [tmp_path / "text.parquet"]}, 1)
    with pytest.raises(DataError, match=r"none.parquet: can not be read as Parquet \("):
        ParquetSource({"impressions": [tmp_path / "none.parquet"]}, 1)
    path = write(tmp_path / "i.parquet", GOOD)
    with pytest.raises(DataError, match="no columns are known for topic 'clicks'; use impressions, actions, facts"):
        ParquetSource({"clicks": [path]}, 1)


def test_reading_holds_two_row_groups_and_not_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(3000)
    table = pa.table(
        {"request_id": numbers.astype(str), "user_id": numbers % 50, "item_id": numbers, "time_ms": numbers}
    )
    pq.write_table(table, tmp_path / "i.parquet", row_group_size=100)
    groups: list[int] = []
    read_row_group = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        groups.append(group)
        return read_row_group(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    source = ParquetSource({"impressions": [tmp_path / "i.parquet"]}, 4)
    source.next_batch(250)
    assert groups == [0, 1]
    drain(source, 250)
    assert groups == list(range(30))
