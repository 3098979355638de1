"""The joined stream as workers learned it, in Parquet files by event hour: what batch training reads.

::

    archive/hour=2026-01-31T12/worker-0000-000017.parquet   the eighteenth file of that worker
    archive/.worker-0000-000018.arrow                       being written; hidden from those who read the folder

A row is a joined example with its ``step``, its ``worker`` and its ``position`` in that worker's batch: in that order
they are the order of training, each exactly once. The hour is the one in which an example was emitted, in UTC: that is
when its label became final, so hours fill up one after the other and are complete when the stream has passed them, and
it is the order in which examples are learned. A file ends with its hour, unless that would leave files of a few rows:
see ``Archiving``.

Rows are appended to a hidden Arrow file and set out as Parquet when that is whole, in the background: a file is there
whole or not at all, and memory stays flat. A run that goes back to a step takes its archive along (``cut_archive``).
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError, ServiceError
from recsys.features.declarations import Feature
from recsys.fields import AtLeast

ORDER = ("step", "worker", "position")
_FEATURES = b"features"
_HOUR_MS = 3_600_000
_ROWS_PER_WRITE, _ROWS_PER_GROUP = 4096, 65_536
_MOST_ROWS = 500_000  # of a file
_PATIENCE_SECONDS = 600.0  # after which a file ends with its hour, however small


@dataclass(frozen=True, kw_only=True)
class Archiving:
    """Whether what is learned is archived. A file of fewer than ``min_rows`` goes on into the next hours.

    That is for recorded streams, which pass many hours in a second: a file that was begun 10 minutes ago ends with its
    hour in any case. With 0 every folder holds its own hour alone.
    """

    enabled: bool = True
    min_rows: Annotated[int, AtLeast(0)] = 10_000


class Archive:
    """Appends what one worker learns to files of its own in ``folder``."""

    def __init__(self, folder: Path, features: Sequence[Feature], *, worker: int = 0, min_rows: int = 0) -> None:
        self._folder, self._features, self._worker, self._min_rows = folder, features, worker, min_rows
        self._next_file = _next_number(folder, worker)
        self._open: _Begun | None = None
        self._sealing: Future[int] | None = None
        self._background = ThreadPoolExecutor(1, thread_name_prefix="archive")

    def add(self, step: int, rows: pa.RecordBatch | pa.Table) -> None:
        """The examples of one step, in the order of the batch; ServiceError where they can not be written."""
        with _told(self._folder):
            marked = self._marked(step, rows)
            for start, end in pairwise(_hour_edges(rows)):
                part = marked.slice(start, end - start)
                hour = int(part.column("emitted_ms")[0].as_py()) // _HOUR_MS
                if self._open is not None and self._is_whole(self._open, hour):
                    self._end()
                if self._open is None:
                    self._open = self._begin(part.schema)
                self._open.add(part, hour)

    def flush(self) -> None:
        """Whatever becomes of this process, what was added is kept."""
        with _told(self._folder):
            if self._open is not None:
                self._open.flush()

    def close(self) -> None:
        """Set out what is left, and wait for it."""
        with _told(self._folder):
            self._end()
            self._settle()
        self._background.shutdown()

    def _is_whole(self, begun: "_Begun", hour: int) -> bool:
        if begun.num_rows >= _MOST_ROWS:
            return True
        is_due = begun.num_rows >= self._min_rows or time.monotonic() - begun.at > _PATIENCE_SECONDS
        return hour != begun.hour and is_due

    def _begin(self, schema: pa.Schema) -> "_Begun":
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f".worker-{self._worker:04}-{self._next_file:06}.arrow"
        self._next_file += 1
        return _Begun(path, schema)

    def _end(self) -> None:
        """Finish the open file; one at a time is set out."""
        begun, self._open = self._open, None
        if begun is not None:
            begun.close()
            self._settle()
            self._sealing = self._background.submit(_seal, begun.path)

    def _settle(self) -> None:
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    def _marked(self, step: int, rows: pa.RecordBatch | pa.Table) -> pa.Table:
        """The rows with their place in the order of training; the schema says what their features are."""
        num = rows.num_rows
        columns = [
            pa.array(np.full(num, step)),
            pa.array(np.full(num, self._worker, np.int32)),
            pa.array(np.arange(num, dtype=np.int32)),
        ]
        table = pa.table([*columns, *rows.columns], names=[*ORDER, *rows.schema.names])
        return table.replace_schema_metadata({_FEATURES: _described(self._features)})


class _Begun:
    """A hidden Arrow file that rows are appended to."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self.hour = -1  # of the rows added last
        self.num_rows, self.at = 0, time.monotonic()
        self._file = self.path.open("xb")
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add(self, rows: pa.Table, hour: int) -> None:
        self.hour = hour
        self._waiting.append(rows)
        self._num_waiting += rows.num_rows
        self.num_rows += rows.num_rows
        if self._num_waiting >= _ROWS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        waiting, self._waiting, self._num_waiting = self._waiting, [], 0
        if waiting:
            self._writer.write_table(pa.concat_tables(waiting).combine_chunks())
        self._file.flush()

    def close(self) -> None:
        self.flush()
        self._writer.close()
        self._file.close()


def cut_archive(folder: Path, after: int | None = None) -> int:
    """Go back to a step: examples of later ones were not learned. Returns how many were dropped.

    Nobody writes meanwhile. What workers that were killed had begun is set out as far as it goes; None drops nothing.
    """
    with _told(folder):
        dropped = sum(_seal(path, after) for path in sorted(folder.glob(".worker-*.arrow")))
        if after is not None:
            dropped += sum(_cut(path, after) for path in _files(folder) if _last(path) > after)
    return dropped


def read_archive(folder: Path, features: Sequence[Feature]) -> pa.Table:
    """Everything that was learned, in the order of training; with ``step``, ``worker`` and ``position``.

    DataError where there is nothing, a file can not be read, or the features were made in another way than these.
    """
    files = _files(folder)
    if not files:
        raise DataError(f"no archive in {folder}; give the folder archive of an online run that has learned something")
    tables = [_read(path, features) for path in files]
    table = pa.concat_tables(tables, promote_options="default")
    return _once_each(table.sort_by([(name, "ascending") for name in ORDER]))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("hour=*/worker-*.parquet"))


def _read(path: Path, features: Sequence[Feature]) -> pa.Table:
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} can not be read ({str(error).splitlines()[0]}); restore it, or leave it out"
        ) from error
    archived = {feature["name"]: feature for feature in json.loads((table.schema.metadata or {}).get(_FEATURES, "[]"))}
    others = [f.name for f in features if archived.get(f.name) != json.loads(_described([f]))[0]]
    if others:
        raise DataError(
            f"{path} was joined with other features than data.features: {', '.join(others)}; train with those that the "
            "online run had (they are in its .hydra/config.yaml)"
        )
    return table.replace_schema_metadata(None)


def _once_each(table: pa.Table) -> pa.Table:
    """Without what was written twice: a worker that takes a lost one's place may repeat its last step."""
    places_N3 = np.stack([table.column(name).to_numpy() for name in ORDER], axis=1)
    is_another_N = np.append(True, (places_N3[1:] != places_N3[:-1]).any(axis=1))
    return table if is_another_N.all() else table.filter(pa.array(is_another_N))


def _described(features: Sequence[Feature]) -> str:
    """What of a feature decides its values: not the table that it reads, nor how large that is."""
    made_of = ("name", "kind", "source", "vocabulary", "max_length")
    return json.dumps([{field: getattr(feature, field) for field in made_of} for feature in features])


def _next_number(folder: Path, worker: int) -> int:
    """The number of a worker's next file: looked for once a start, as an archive may have thousands of them."""
    begun = folder.glob(f".worker-{worker:04}-*.arrow")
    written = folder.glob(f"hour=*/worker-{worker:04}-*.parquet")
    return 1 + max((int(path.stem.split("-")[2]) for path in (*begun, *written)), default=-1)


def _hour_edges(rows: pa.RecordBatch | pa.Table) -> list[int]:
    """Where a batch is cut so that each part was emitted in one hour: from 0 to its number of rows."""
    hours_B = rows.column("emitted_ms").to_numpy() // _HOUR_MS
    return [0, *(1 + np.flatnonzero(np.diff(hours_B))).tolist(), len(hours_B)] if len(hours_B) else []


# --- setting out


def _seal(path: Path, after: int | None = None) -> int:
    """Set out a hidden file as Parquet, up to a step, and remove it; returns how many rows were dropped.

    Where that was cut off before the removal, the Parquet file is there and whole: once more gives it again.
    """
    rows = _whole_batches(path)
    first = next(rows, None)
    if first is None:
        path.unlink()
        return 0
    hour = datetime.fromtimestamp(first.column("emitted_ms")[0].as_py() / 1000, UTC)
    target = path.parent / f"hour={hour:%Y-%m-%dT%H}" / f"{path.stem.removeprefix('.')}.parquet"
    target.parent.mkdir(exist_ok=True)
    dropped = _write(target, first.schema, chain([first], rows), after)
    path.unlink()
    return dropped


def _cut(path: Path, after: int) -> int:
    file = pq.ParquetFile(path)
    return _write(path, file.schema_arrow, file.iter_batches(_ROWS_PER_GROUP), after)


def _write(path: Path, schema: pa.Schema, rows: Iterator[pa.RecordBatch], after: int | None) -> int:
    """A Parquet file of the rows up to a step, there when it is whole; none where there are no such rows."""
    beside = path.with_name(f".{path.name}.writing")
    kept = dropped = 0
    with pq.ParquetWriter(beside, schema, compression="zstd") as writer:
        for table in _grouped(rows):
            within = table if after is None else table.filter(pc.field("step") <= after)
            dropped += table.num_rows - within.num_rows
            kept += within.num_rows
            writer.write_table(within)
    if kept:
        _to_disk(beside)
        os.replace(beside, path)
    else:
        beside.unlink()
        path.unlink(missing_ok=True)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    return dropped


def _grouped(rows: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of as many rows as a row group has."""
    waiting: list[pa.RecordBatch] = []
    for batch in rows:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= _ROWS_PER_GROUP:
            yield pa.Table.from_batches(waiting)
            waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def _whole_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """What was written whole: a worker that was killed may have left half a message at the end."""
    with path.open("rb") as file:
        try:
            with pa.ipc.open_stream(file) as reader:
                for batch in reader:
                    batch.validate(full=True)
                    yield batch
        except (pa.ArrowInvalid, OSError):
            return


def _last(path: Path) -> int:
    """The last step in a file."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(at).column(0).statistics.max for at in range(metadata.num_row_groups)]
    return int(max(groups))


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What a write meets is one line that names the archive."""
    try:
        yield
    except OSError as error:
        raise ServiceError(
            f"could not write the archive {folder}: {error}; make room, or go on without it: archive.enabled=false"
        ) from error
