"""One typed Parquet file of events: checked, split by partition, decoded a few rows at a time.

Shape suffix: N rows of a row group, P partitions, M rows to decode.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.events import ACTIONS, FACTS, IMPRESSIONS, Action, Event, Facts, Impression, Owner
from recsys.hashing import to_id
from recsys.streams.partitioner import partitions_of

Ints = npt.NDArray[np.int64]
_COLUMNS: dict[str, tuple[Callable[..., Event], tuple[str, ...]]] = {
    IMPRESSIONS: (Impression, ("request_id", "user_id", "item_id", "time_ms")),
    ACTIONS: (Action, ("request_id", "user_id", "kind", "time_ms")),
}
_TIME = "time_ms"
_TOPICS = ", ".join([*_COLUMNS, FACTS])


class EventFile:
    """A Parquet file of one topic's events, read by row group; two groups stay in memory.

    Raises DataError, naming the file, for a file that can not be read, a column that is missing or of
    another type, a null where none may be, and a row whose ``time_ms`` is less than that of the row before.
    """

    def __init__(self, path: Path, topic: str, num_partitions: int) -> None:
        self.path = path
        self._topic = topic
        self._num_partitions = num_partitions
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            message = f"{path}: can not be read as Parquet ({str(error).splitlines()[0]})"
            raise DataError(message) from error
        self.num_groups = self._file.num_row_groups
        self._key = self._check_columns()
        self._last_time = [-1] * (self.num_groups + 1)  # of the groups before each group, as far as they were read
        self._counts_P: Ints | None = None
        self._group = lru_cache(maxsize=2)(self._read_group)

    def _check_columns(self) -> str:
        """Check names and types; return the column that the partition is a hash of."""
        names = self._file.schema_arrow.names
        if self._topic == FACTS:
            key = "user_id" if "user_id" in names else "item_id"
            needed: tuple[str, ...] = (key, _TIME, *(name for name in names if name not in (key, _TIME)))
        elif self._topic in _COLUMNS:
            key, needed = "user_id", _COLUMNS[self._topic][1]
        else:
            message = f"{self.path}: no columns are known for topic {self._topic!r}; use {_TOPICS}"
            raise DataError(message)
        for column in needed:
            self._check_column(column, names)
        return key

    def _check_column(self, column: str, names: list[str]) -> None:
        if column not in names:
            message = f"{self.path}: column {column!r} of {self._topic} is missing; it has {', '.join(names)}"
            raise DataError(message)
        found = self._file.schema_arrow.field(column).type
        if column == _TIME:
            fits, wanted = _is_int(found), "int64"
        elif column in ("user_id", "item_id"):
            fits, wanted = _is_int(found) or _is_text(found), "int64 or string"
        elif self._topic == FACTS:
            fits, wanted = _is_fact(found), "integers, floats, strings, or lists of integers or strings"
        else:
            fits, wanted = _is_text(found), "string"
        if not fits:
            message = f"{self.path}: column {column!r} has type {found}; it must be {wanted}"
            raise DataError(message)

    def rows_of(self, group: int, partition: int) -> tuple[Ints, Ints]:
        """Row numbers within the group and times of the rows of one partition, in the order of the file."""
        _, rows_by_partition, times_N = self._group(group)
        rows_N = rows_by_partition[partition]
        return rows_N, times_N[rows_N]

    def events(self, group: int, rows_M: Ints) -> list[Event]:
        """The events of some rows of a group."""
        table = self._group(group)[0].take(rows_M)
        if self._topic == FACTS:
            return list(self._facts(table))
        kind, names = _COLUMNS[self._topic]
        return list(map(kind, *(_values(table[name]) for name in names)))

    def _facts(self, table: pa.Table) -> Iterable[Facts]:
        of: Owner = "user" if self._key == "user_id" else "item"
        columns = {name: _values(table[name]) for name in table.column_names if name not in (self._key, _TIME)}
        ids, times = _values(table[self._key]), _values(table[_TIME])
        for row, (id, time_ms) in enumerate(zip(ids, times, strict=True)):
            facts = {name: values[row] for name, values in columns.items() if values[row] is not None}
            yield Facts(of=of, id=id, time_ms=time_ms, facts=facts)

    def _read_group(self, group: int) -> tuple[pa.Table, list[Ints], Ints]:
        table = self._file.read_row_group(group)
        self._check_nulls(group, table)
        times_N = self._check_sorted(group, table)
        partition_N = self._partitions(table)
        order_N = np.argsort(partition_N, kind="stable")
        ends_P = np.cumsum(np.bincount(partition_N, minlength=self._num_partitions))
        return table, np.split(order_N, ends_P[:-1]), times_N

    def _check_nulls(self, group: int, table: pa.Table) -> None:
        needed = (self._key, _TIME) if self._topic == FACTS else _COLUMNS[self._topic][1]
        for name in needed:
            if table[name].null_count:
                row = self._first_row(group) + int(np.flatnonzero(table[name].is_null().to_numpy())[0])
                message = f"{self.path}: row {row}: {name} is null"
                raise DataError(message)

    def _check_sorted(self, group: int, table: pa.Table) -> Ints:
        times_N = _int64(table[_TIME])
        before_N = np.concatenate([[self._last_time[group]], times_N])
        unsorted = np.flatnonzero(before_N[1:] < before_N[:-1])
        if len(unsorted):
            row, time_ms, before = int(unsorted[0]), int(times_N[unsorted[0]]), int(before_N[unsorted[0]])
            message = (
                f"{self.path}: row {self._first_row(group) + row}: time_ms {time_ms} after {before};"
                " sort the file by time_ms (times are 0 or more)"
            )
            raise DataError(message)
        self._last_time[group + 1] = int(before_N[-1])
        return times_N

    def _first_row(self, group: int) -> int:
        return sum(self._file.metadata.row_group(before).num_rows for before in range(group))

    def _partitions(self, table: pa.Table) -> Ints:
        keys = table[self._key]
        if pa.types.is_integer(keys.type):
            return partitions_of(_int64(keys), self._num_partitions)
        encoded = keys.combine_chunks().dictionary_encode()
        ids = np.array([to_id(text) for text in encoded.dictionary.to_pylist()], dtype=np.int64)
        return partitions_of(ids, self._num_partitions)[encoded.indices.to_numpy()]

    def num_rows_of_partitions(self) -> Ints:
        """How many rows each partition has, of shape (P,); reads the key column through when first asked."""
        if self._counts_P is None:
            counts_P = np.zeros(self._num_partitions, dtype=np.int64)
            for group in range(self.num_groups):
                partition_N = self._partitions(self._file.read_row_group(group, columns=[self._key]))
                counts_P += np.bincount(partition_N, minlength=self._num_partitions)
            self._counts_P = counts_P
        return self._counts_P

    def close(self) -> None:
        """Close the file and forget its rows."""
        self._group.cache_clear()
        self._file.close()


def _is_int(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and not pa.types.is_uint64(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_fact(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_int(kind.value_type) or _is_text(kind.value_type)
    return _is_int(kind) or _is_text(kind) or pa.types.is_floating(kind)


def _int64(column: pa.ChunkedArray) -> Ints:
    return column.cast(pa.int64()).to_numpy()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The column as Python values; numpy is the faster way for numbers without nulls."""
    if pa.types.is_integer(column.type) and not column.null_count:
        return column.to_numpy().tolist()
    return column.to_pylist()
