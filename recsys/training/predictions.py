"""The record of a run: every example's prediction, made before it was learned, as Parquet.

Written as the run goes, so that memory stays flat and an audit can count by request id what was trained.

Shape suffixes: B examples of a batch, N predictions of a run.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.batches.batch import LabelledBatch
from recsys.hashing import Floats, id_text

_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("time_ms", pa.int64()),
        ("label", pa.float32()),
        ("probability", pa.float32()),
    ]
)
_ROWS_PER_GROUP = 8192


class PredictionLog:
    """Appends predictions to one file; it is readable after ``close``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, _SCHEMA)
        self._waiting: list[pa.RecordBatch] = []
        self._num_waiting = 0

    def add(self, batch: LabelledBatch, probabilities_B: Floats) -> None:
        """The predictions of one batch, in the order of the batch."""
        columns = [
            pa.array(batch.request_ids),
            pa.array([id_text(id_) for id_ in batch.user_ids]),
            pa.array([id_text(id_) for id_ in batch.item_ids]),
            pa.array(batch.times_ms_B),
            pa.array(batch.labels_B),
            pa.array(probabilities_B),
        ]
        self._waiting.append(pa.record_batch(columns, schema=_SCHEMA))
        self._num_waiting += batch.num_examples
        if self._num_waiting >= _ROWS_PER_GROUP:
            self._write()

    def close(self) -> None:
        """Finish the file."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
        self._waiting, self._num_waiting = [], 0


def read_predictions(paths: Sequence[Path]) -> pa.Table:
    """All predictions; of several workers in the order of event time, of one in the order learned.

    ``user_id`` and ``item_id`` are unions of int64 and string: 7 and "7" come back as they were.
    """
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    if len(paths) > 1:
        table = table.sort_by("time_ms")
    for name in ("user_id", "item_id"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, _ids(table.column(name).combine_chunks()))
    return table


def _ids(texts_N: pa.Array) -> pa.Array:
    """The ids that ``id_text`` wrote."""
    quoted_N = pc.starts_with(texts_N, '"')
    numbers = texts_N.filter(pc.invert(quoted_N)).cast(pa.int64())
    strings = pc.utf8_slice_codeunits(texts_N.filter(quoted_N), 1)
    is_string_N = quoted_N.to_numpy(zero_copy_only=False)
    at_N = np.where(is_string_N, np.cumsum(is_string_N), np.cumsum(~is_string_N)) - 1
    kinds_N, at_N = pa.array(is_string_N.astype(np.int8)), pa.array(at_N.astype(np.int32))
    return pa.UnionArray.from_dense(kinds_N, at_N, [numbers, strings], ["number", "string"])
