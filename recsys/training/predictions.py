"""The record of a run: every example's prediction, made before it was learned.

Written as the run goes, so that memory stays flat and an audit can count by request id what was trained. One file a
start of a worker, of Arrow record batches one after the other: what was flushed is there, however the worker ends. Each
prediction carries its step, so that a run which goes back to a step drops those after it; and the rate that sampling
kept its example by, for metrics of the whole stream.

Shape suffixes: B examples of a batch, N predictions of a run.
"""

import os
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.batches.batch import LabelledBatch
from recsys.errors import DataError
from recsys.hashing import Floats, id_text
from recsys.training.slices import OF, are_new, read_seen, write_seen

_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("time_ms", pa.int64()),
        ("label", pa.float32()),
        ("probability", pa.float32()),
        ("keep_rate", pa.float32()),
    ]
)
_ROWS_PER_WRITE = 8192


class PredictionLog:
    """Appends a worker's predictions to a file of its own in ``folder``.

    One that takes the place of another which began after the same step has another file: that one may still write.
    """

    def __init__(self, folder: Path, *, worker: int = 0, step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _new_file(folder, f"worker-{worker:04}-after-{step:012}")
        self._writer = pa.ipc.new_stream(self._file, _SCHEMA)
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0

    def add(self, step: int, batch: LabelledBatch, probabilities_B: Floats) -> None:
        """The predictions of one step, in the order of the batch."""
        columns = [
            pa.array(np.full(batch.num_examples, step)),
            pa.array(batch.request_ids, pa.string()),
            pa.array([id_text(id_) for id_ in batch.user_ids], pa.string()),
            pa.array([id_text(id_) for id_ in batch.item_ids], pa.string()),
            pa.array(batch.times_ms_B),
            pa.array(batch.labels_B),
            pa.array(probabilities_B),
            pa.array(batch.keep_rates_B),
        ]
        self._waiting.append(pa.record_batch(columns, schema=_SCHEMA))
        self._num_waiting += batch.num_examples
        if self._num_waiting >= _ROWS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        """Whatever becomes of this process, what was added can be read."""
        waiting, self._waiting, self._num_waiting = self._waiting, [], 0
        if waiting:
            self._writer.write_table(pa.Table.from_batches(waiting).combine_chunks())
        self._file.flush()

    @property
    def closed(self) -> bool:
        """Whether the file is finished."""
        return self._file.closed

    def close(self) -> None:
        """Finish the file."""
        self.flush()
        self._writer.close()
        self._file.close()


def read_predictions(folder: Path) -> pa.Table:
    """All predictions in the order of their steps, those of one step in worker order; DataError where there are none.

    ``user_id`` and ``item_id`` are unions of int64 and string: 7 and "7" come back as they were. ``new_user`` and
    ``new_item`` say whether an example of theirs had been learned before; see ``slices``.
    """
    table = _all(folder)
    if table is None:
        raise DataError(f"no predictions in {folder}; give the folder of a run that has learned something")
    table = table.take(pc.sort_indices(table, [("step", "ascending")])).combine_chunks()
    steps_N, seen = table.column("step").to_numpy(), read_seen(folder)
    for of in OF:
        ids_N = table.column(f"{of}_id").combine_chunks()
        table = table.append_column(f"new_{of}", pa.array(are_new(steps_N, ids_N, seen[of])))
        table = table.set_column(table.schema.get_field_index(f"{of}_id"), f"{of}_id", _ids(ids_N))
    return table.drop_columns("step")


def carry_seen(before: Path, folder: Path) -> None:
    """Let a run that writes to ``folder`` know whom one that wrote to ``before`` had learned of by its end."""
    seen, learned = read_seen(before), _all(before)
    if learned is not None:
        seen = {of: pa.concat_arrays([ids, *learned.column(f"{of}_id").chunks]) for of, ids in seen.items()}
    write_seen(folder, seen)


def drop_predictions(folder: Path, after: int) -> int:
    """Go back to a step: predictions of later ones were not made. Returns how many were dropped."""
    dropped = 0
    for path in _files(folder):
        table = _read(path)
        kept = table.filter(pc.field("step") <= after)
        dropped += table.num_rows - kept.num_rows
        if kept.num_rows == 0:
            path.unlink()
            continue
        beside = path.with_suffix(".writing")
        with pa.OSFile(str(beside), "wb") as file, pa.ipc.new_stream(file, _SCHEMA) as writer:
            writer.write_table(kept)
        os.replace(beside, path)
    return dropped


def _new_file(folder: Path, name: str) -> BinaryIO:
    """The first of ``name.arrow``, ``name-again-1.arrow``, … that nobody has."""
    for again in count():
        try:
            return (folder / f"{name}{f'-again-{again}' if again else ''}.arrow").open("xb")
        except FileExistsError:
            continue
    raise AssertionError("count never ends")


def _all(folder: Path) -> pa.Table | None:
    """Every prediction, those of a worker in order; None where nobody wrote any."""
    paths = _files(folder)
    return pa.concat_tables([_read(path) for path in paths]) if paths else None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("worker-*.arrow"))


def _read(path: Path) -> pa.Table:
    """What was written whole: a worker that was killed may have left half a message at the end."""
    batches: list[pa.RecordBatch] = []
    try:
        with pa.ipc.open_stream(path.read_bytes()) as reader:
            for batch in reader:
                batch.validate(full=True)
                batches.append(batch)
    except (pa.ArrowInvalid, OSError):
        pass
    return pa.Table.from_batches(batches, _SCHEMA)


def _ids(texts_N: pa.Array) -> pa.Array:
    """The ids that ``id_text`` wrote."""
    quoted_N = pc.starts_with(texts_N, '"')
    numbers = texts_N.filter(pc.invert(quoted_N)).cast(pa.int64())
    strings = pc.utf8_slice_codeunits(texts_N.filter(quoted_N), 1)
    is_string_N = quoted_N.to_numpy(zero_copy_only=False)
    at_N = np.where(is_string_N, np.cumsum(is_string_N), np.cumsum(~is_string_N)) - 1
    kinds_N, at_N = pa.array(is_string_N.astype(np.int8)), pa.array(at_N.astype(np.int32))
    return pa.UnionArray.from_dense(kinds_N, at_N, [numbers, strings], ["number", "string"])
