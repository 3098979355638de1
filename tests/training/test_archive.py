"""The archive: what was added, once each, in the order of training, by hour; whatever a worker's end."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flushing import killed_once_flushed
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.batches.examples import Example, example_schema, to_batch, to_rows
from recsys.errors import DataError, ServiceError
from recsys.features.declarations import Feature
from recsys.features.packing import pack
from recsys.training.archive import Archive, cut_archive, read_archive
from recsys.training.fit import recorded_batches

FEATURES = (
    Feature(name="user", kind="id", source="user.id", num_embeddings=10),
    Feature(name="liked", kind="bag", source="user.likes", table="item"),
    Feature(name="odds", kind="number", source="user.like_log_odds"),
)
HOUR_MS = 3_600_000


def rows_of(numbers: Sequence[int], emitted_ms: Sequence[int]) -> pa.RecordBatch:
    """Example n of user n % 10, who likes n % 3 things."""
    examples = []
    for number, at in zip(numbers, emitted_ms, strict=True):
        values = pack([[number % 10], list(range(number % 3)), number / 7])
        examples.append(Example(f"r{number}", number % 10, str(number), at - 5, at, float(number % 2), values))
    return to_rows(examples, example_schema(FEATURES), 0).rows


def write(folder: Path, steps: Sequence[Sequence[int]], *, worker: int = 0, after: int = 0, min_rows: int = 0) -> None:
    """Steps of examples; example n is emitted in minute n."""
    archive = Archive(folder, FEATURES, worker=worker, min_rows=min_rows)
    for step, numbers in enumerate(steps, after + 1):
        archive.add(step, rows_of(numbers, [60_000 * number for number in numbers]))
    archive.close()


def requests(folder: Path) -> list[str]:
    return [str(request) for request in read_archive(folder, FEATURES).column("request_id").to_pylist()]


def files(folder: Path) -> dict[str, int]:
    """Rows, by hour, of all that a reader of the folder sees."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("**/*.parquet")):
        assert not path.name.startswith(".")
        found[path.parent.name] = found.get(path.parent.name, 0) + pq.read_metadata(path).num_rows
    return found


def test_what_is_read_is_what_was_learned_to_the_bit(tmp_path: Path) -> None:
    steps = [list(range(0, 50)), list(range(50, 130)), list(range(130, 150))]
    write(tmp_path, steps)
    table = read_archive(tmp_path, FEATURES)
    assert table.column("step").to_pylist() == [1] * 50 + [2] * 80 + [3] * 20
    assert table.column("position").to_pylist() == [*range(50), *range(80), *range(20)]
    every = rows_of(range(150), [60_000 * number for number in range(150)])
    assert table.drop_columns(["step", "worker", "position"]).equals(pa.Table.from_batches([every]))
    mine = list(recorded_batches(table, FEATURES))[1]
    theirs = to_batch(rows_of(range(50, 130), range(80)), FEATURES)
    np.testing.assert_array_equal(mine.bags["liked"].ids_N, theirs.bags["liked"].ids_N)
    np.testing.assert_array_equal(mine.bags["liked"].offsets, theirs.bags["liked"].offsets)
    np.testing.assert_array_equal(mine.numbers_BM, theirs.numbers_BM)


def test_every_folder_holds_the_examples_emitted_in_its_hour(tmp_path: Path) -> None:
    write(tmp_path, [list(range(start, start + 25)) for start in range(0, 200, 25)])
    assert files(tmp_path) == {
        "hour=1970-01-01T00": 60,
        "hour=1970-01-01T01": 60,
        "hour=1970-01-01T02": 60,
        "hour=1970-01-01T03": 20,
    }
    for path in tmp_path.glob("hour=*/*.parquet"):
        hours = {at // HOUR_MS for at in pq.ParquetFile(path).read().column("emitted_ms").to_pylist()}
        assert hours == {int(path.parent.name[-2:])}
    assert len(list(tmp_path.glob("hour=*/*"))) == 4  # and no more files than hours
    assert requests(tmp_path) == [f"r{number}" for number in range(200)]


def test_small_files_go_on_into_the_next_hours(tmp_path: Path) -> None:
    write(tmp_path, [list(range(start, start + 25)) for start in range(0, 400, 25)], min_rows=100)
    assert files(tmp_path) == {"hour=1970-01-01T00": 120, "hour=1970-01-01T02": 120, "hour=1970-01-01T04": 120} | {
        "hour=1970-01-01T06": 40
    }
    assert requests(tmp_path) == [f"r{number}" for number in range(400)]


def test_an_old_file_ends_with_its_hour_however_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.training.archive._PATIENCE_SECONDS", -1.0)
    write(tmp_path, [[0, 59], [60, 61]], min_rows=1000)
    assert files(tmp_path) == {"hour=1970-01-01T00": 2, "hour=1970-01-01T01": 2}


def test_a_long_hour_is_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.training.archive._MOST_ROWS", 10)
    write(tmp_path, [list(range(start, start + 4)) for start in range(0, 48, 4)])
    assert sorted(pq.read_metadata(path).num_rows for path in tmp_path.glob("hour=*/*")) == [12, 12, 12, 12]
    assert requests(tmp_path) == [f"r{number}" for number in range(48)]


def test_by_step_then_worker_then_position(tmp_path: Path) -> None:
    write(tmp_path, [[0, 1], [2]], worker=0)
    write(tmp_path, [[10], [12, 11]], worker=1)
    write(tmp_path, [[20]], worker=0, after=2)
    assert requests(tmp_path) == ["r0", "r1", "r10", "r2", "r12", "r11", "r20"]


cuts = st.lists(st.lists(st.integers(0, 500), max_size=6), min_size=1, max_size=8)


@settings(max_examples=25)
@given(cuts, st.integers(0, 8), st.integers(0, 20))
def test_a_run_that_went_back_has_the_archive_of_one_that_did_not(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[int]], back_to: int, min_rows: int
) -> None:
    """Whatever the hours, which go back and forth here, and wherever files end."""
    folder, back_to = tmp_path_factory.mktemp("archive"), min(back_to, len(steps))
    write(folder, steps, min_rows=min_rows)
    dropped = cut_archive(folder, after=back_to)
    assert dropped == sum(len(step) for step in steps[back_to:])
    write(folder, steps[back_to:], after=back_to, min_rows=min_rows)
    expected = [f"r{number}" for step in steps for number in step]
    assert (requests(folder) if expected else []) == expected
    assert not list(folder.glob("**/.*"))


def test_a_killed_workers_archive_is_set_out_as_far_as_it_was_flushed(tmp_path: Path) -> None:
    source = """
import sys, time
from pathlib import Path
from test_archive import FEATURES, Archive, rows_of
archive = Archive(Path(sys.argv[1]), FEATURES, min_rows=5)
for step in range(1, 5):
    archive.add(step, rows_of(range(3 * step, 3 * step + 3), [3_600_000 * step] * 3))
archive.flush()
archive.add(5, rows_of([99], [3_600_000 * 4]))
print("flushed", flush=True)
time.sleep(60)
"""
    killed_once_flushed(source, tmp_path)
    for path in tmp_path.glob(".worker*"):  # and half a message
        path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff\x40\x01\x00\x00 half")
    assert cut_archive(tmp_path, after=3) == 3
    assert requests(tmp_path) == [f"r{number}" for number in range(3, 12)]
    assert files(tmp_path) == {"hour=1970-01-01T01": 6, "hour=1970-01-01T03": 3}
    assert cut_archive(tmp_path, after=0) == 9
    assert list(tmp_path.iterdir()) == []


def test_a_worker_cut_off_between_publishing_and_removing_gives_no_example_twice(tmp_path: Path) -> None:
    archive = Archive(tmp_path, FEATURES)
    archive.add(1, rows_of([1, 2], [0, 1]))
    archive.flush()
    (begun,) = tmp_path.iterdir()
    held = begun.read_bytes()
    archive.close()
    begun.write_bytes(held)  # as if it had not been removed yet
    assert cut_archive(tmp_path, after=1) == 0
    assert requests(tmp_path) == ["r1", "r2"]
    write(tmp_path, [[1, 2], [3]])  # a step that a worker in another's place repeats
    assert requests(tmp_path) == ["r1", "r2", "r3"]


def test_memory_is_flat_and_nothing_is_seen_half(tmp_path: Path) -> None:
    archive = Archive(tmp_path, FEATURES, min_rows=10**9)
    rows = rows_of(range(1000), range(1000))
    sizes = []
    for step in range(1, 41):
        archive.add(step, rows)
        sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))
        assert files(tmp_path) == {}
    assert sizes[8] < sizes[20] < sizes[39]
    archive.close()
    assert files(tmp_path) == {"hour=1970-01-01T00": 40_000}


def test_what_is_no_archive_or_of_other_features_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no archive in .*; give the folder archive of an online run"):
        read_archive(tmp_path, FEATURES)
    write(tmp_path, [[1]])
    others = (FEATURES[0], Feature(name="liked", kind="bag", source="user.shown"), *FEATURES[2:])
    with pytest.raises(DataError, match=r"joined with other features than data.features: liked; train with those"):
        read_archive(tmp_path, others)
    larger = (Feature(name="user", kind="id", source="user.id", num_embeddings=99), *FEATURES[1:])
    assert read_archive(tmp_path, larger).num_rows == 1  # the size of a table changes no value
    (path,) = tmp_path.glob("hour=*/*")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{path} can not be read"):
        read_archive(tmp_path, FEATURES)


def test_an_archive_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("in the way")
    archive = Archive(tmp_path / "archive", FEATURES)
    with pytest.raises(ServiceError, match=r"could not write the archive .*archive.enabled=false"):
        archive.add(1, rows_of([1], [1]))
