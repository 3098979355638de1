"""The log of predictions: everything that was added, in order, whatever the sizes of the batches."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.batch import LabelledBatch
from recsys.training.predictions import PredictionLog, read_predictions


def batch_of(first: int, size: int, step_ms: int = 10, start_ms: int = 0) -> LabelledBatch:
    numbers = range(first, first + size)
    return LabelledBatch(
        bags={},
        numbers_BM=np.zeros((size, 0), np.float32),
        labels_B=np.array([number % 2 for number in numbers], np.float32),
        weights_B=np.ones(size, np.float32),
        request_ids=[f"r{number}" for number in numbers],
        user_ids=[number if number % 3 else str(number) for number in numbers],
        item_ids=[-number for number in numbers],
        times_ms_B=np.array([start_ms + step_ms * number for number in numbers], np.int64),
        read_at_ms_B=np.zeros(size, np.int64),
    )


def probabilities_of(first: int, size: int) -> np.ndarray:
    return np.linspace(0, 1, 1000, dtype=np.float32)[np.arange(first, first + size) % 1000]


def write(path: Path, sizes: Sequence[int], first: int = 0, **times: int) -> None:
    log = PredictionLog(path)
    for size in sizes:
        log.add(batch_of(first, size, **times), probabilities_of(first, size))
        first += size
    log.close()


def test_what_is_read_is_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "predictions.parquet"
    write(path, [3, 1])
    table = read_predictions([path])
    assert table.to_pydict() == {
        "request_id": ["r0", "r1", "r2", "r3"],
        "user_id": ["0", 1, 2, "3"],
        "item_id": [0, -1, -2, -3],
        "time_ms": [0, 10, 20, 30],
        "label": [0.0, 1.0, 0.0, 1.0],
        "probability": probabilities_of(0, 4).tolist(),
    }
    assert table.schema.field("probability").type == pa.float32()
    assert table.schema.field("time_ms").type == pa.int64()


def test_nothing_added_is_an_empty_table(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [])
    write(tmp_path / "b.parquet", [0, 2, 0])
    assert read_predictions([tmp_path / "a.parquet"]).num_rows == 0
    assert read_predictions([tmp_path / "a.parquet"]).column_names[0] == "request_id"
    assert read_predictions([tmp_path / "a.parquet", tmp_path / "b.parquet"]).num_rows == 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=6))
def test_nothing_is_lost_between_row_groups(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("log") / "predictions.parquet"
    write(path, sizes)
    table = read_predictions([path])
    total = sum(sizes)
    assert table.column("time_ms").to_pylist() == list(range(0, 10 * total, 10))
    np.testing.assert_array_equal(table.column("probability").to_numpy(), probabilities_of(0, total))


def test_rows_leave_memory_as_the_run_goes(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    log = PredictionLog(path)
    sizes = []
    for number in range(40):
        log.add(batch_of(1000 * number, 1000), probabilities_of(0, 1000))
        sizes.append(path.stat().st_size)
    assert sizes[20] > sizes[10] > sizes[0]
    log.close()
    assert pq.ParquetFile(path).num_row_groups == 5  # 9 batches reach 8192 rows: 4 times, and the rest


def test_of_several_workers_by_event_time_of_one_as_learned(tmp_path: Path) -> None:
    """The second worker's partition came from later to earlier: its own order is that of learning."""
    write(tmp_path / "a.parquet", [3], first=0, step_ms=10, start_ms=5)
    write(tmp_path / "b.parquet", [3], first=3, step_ms=-10, start_ms=50)
    assert read_predictions([tmp_path / "b.parquet"]).column("time_ms").to_pylist() == [20, 10, 0]
    both = read_predictions([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert both.column("time_ms").to_pylist() == [0, 5, 10, 15, 20, 25]
    assert both.column("request_id").to_pylist() == ["r5", "r0", "r4", "r1", "r3", "r2"]
    assert both.column("user_id").to_pylist() == [5, "0", 4, 1, "3", 2]
    assert both.column("probability").to_pylist() == [
        probabilities_of(int(request[1:]), 1)[0] for request in both.column("request_id").to_pylist()
    ]


def test_integers_and_strings_are_different_ids(tmp_path: Path) -> None:
    """An item 7 and an item "7" are two to the model, and must be two to the baseline that it is compared with."""
    ids: list[int | str] = [7, "7", '"7', "", -(2**63), 2**63 - 1, "ü", "007"]
    batch = dataclasses.replace(batch_of(0, len(ids)), user_ids=ids, item_ids=ids[::-1])
    log = PredictionLog(tmp_path / "a.parquet")
    log.add(batch, probabilities_of(0, len(ids)))
    log.close()
    table = read_predictions([tmp_path / "a.parquet"])
    assert table.column("user_id").to_pylist() == ids
    assert table.column("item_id").to_pylist() == ids[::-1]


def test_another_run_replaces_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [5])
    write(tmp_path / "a.parquet", [2], first=10)
    assert read_predictions([tmp_path / "a.parquet"]).column("request_id").to_pylist() == ["r10", "r11"]
