"""The log of predictions: everything that was added, in order, however batches are cut and a worker ends."""

import dataclasses
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from flushing import killed_once_flushed
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.batch import KeepRates, LabelledBatch
from recsys.errors import DataError
from recsys.training.predictions import PredictionLog, drop_predictions, read_predictions


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


def write(folder: Path, sizes: Sequence[int], first: int = 0, *, worker: int = 0, after: int = 0) -> None:
    log = PredictionLog(folder, worker=worker, step=after)
    for step, size in enumerate(sizes, after + 1):
        log.add(step, batch_of(first, size), probabilities_of(first, size))
        first += size
    log.close()


def requests(folder: Path) -> list[str]:
    return [str(request) for request in read_predictions(folder).column("request_id").to_pylist()]


def test_what_is_read_is_what_was_added(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write(folder, [3, 1])
    table = read_predictions(folder)
    assert table.to_pydict() == {
        "request_id": ["r0", "r1", "r2", "r3"],
        "user_id": ["0", 1, 2, "3"],
        "item_id": [0, -1, -2, -3],
        "time_ms": [0, 10, 20, 30],
        "label": [0.0, 1.0, 0.0, 1.0],
        "probability": probabilities_of(0, 4).tolist(),
        "keep_rate": [1.0, 1.0, 1.0, 1.0],
        "new_user": [True, True, True, True],
        "new_item": [True, True, True, True],
    }
    assert table.schema.field("probability").type == pa.float32()
    assert table.schema.field("time_ms").type == pa.int64()


def test_the_rate_that_an_example_was_kept_by_goes_with_its_prediction(tmp_path: Path) -> None:
    own_B, ones_B = np.array([0.25, 1, 0.25], np.float32), np.ones(3, np.float32)
    batch = dataclasses.replace(batch_of(0, 3), rates=KeepRates(own_B, ones_B, 0.25 * ones_B))
    with closing(PredictionLog(tmp_path)) as log:
        log.add(1, batch, probabilities_of(0, 3))
    assert read_predictions(tmp_path).column("keep_rate").to_pylist() == [0.25, 1.0, 0.25]


def test_nothing_added_is_an_empty_table_and_no_log_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no predictions in"):
        read_predictions(tmp_path)
    write(tmp_path, [])
    assert read_predictions(tmp_path).num_rows == 0
    assert read_predictions(tmp_path).column_names[0] == "request_id"
    write(tmp_path, [0, 2, 0], worker=1)
    assert read_predictions(tmp_path).num_rows == 2


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 3000), max_size=6))
def test_nothing_is_lost_between_writes(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    folder = tmp_path_factory.mktemp("log")
    write(folder, sizes)
    table = read_predictions(folder)
    total = sum(sizes)
    assert table.column("time_ms").to_pylist() == list(range(0, 10 * total, 10))
    np.testing.assert_array_equal(table.column("probability").to_numpy(), probabilities_of(0, total))


def test_rows_leave_memory_as_the_run_goes(tmp_path: Path) -> None:
    log = PredictionLog(tmp_path)
    sizes = []
    for number in range(40):
        log.add(number + 1, batch_of(1000 * number, 1000), probabilities_of(0, 1000))
        sizes.append(next(tmp_path.iterdir()).stat().st_size)
    assert sizes[20] > sizes[10] > sizes[0]
    log.close()


def test_by_step_and_within_a_step_by_worker(tmp_path: Path) -> None:
    write(tmp_path, [2, 1], first=0, worker=0)
    write(tmp_path, [1, 2], first=10, worker=1)
    write(tmp_path, [1], first=20, worker=0, after=2)  # the first worker, started again
    assert requests(tmp_path) == ["r0", "r1", "r10", "r2", "r11", "r12", "r20"]


def test_going_back_to_a_step_drops_what_came_after(tmp_path: Path) -> None:
    write(tmp_path, [2, 1, 3], first=0, worker=0)
    write(tmp_path, [1], first=10, worker=1, after=2)
    assert drop_predictions(tmp_path, after=2) == 4
    assert requests(tmp_path) == ["r0", "r1", "r2"]
    write(tmp_path, [3], first=3, worker=0, after=2)
    assert requests(tmp_path) == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert drop_predictions(tmp_path, after=0) == 6
    with pytest.raises(DataError):
        read_predictions(tmp_path)


def test_what_was_flushed_survives_a_kill_and_half_a_message_does_no_harm(tmp_path: Path) -> None:
    write(tmp_path, [2], first=0)
    source = """
import sys, time
from pathlib import Path
from test_predictions import PredictionLog, batch_of, probabilities_of
log = PredictionLog(Path(sys.argv[1]), worker=1)
log.add(1, batch_of(10, 3), probabilities_of(0, 3))
log.flush()
log.add(2, batch_of(20, 3), probabilities_of(0, 3))
print("flushed", flush=True)
time.sleep(60)
"""
    killed_once_flushed(source, tmp_path)
    assert requests(tmp_path) == ["r0", "r1", "r10", "r11", "r12"]
    path = max(tmp_path.iterdir())
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff\x40\x01\x00\x00 half")
    assert requests(tmp_path) == ["r0", "r1", "r10", "r11", "r12"]


def test_integers_and_strings_are_different_ids(tmp_path: Path) -> None:
    """An item 7 and an item "7" are two to the model, and must be two to the baseline that it is compared with."""
    ids: list[int | str] = [7, "7", '"7', "", -(2**63), 2**63 - 1, "ü", "007"]
    batch = dataclasses.replace(batch_of(0, len(ids)), user_ids=ids, item_ids=ids[::-1])
    log = PredictionLog(tmp_path)
    log.add(1, batch, probabilities_of(0, len(ids)))
    log.close()
    table = read_predictions(tmp_path)
    assert table.column("user_id").to_pylist() == ids
    assert table.column("item_id").to_pylist() == ids[::-1]


def test_a_worker_that_takes_over_before_the_first_step_has_a_file_of_its_own(tmp_path: Path) -> None:
    """Its predecessor, killed, had opened one after the same step; what lies in that stays."""
    first, second = (PredictionLog(tmp_path, worker=1, step=4) for _ in range(2))
    first.add(5, batch_of(0, 2), probabilities_of(0, 2))
    first.flush()
    third = PredictionLog(tmp_path, worker=1, step=4)
    third.add(6, batch_of(2, 1), probabilities_of(2, 1))
    for log in (first, second, third):
        log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "worker-0001-after-000000000004-again-1.arrow",
        "worker-0001-after-000000000004-again-2.arrow",
        "worker-0001-after-000000000004.arrow",
    ]
    assert requests(tmp_path) == ["r0", "r1", "r2"]
    assert drop_predictions(tmp_path, after=5) == 1
    assert requests(tmp_path) == ["r0", "r1"]
